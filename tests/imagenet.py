"""The real classifier and photos. They are not part of the repository: tests that need them skip where they are absent.

``CAMSERVE_TESTS_REQUIRE_IMAGENET=1`` turns the skip into a failure, so that CI cannot pass without them.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("CAMSERVE_TESTS_IMAGENET") or Path(__file__).parents[2] / "shared" / "imagenet")
MODEL = f"squeezenet1_0:{FOLDER / 'squeezenet1_0.safetensors'},labels={FOLDER / 'labels.txt'}"


@dataclass(frozen=True)
class Photo:
    """A photo and the class that the model gives it."""

    path: Path
    index: int
    label: str
    width: int
    height: int


@cache
def photos() -> tuple[Photo, ...]:
    """All photos; skips the test where there are none."""
    table = FOLDER / "photos.csv"
    if not table.is_file():
        message = f"no ImageNet test data in {FOLDER}"
        if os.environ.get("CAMSERVE_TESTS_REQUIRE_IMAGENET"):
            pytest.fail(message)
        pytest.skip(message)
    with table.open(newline="") as stream:
        return tuple(
            Photo(
                FOLDER / "photos" / row["file"],
                int(row["class_index"]),
                row["label"],
                int(row["width"]),
                int(row["height"]),
            )
            for row in csv.DictReader(stream)
        )
