"""Class labels from a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_labels"]


def read_labels(file: Path) -> tuple[str, ...]:
    """Read labels: one per line, a JSON list, or a JSON object from index to label (or to [id, label]).

    Raises:
        ModelLoadError: the file is missing, empty or of another shape.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows editors begin a file with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"The labels file {file} cannot be read: {error}.") from error
    labels = _from_json(file, text) if file.suffix == ".json" else [line.strip() for line in text.splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    if not labels or not all(labels):
        raise ModelLoadError(f"The labels file {file} must hold one label per line, none of them empty.")
    return tuple(labels)


def _from_json(file: Path, text: str) -> list[str]:
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            content = [content[str(index)] for index in range(len(content))]
        if not isinstance(content, list):
            raise TypeError(type(content).__name__)
        # The customary imagenet_class_index.json maps an index to [WordNet id, label].
        return [str(entry[-1] if isinstance(entry, list) else entry) for entry in content]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelLoadError(
            f"The labels file {file} must hold a JSON list, or an object from index to label."
        ) from error
