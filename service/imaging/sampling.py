"""The one place where a map is read between its cells.

In *cell coordinates* cell j of a map (h, w) spans [j, j + 1), and its value belongs to its centre, j + 0.5. Where that
lies in the model's input is said by a ``Placement``. Between centres the map is bilinear; beyond the outermost ones it
stays as it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["resample"]


def resample(saliency: NDArray[Any], xs: ArrayLike, ys: ArrayLike) -> NDArray[np.float32]:
    """Sample a map bilinearly on the grid ``ys`` × ``xs``.

    One axis after the other, without a matrix product: BLAS would split it over threads that wait for each other while
    a worker process holds the cores, which cost several milliseconds per picture.

    Args:
        saliency: the map, (h, w), finite.
        xs: columns to sample at, (n,), in cell coordinates.
        ys: rows to sample at, (m,), in cell coordinates.

    Returns:
        The samples, (m, n).

    Example:
        >>> resample(np.array([[0.0, 4.0]]), [0.5, 1.0, 1.5], [0.5])
        array([[0., 2., 4.]], dtype=float32)
    """
    columns = _along_rows(saliency.astype(np.float32).T, xs)  # (n, h)
    return _along_rows(np.ascontiguousarray(columns.T), ys)  # (m, n)


def _along_rows(values: NDArray[np.float32], positions: ArrayLike) -> NDArray[np.float32]:
    """Interpolate (size, k) between its rows: (m, k) at m positions."""
    size = len(values)
    centres = np.clip(np.asarray(positions, np.float64) - 0.5, 0, size - 1)  # (m,)
    lower = centres.astype(np.intp)
    fraction = (centres - lower).astype(np.float32)
    steps = np.diff(values, axis=0, append=values[-1:])  # (size, k), the last one 0
    sampled = steps[lower]
    sampled *= fraction[:, None]
    sampled += values[lower]
    return sampled
