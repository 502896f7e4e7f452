"""The grid pointing game: in a mosaic of pictures of other classes, does the map of a class lie on its own picture?

Böhle et al., https://arxiv.org/abs/2104.00032; Rao et al., https://arxiv.org/abs/2205.10435. Needs nothing marked:
where each class is follows from how the mosaic was laid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CELLS", "Mosaic", "laid_out", "mosaics_of", "share_in_cell"]

CELLS = 4  # two by two


@dataclass(frozen=True)
class Mosaic:
    """Which pictures, by number, lie in the cells of a mosaic, row by row, and which of these cells are scored."""

    pictures: tuple[int, ...]
    scored: tuple[int, ...]


def mosaics_of(classes: Sequence[int], rounds: int, rng: np.random.Generator) -> list[Mosaic]:
    """Lay mosaics so that each picture is scored about ``rounds`` times, with pictures of other classes around it.

    A cell is scored if no other cell shows its class. There are no mosaics of a single class.

    Args:
        classes: of the pictures, as the model sees them.
        rounds: how often.
        rng: decides who is with whom.
    """
    if len(set(classes)) < 2:
        return []
    scored = [0] * len(classes)
    found: list[Mosaic] = []
    for _ in range(rounds):
        for picture in rng.permutation(len(classes)).tolist():
            if scored[picture] <= min(scored):
                mosaic = _around(picture, classes, scored, rng)
                found.append(mosaic)
                for cell in mosaic.scored:
                    scored[mosaic.pictures[cell]] += 1
    return found


def _around(picture: int, classes: Sequence[int], scored: Sequence[int], rng: np.random.Generator) -> Mosaic:
    """Lay a mosaic with a picture and those that were scored least, of as many classes as there are."""
    chosen = [picture]
    order = sorted(rng.permutation(len(classes)).tolist(), key=lambda index: scored[index])
    others = [index for index in order if classes[index] != classes[picture]]
    while len(chosen) < CELLS:
        seen = {classes[index] for index in chosen}
        fresh = [index for index in others if classes[index] not in seen]
        unused = [index for index in others if index not in chosen]
        chosen.append((fresh or unused or others)[0])
    placed = rng.permutation(chosen).tolist()
    shown = [classes[index] for index in placed]
    return Mosaic(tuple(placed), tuple(cell for cell in range(CELLS) if shown.count(shown[cell]) == 1))


def laid_out(pixels: NDArray[Any]) -> NDArray[Any]:
    """Lay four pictures (4, h, w, …), row by row, into one (2h, 2w, …)."""
    return np.concatenate([np.concatenate(list(pixels[row : row + 2]), axis=1) for row in (0, 2)], axis=0)


def share_in_cell(evidence: NDArray[Any], cell: int) -> float:
    """Return the share of a mosaic's map (h, w), at least 0 everywhere, in a cell; a zero map scores as chance."""
    height, width = evidence.shape
    total = float(evidence.sum())
    if total <= 0:
        return 1 / CELLS
    row, column = divmod(cell, 2)
    rows = slice(row * (height // 2), (row + 1) * (height // 2) if row == 0 else height)
    columns = slice(column * (width // 2), (column + 1) * (width // 2) if column == 0 else width)
    return float(evidence[rows, columns].sum()) / total
