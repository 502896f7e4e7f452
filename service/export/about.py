"""What the writers of an export are told besides its records, and how all of them write their files."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import Any, TypeAlias

    from service.export.records import Record

    Records: TypeAlias = Callable[[], Iterable[Record]]

__all__ = ["About", "Shapes", "category_ids", "replaced", "write_list"]

Shapes = Literal["boxes", "regions", "masks"]
"""What of each area is written: its box, its outline, or its pixels."""


@dataclass(frozen=True)
class About:
    """What an export is of.

    Attributes:
        folder: where the pictures are.
        model: name of the model.
        version: of all that decides what the answers are: model, weights, layer, method and threshold, in one text.
        labels: of the model's classes.
        shapes: what of each area is written.
        image_url: what stands before a picture's path where a format names pictures by address.
    """

    folder: Path
    model: str
    version: str
    labels: tuple[str, ...]
    shapes: Shapes
    image_url: str


@contextmanager
def replaced(path: Path) -> Iterator[IO[str]]:
    """Open a file for writing that takes the place of ``path`` once it is whole, and not before."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        yield file
    part.replace(path)


def write_list(file: IO[str], items: Iterable[Any]) -> None:
    """Write a list of JSON, one item a line; no more than one item is held."""
    file.write("[")
    for number, item in enumerate(items):
        file.write(",\n" if number else "\n")
        file.write(json.dumps(item, ensure_ascii=False))
    file.write("\n]")


def category_ids(labels: Iterable[str]) -> dict[str, int]:
    """Number the labels from 1, each once: some models have one twice."""
    return {label: number for number, label in enumerate(dict.fromkeys(labels), start=1)}
