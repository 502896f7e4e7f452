"""The files of an evaluation, in a folder of its own that nobody else can read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FOUND", "REPORT", "RESULT", "replace_text"]

FOUND, RESULT, REPORT = "found", "result.json", "report.html"
"""What was found step by step; what came out, as JSON; the same as a page."""


def replace_text(file: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    beside = file.with_name(f"{file.name}.new")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)
