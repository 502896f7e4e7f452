"""Pictures whose maps lie alike, found without being told what to look for, the way SpRAy does.

Lapuschkin et al., https://doi.org/10.1038/s41467-019-08987-4: spectral clustering of heatmaps; a group whose maps share
a place that is not the object shows a shortcut. Maps are compared by how much of their mass lies at the same places;
each is tied to its few nearest; the number of groups is where the eigenvalues of the graph's Laplacian leap. How much
the maps of a group have in common is held against the same maps put elsewhere by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LEAST", "Group", "groups_of"]

LEAST = 10
"""Maps, fewer than which are not grouped."""

_MOST_GROUPS, _CONTROLS, _STARTS, _MOVES = 12, 19, 4, 50
_EVENLY = 1 / 3  # how far from the middle a map lies that is the same everywhere


@dataclass(frozen=True, eq=False)
class Group:
    """A group of maps.

    Attributes:
        members: their numbers.
        mean: their mean (h, w), each map's sum being 1.
        alike: the mean share of two members' mass that lies at the same places, 0 to 1.
        chance: in how many of the groupings of maps put elsewhere a group was as large and as alike, and this one; of
            20.
    """

    members: tuple[int, ...]
    mean: NDArray[np.float64]
    alike: float
    chance: int

    @property
    def beyond_chance(self) -> bool:
        """Whether no grouping of maps put elsewhere has its like: p = 0.05."""
        return self.chance == 1

    @cached_property
    def from_middle(self) -> float:
        """How far from the middle its maps lie: 0 in the middle, ½ at the border, ⅓ if they are the same everywhere."""
        rows, columns = (np.abs((np.arange(size) + 0.5) / size - 0.5) for size in self.mean.shape)
        return float((self.mean * np.maximum(rows[:, None], columns)).sum() / self.mean.sum())

    @property
    def beside_the_middle(self) -> bool:
        """Whether its maps lie further out than one that is the same everywhere."""
        return self.from_middle > _EVENLY

    @property
    def place(self) -> tuple[float, float]:
        """Where the mean is highest: x and y, in shares of the model's input."""
        row, column = np.unravel_index(int(self.mean.argmax()), self.mean.shape)
        return (float(column) + 0.5) / self.mean.shape[1], (float(row) + 0.5) / self.mean.shape[0]


def groups_of(maps: NDArray[Any], seed: int) -> list[Group]:
    """Group maps; none where there are fewer than ten.

    Args:
        maps: (n, h, w), at least 0 everywhere and each with something above.
        seed: what all chance follows from.

    Returns:
        The groups, the largest first; each map is in one.
    """
    if len(maps) < LEAST:
        return []
    shares = maps.astype(np.float64) / maps.sum(axis=(1, 2), keepdims=True, dtype=np.float64)
    found = _grouped(shares, np.random.default_rng(seed))
    controls = [_control(shares, np.random.default_rng([seed, number])) for number in range(_CONTROLS)]
    groups = []
    for members, alike in found:
        as_good = (any(len(other) >= len(members) and it >= alike for other, it in control) for control in controls)
        groups.append(Group(tuple(members), shares[members].mean(axis=0), alike, 1 + sum(as_good)))
    return sorted(groups, key=lambda group: (-len(group.members), group.members))


_Grouping = list[tuple[list[int], float]]


def _control(shares: NDArray[np.float64], rng: np.random.Generator) -> _Grouping:
    """Group the same maps put elsewhere: as sparse, as smooth, and of nothing in common but by chance."""
    by = (rng.integers(0, size, len(shares)) for size in shares.shape[1:])
    rolled = [np.roll(each, (down, right), axis=(0, 1)) for each, down, right in zip(shares, *by, strict=True)]
    return _grouped(np.stack(rolled), rng)


def _grouped(shares: NDArray[np.float64], rng: np.random.Generator) -> _Grouping:
    """Return the members of each group, and how much their maps have in common."""
    common = _common(shares)
    places = _spectral(_nearest(common))
    labels = _k_means(places, rng)
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        pairs = len(members) * (len(members) - 1)
        total = common[np.ix_(members, members)].sum()
        found.append((members.tolist(), float(total / pairs) if pairs else 0.0))
    return found


def _common(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of every two maps' mass that lies at the same places, (n, n); 0 of a map and itself.

    It is what ``service.imaging.difference.moved`` leaves, for all pairs.
    """
    flat = shares.reshape(len(shares), -1)
    found = np.array([np.minimum(flat, row).sum(axis=1) for row in flat])
    np.fill_diagonal(found, 0)
    return found


def _nearest(common: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the graph in which each map is tied to those it has most in common with, about log2(n) of them."""
    count = max(3, round(np.log2(len(common))))
    kept = np.argsort(-common, axis=1, kind="stable")[:, :count]
    ties = np.zeros_like(common)
    np.put_along_axis(ties, kept, np.take_along_axis(common, kept, axis=1), axis=1)
    return np.maximum(ties, ties.T)


def _spectral(ties: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a place for each node (n, k), where k groups lie apart (Ng, Jordan, Weiss).

    ``k`` is where the eigenvalues leap: a graph of k parts has k that are 0.
    """
    degrees = np.maximum(ties.sum(axis=1), 1e-12)
    laplacian = np.eye(len(ties)) - ties / np.sqrt(np.outer(degrees, degrees))
    values, vectors = np.linalg.eigh(laplacian)
    most = min(_MOST_GROUPS, len(ties) // 3)
    count = int(np.diff(values[: most + 1]).argmax()) + 1
    chosen = vectors[:, :count]
    return np.asarray(chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12))


def _k_means(places: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the group of each place (n, k), of k: the best of a few starts."""
    tried = [_settled(places, _start(places, rng)) for _ in range(_STARTS)]
    return min(tried, key=lambda each: each[0])[1]


def _start(places: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Choose centres far from each other (k-means++)."""
    centres = [places[rng.integers(len(places))]]
    while len(centres) < places.shape[1]:
        away = np.min([((places - centre) ** 2).sum(axis=1) for centre in centres], axis=0)
        odds = away / away.sum() if away.sum() > 0 else None
        centres.append(places[rng.choice(len(places), p=odds)])
    return np.array(centres)


def _settled(places: NDArray[np.float64], centres: NDArray[np.float64]) -> tuple[float, NDArray[np.intp]]:
    """Move centres to the middle of what is nearest to them until they stay; return the cost, and whose each is."""
    for _ in range(_MOVES):
        distances = ((places[:, None] - centres) ** 2).sum(axis=2)  # (n, k)
        nearest = distances.argmin(axis=1)
        groups = [places[nearest == label] for label in range(len(centres))]
        filled = np.array([each.mean(axis=0) if len(each) else c for each, c in zip(groups, centres, strict=True)])
        if np.allclose(filled, centres):
            break
        centres = filled
    return float(distances.min(axis=1).sum()), nearest
