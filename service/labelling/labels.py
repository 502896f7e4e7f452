"""Which classes of a model the labels of a project mean."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import UnknownLabel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from service.models.info import ModelInfo

__all__ = ["Meaning", "ProjectLabel", "meanings"]


@dataclass(frozen=True)
class ProjectLabel:
    """A label of a labelling project.

    Attributes:
        value: how it stands in annotations.
        names: what else it is called there, ``value`` first.
    """

    value: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Meaning:
    """A label, and the classes that it means, none if the model knows nothing like it."""

    label: ProjectLabel
    classes: tuple[int, ...]


def meanings(
    labels: Iterable[ProjectLabel], info: ModelInfo, mapping: Mapping[str, Sequence[int | str]]
) -> list[Meaning]:
    """Find the classes of labels.

    What the model's configuration says counts first, then a label as it is written, then one that differs in case,
    white space, underscores or hyphens.

    Args:
        labels: of the project.
        info: the model.
        mapping: by label, the classes that it means, each a label of the model or an index.
    """
    finder = _Finder(info, mapping)
    return [Meaning(label, finder.classes(label)) for label in labels]


class _Finder:
    def __init__(self, info: ModelInfo, mapping: Mapping[str, Sequence[int | str]]) -> None:
        self._info = info
        self._mapping = [dict(mapping), {_folded(name): classes for name, classes in mapping.items()}]
        self._exact: dict[str, list[int]] = {}
        self._alike: dict[str, list[int]] = {}
        for index, name in enumerate(info.labels):
            self._exact.setdefault(name, []).append(index)
            self._alike.setdefault(_folded(name), []).append(index)

    def classes(self, label: ProjectLabel) -> tuple[int, ...]:
        """Return what a label means."""
        names, folded = label.names, [_folded(name) for name in label.names]
        for mapping, spelt in zip(self._mapping, (names, folded), strict=True):
            if named := next((mapping[name] for name in spelt if name in mapping), None):
                return self._known(named)
        for known, spelt in ((self._exact, names), (self._alike, folded)):
            if found := next((known[name] for name in spelt if name in known), None):
                return tuple(found)
        return ()

    def _known(self, named: Sequence[int | str]) -> tuple[int, ...]:
        """Look up the classes of a mapping; those that the model does not have are left out."""
        found: list[int] = []
        for name in named:
            try:
                found.append(self._info.class_index(name))
            except UnknownLabel:
                continue
        return tuple(dict.fromkeys(found))


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(plain.replace("_", " ").replace("-", " ").split())
