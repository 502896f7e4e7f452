"""The files of a model, and a mark of them: whatever changes in one, the mark differs. Nothing is read but ONNX graphs.

Runs in the front process.
"""

from __future__ import annotations

import mmap
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from service.settings import ModelConfig

__all__ = ["Mark", "files_of", "mark", "texts_in"]

_MOST_FILES = 10_000  # of a folder that is a model

Mark = tuple[tuple[str, int, int, int], ...]
"""Path, inode, bytes and time of change of each file of a model: whatever changes in them, it differs."""

# In an ONNX graph, an entry of external_data: the key "location", and the value that says how many bytes it has.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x1f])", re.DOTALL)


def files_of(config: ModelConfig) -> list[Path]:
    """Return the files that a configuration names and that there are, with those that hold an ONNX graph's weights."""
    labels = config.labels.values() if isinstance(config.labels, dict) else [config.labels]
    texts = [config.architecture, config.weights, *labels, *texts_in(config.factory_args)]
    named = [path for text in texts if text and _is_there(path := Path(text))]
    return [*named, *(beside for path in named for beside in _external(path))]


def texts_in(value: object) -> Iterator[str]:
    """Return every text in a table or list, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds what no name does
        return False


def _external(path: Path) -> Iterator[Path]:
    """Return the files that hold the weights of an ONNX graph, beside it."""
    if path.suffix.lower() != ".onnx":
        return
    try:
        stat = path.stat()
        names = _locations(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError):  # gone meanwhile, a folder, or empty
        return
    for name in names:
        if not Path(name).is_absolute() and ".." not in Path(name).parts:  # others are refused when it is loaded
            yield path.parent / name


@lru_cache(maxsize=256)
def _locations(path: Path, *_unchanged: int) -> tuple[str, ...]:
    """Return the names in a graph, which is not parsed: its library is heavy, and may not be there."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        found = [(match.end(), _number(match[1])) for match in _LOCATION.finditer(graph)]
        names = {graph[begin : begin + length] for begin, length in found}
    return tuple(sorted(name.decode() for name in names if b"\0" not in name))


def _number(digits: bytes) -> int:
    """Read a varint: seven bits a byte, the lowest first."""
    return sum((digit & 0x7F) << 7 * place for place, digit in enumerate(digits))


def mark(files: Iterable[Path]) -> Mark:
    """Return the mark of files and of what folders hold; one that is not there has one, too."""
    stats = []
    for file in {each for path in files for each in _within(path)}:
        try:
            stat = file.stat()
        except OSError:  # it has just gone, or leads nowhere
            stats.append((str(file), 0, 0, 0))
        else:
            stats.append((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(stats))


def _within(path: Path) -> Iterator[Path]:
    """Return a file, or the files in a folder."""
    if not path.is_dir():
        yield path
        return
    count = 0
    for folder, _, names in os.walk(path):
        for name in names:
            yield Path(folder, name)
            count += 1
            if count == _MOST_FILES:
                return
