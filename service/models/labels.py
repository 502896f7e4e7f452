"""Class labels from a file: lines, CSV, JSON or YAML, told by its suffix."""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["read_labels"]

_KINDS = "Labels are read from .txt, .names, .csv, .tsv, .json, .yaml and .yml."


# What no text file holds: control characters other than tabs and ends of lines.
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1f\x7f]")


class _UnreadableLabels(ValueError):
    """The file has another shape; the message goes on after "The labels file … "."""


def read_labels(file: Path) -> tuple[str, ...]:
    """Read the label of every class, in the order of their indices.

    - ``.txt``, ``.names`` or no suffix: a label per line, which may be numbered (``0: cat``).
    - ``.csv``, ``.tsv``: a column of labels, with or without a header, and if there is one, a column of indices.
    - ``.json``, ``.yaml``: a list, an object from index to label or from label to index, or one that holds such as
      ``id2label``, ``names``, ``classes`` and the like.

    Raises:
        ModelLoadError: the file is missing, empty or of another shape; the message says which is meant.
    """
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise ModelLoadError(f"The labels file {file.name} is of no kind that holds labels. {_KINDS}")
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows editors begin a file with a byte order mark
        if _NO_TEXT.search(text):
            raise _UnreadableLabels("holds bytes that are no text: is it UTF-16, or a table of Excel? Save it as UTF-8")
        labels = read(text)
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"The labels file {file.name} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise ModelLoadError(f"The labels file {file} cannot be read: {error.strerror}.") from error
    except _UnreadableLabels as error:
        raise ModelLoadError(f"The labels file {file.name} {error}.") from error
    while labels and not labels[-1]:
        labels.pop()
    if not labels or not all(labels):
        raise ModelLoadError(f"The labels file {file.name} must hold a label for every class, none of them empty.")
    return tuple(labels)


def _from_lines(text: str) -> list[str]:
    """Read a label per line; lines may be numbered, and a dict or list of Python is what it looks like."""
    whole = text.strip()
    if whole[:1] + whole[-1:] in {"{}", "[]"}:
        return _from_yaml(whole)
    lines = [line.strip() for line in text.splitlines()]
    if len(whole.splitlines()) == 1 and re.search(r"[,;\t]", whole):
        raise _UnreadableLabels("is one line; write each label on a line of its own")
    found = _numbered(whole.splitlines())
    return lines if found is None else _by_index(found)


# How lines are numbered in front: 0: cat, 0) cat, 0. cat, 0 - cat, 0 -> cat, 0 cat; and behind: cat: 0, cat<tab>0.
_MARKED = re.compile(r"(\d+)(?:\s*[:;,=\t)]|\.(?=\s)|\s+-+>?(?=\s))\s*(.+)")
_SPACED = re.compile(r"(\d+)\s+(.+)")
_BEHIND = re.compile(r"(?P<label>.+?)\s*[:;,=\t]\s*(?P<index>\d+)")


def _numbered(lines: Sequence[str]) -> list[tuple[str, str]] | None:
    """Part lines into indices and labels where every line has its own index; None where they are labels as they are.

    A space alone may belong to a label, as in "0 people, 1 person", which no two labels share.
    """
    for pattern in (_MARKED, _SPACED, _BEHIND):
        matches = [match for line in lines if (match := pattern.fullmatch(line.strip()))]
        if not matches or len(matches) < len(lines):
            continue
        pairs = [(match["index"], match["label"]) if pattern is _BEHIND else (match[1], match[2]) for match in matches]
        indices, labels = zip(*pairs, strict=True)
        if _are_indices(indices) and (pattern is _MARKED or len(set(labels)) == len(labels)):
            return pairs
        if pattern is _MARKED and _are_indices([str(int(index) - 1) for index in indices]):
            raise _UnreadableLabels(_other_numbers(indices))
    return None


# -- tables -----------------------------------------------------------------------------------------------------------

# How columns of labels are called, the likeliest first.
_HEADERS = ("label", "labels", "class_name", "classname", "class name", "name", "names", "class", "classes", "category")


# And those of indices.
_NUMBERS = frozenset(
    {"", "id", "ids", "index", "idx", "#", "no", "nr", "number", "class_id", "classid", "label_id", "class_index"}
)


def _from_csv(text: str) -> list[str]:
    first, _, rest = text.partition("\n")
    if said := re.fullmatch(r"sep=(.)\s*", first, re.IGNORECASE):  # as Excel writes it, and reads no other
        return _from_table(rest, said[1])
    return _from_table(text, max(",;\t", key=first.count))


def _from_tsv(text: str) -> list[str]:
    return _from_table(text, "\t")


def _from_table(text: str, delimiter: str) -> list[str]:
    try:
        rows = [[cell.strip() for cell in row] for row in _cells(text, delimiter) if any(row)]
    except csv.Error as error:
        raise _UnreadableLabels(f"is no table: {error}") from error
    if not rows:
        return []
    if len({len(row) for row in rows}) > 1:
        raise _UnreadableLabels("has rows of different lengths; put labels that hold a comma into quotes")
    header, rows = _part_header(rows)
    columns = list(zip(*rows, strict=True))
    _refuse_other_numbers(header, columns)
    indices = next((column for column in columns if _are_indices(column)), None)
    texts = [column for column in columns if column is not indices]
    if not texts:
        raise _UnreadableLabels("has no column of labels")
    labels = texts[0] if len(texts) == 1 else _named_column(header, columns)
    return _by_index(zip(indices, labels, strict=True)) if indices else list(labels)


def _cells(text: str, delimiter: str) -> Iterator[list[str]]:
    # A space before a quotation mark would make it part of the label.
    return csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True)


def _refuse_other_numbers(header: Sequence[str], columns: Sequence[tuple[str, ...]]) -> None:
    """Refuse a column that numbers labels otherwise than from 0, each once: the order of lines is no better guess."""
    for number, column in enumerate(columns):
        named = header[number].casefold() if number < len(header) else ""
        numbers = len(columns) > 1 and named in _NUMBERS and all(_index(cell) is not None for cell in column)
        if numbers and not _are_indices(column):
            raise _UnreadableLabels(_other_numbers(column))


def _other_numbers(numbers: Sequence[str]) -> str:
    return (
        f"numbers its labels {', '.join(numbers[:3])}, …; number them from 0, each once, in the order of the model's "
        "outputs"
    )


def _part_header(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Take off a first row that names the columns, or that stands above a column of indices."""
    first, rest = rows[0], rows[1:]
    named = any(cell.casefold() in _HEADERS for cell in first)
    below = zip(first, zip(*rest, strict=True), strict=False)
    above = any(not re.fullmatch(r"-?\d+", cell) and _are_indices(column) for cell, column in below)
    return (first, rest) if rest and (named or above) else ([], rows)


def _named_column(header: Sequence[str], columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    named = {cell.casefold(): column for cell, column in zip(header, columns, strict=False) if not _are_indices(column)}
    found = next((named[name] for name in _HEADERS if name in named), None)
    if found is None:
        raise _UnreadableLabels("has several columns; call that of the labels 'label' in the first row")
    return found


def _are_indices(cells: Sequence[object]) -> bool:
    """Whether they are the numbers from 0, each once, in any order."""
    numbers = [_index(cell) for cell in cells]
    return bool(numbers) and sorted(number if number is not None else -1 for number in numbers) == list(
        range(len(cells))
    )


def _index(cell: object) -> int | None:
    if isinstance(cell, bool):
        return None
    if isinstance(cell, int):
        return cell
    return int(cell) if isinstance(cell, str) and cell.isdecimal() and len(cell) < 10 else None


def _by_index(pairs: Any) -> list[str]:
    return [label for _, label in sorted((int(index), label) for index, label in pairs)]


# -- objects ----------------------------------------------------------------------------------------------------------

# What holds the labels in a larger object: the config.json of Hugging Face and of timm, data.yaml of YOLO, COCO.
_HOLDERS = (
    "id2label",
    "idx_to_class",
    "label2id",
    "class_to_idx",
    "label_names",
    "class_names",
    "labels",
    "names",
    "classes",
    "categories",
)
_SHAPES = (
    'must hold a list of labels, an object from index to label such as {"0": "cat"}, or from label to index such as '
    '{"cat": 0}, with indices from 0'
)


def _from_json(text: str) -> list[str]:
    try:
        return _from_object(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise _UnreadableLabels(f"is not JSON ({error})") from error


def _from_yaml(text: str) -> list[str]:
    try:
        # Everything stays text: a class that is called "no" is not False.
        return _from_object(yaml.load(text, yaml.BaseLoader))  # noqa: S506  # it makes no objects at all
    except (yaml.YAMLError, RecursionError) as error:
        raise _UnreadableLabels(f"is not YAML ({' '.join(str(error).split())})") from error


def _from_object(content: object) -> list[str]:
    if isinstance(content, list):
        return _from_list(content)
    if not isinstance(content, dict):
        raise _UnreadableLabels(_SHAPES)
    if _are_categories(content.get("categories")):
        # COCO's ids begin at 1 and have gaps; classifiers count them in their order.
        return [_label(row["name"]) for row in sorted(content["categories"], key=lambda row: int(row["id"]))]
    if held := next((content[name] for name in _HOLDERS if isinstance(content.get(name), list | dict)), None):
        return _from_object(held)
    return _from_mapping(content)


def _are_categories(rows: object) -> bool:
    """Whether they are the categories of a COCO file, each with an id of its own."""
    if not (isinstance(rows, list) and rows and all(isinstance(row, dict) and "name" in row for row in rows)):
        return False
    ids = [_index(row.get("id")) for row in rows]
    return None not in ids and len(set(ids)) == len(ids)


def _from_list(content: list[Any]) -> list[str]:
    """Read labels, or objects such as ``{"id": 0, "name": "cat"}``."""
    if pairs := _with_numbers(content):
        return _by_index(pairs)
    if not all(isinstance(entry, dict) for entry in content):
        return [_label(entry) for entry in content]
    labels = [
        next((entry[name] for name in ("name", "label", "class_name") if name in entry), None) for entry in content
    ]
    ids = [next((entry[name] for name in ("id", "index", "idx") if name in entry), None) for entry in content]
    if any(each is not None for each in ids):
        return _from_mapping(dict(zip(ids, labels, strict=True)))
    return [_label(label) for label in labels]


def _with_numbers(content: list[Any]) -> list[tuple[int, str]]:
    """Return index and label of pairs that hold both, in either order; nothing where they do not."""
    if not all(isinstance(entry, list) and len(entry) == 2 for entry in content):
        return []
    for index, label in ((0, 1), (1, 0)):
        numbers = [entry[index] for entry in content]
        if not any(isinstance(number, str) for number in numbers) and _are_indices(numbers):
            return [(number, _label(entry[label])) for number, entry in zip(numbers, content, strict=True)]
    return []


def _from_mapping(content: Mapping[Any, Any]) -> list[str]:
    if _are_indices(list(content.values())) and not all(isinstance(value, str) for value in content.values()):
        return _by_index((index, str(label)) for label, index in content.items())
    if _are_indices(list(content)):
        return _by_index((index, _label(label)) for index, label in content.items())
    if _are_indices(list(content.values())):
        return _by_index((index, str(label)) for label, index in content.items())
    if content:
        raise _UnreadableLabels(_SHAPES)
    return []


def _label(entry: object) -> str:
    """Return one label; the customary imagenet_class_index.json has [WordNet id, label] in its place."""
    if isinstance(entry, list) and entry:
        entry = entry[-1]
    if isinstance(entry, bool) or not isinstance(entry, str | int | float):
        raise _UnreadableLabels(_SHAPES)
    return str(entry).strip()


_READERS: dict[str, Callable[[str], list[str]]] = {
    "": _from_lines,
    ".txt": _from_lines,
    ".names": _from_lines,
    ".csv": _from_csv,
    ".tsv": _from_tsv,
    ".json": _from_json,
    ".yaml": _from_yaml,
    ".yml": _from_yaml,
}
