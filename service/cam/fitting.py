"""From what each cell answered to, to where it looks: centres, lines through them, and the order of cells.

A *profile* says how much every cell changed with every strip of an image, (strips, cells); strips are equally wide and
together cover one axis of ``size`` pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.placement import AxisPlacement, Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["all_alike", "explained", "fit", "grid_of_tokens", "live", "own_share", "rough_centres", "sharpness"]

# A strip is cut into so many steps where a window of cells that lie near the border ends within it.
_STEPS = 4
_ROUNDS = 12
# A placement is taken where cells lie within half a cell of it, as exactly as strips can tell, and where all of them
# together see no less than a quarter of the input (a view may be cropped) and not much more than all of it.
_MAX_RESIDUAL = 0.5
_EXTENT = 0.25, 1.75
_ALIKE = 1e-3
# Cells that look at what the network pads answer to no place of the picture: to strips there with so little of what
# others answer with.
_LIVE = 0.1


def rough_centres(profile: Tensor, size: int) -> Tensor:
    """Return the centroid of each cell's profile, in pixels, (cells,).

    What a cell answers to wherever the strip is, as attention and squeeze-and-excitation make it, does not count.
    """
    strips = len(profile)
    own = profile - profile.amin(0)
    at = (torch.arange(strips, dtype=profile.dtype) + 0.5) * size / strips
    return (own * at[:, None]).sum(0) / own.sum(0).clamp(min=1e-30)


def live(profile: Tensor) -> Tensor:
    """Return which cells (cells,) look at the picture at all, and not beside it at what the network pads."""
    own = (profile - profile.amin(0)).sum(0)
    return own >= _LIVE * own.max()


def fit(
    across: Tensor, down: Tensor, at: tuple[Sequence[int], Sequence[int]], size: tuple[int, int]
) -> Placement | None:
    """Fit a placement by least squares, or return None where none fits well.

    Args:
        across: profile of upright strips, (strips, rows, columns), of some rows and columns of a grid; every cell's
            shares add up to the same.
        down: profile of level strips.
        at: which rows and which columns of the grid these are.
        size: height and width of the image, in pixels.
    """
    rows, columns = at
    height, width = size
    x = _line(across.sum(1), columns, width)
    y = _line(down.sum(2), rows, height)
    if x is None or y is None:
        return None
    return Placement(x[0], y[0], max(x[1], y[1]))


def _centres(profile: Tensor, size: int) -> Tensor:
    """Return where each cell looks, in pixels, (cells,).

    The centroid of a profile that the border of the image cuts off lies too far inside. So the centroid is taken over
    the widest window that is symmetric about itself, found by repetition.
    """
    steps = len(profile) * _STEPS
    own = (profile - profile.amin(0)).repeat_interleave(_STEPS, 0)  # (steps, cells)
    width = size / steps
    at = ((torch.arange(steps, dtype=profile.dtype) + 0.5) * width)[:, None]
    centres = rough_centres(profile, size)
    for _ in range(_ROUNDS):
        reach = torch.minimum(centres, size - centres)
        inside = own * ((reach - (at - centres).abs()) / width + 0.5).clamp(0, 1)
        centres = (inside * at).sum(0) / inside.sum(0).clamp(min=1e-30)
    return centres


def _line(profile: Tensor, at: Sequence[int], size: int) -> tuple[AxisPlacement, float] | None:
    """Fit centre = start + step · index; return it with its residual (RMS, pixels), or None if it is no good fit.

    A centre weighs by the square of its distance from the border: the nearer, the narrower was its window.
    """
    seeing = live(profile)
    index = torch.tensor(at, dtype=profile.dtype)[seeing]
    if len(index) < 2:
        return None
    centres = _centres(profile[:, seeing], size)
    weights = torch.minimum(centres, size - centres).clamp(min=0).square() + 1e-9
    weights = weights / weights.sum()
    mean_index, mean_centre = (weights * index).sum(), (weights * centres).sum()
    step = float((weights * (index - mean_index) * (centres - mean_centre)).sum()) / float(
        (weights * (index - mean_index).square()).sum()
    )
    start = float(mean_centre) - step * float(mean_index)
    residual = float((weights * (start + step * index - centres).square()).sum().sqrt())
    cells = at[-1] + 1 if seeing.all() else float(index.max() - index.min()) + at[1] - at[0]
    seen = abs(step) * cells / size
    if not (residual <= _MAX_RESIDUAL * (abs(step) + size / len(profile)) and _EXTENT[0] <= seen <= _EXTENT[1]):
        return None
    return AxisPlacement(start + 0.0, step), residual


def explained(centres: Tensor, index: Tensor) -> float:
    """Return the share of the variance of ``centres`` (cells,) that a line over ``index`` (cells,) explains.

    It is negative where the line falls. 0 where there is no variance.
    """
    correlation = torch.corrcoef(torch.stack([centres, index.to(centres)]))[0, 1]
    return float((correlation * correlation.abs()).nan_to_num())


def all_alike(profile: Tensor) -> bool:
    """Whether all cells answer to the same strips in the same measure, as copies of one cell do."""
    shares = profile / profile.sum(0).clamp(min=1e-30)
    return float((shares - shares.mean(1, keepdim=True)).abs().sum(0).max()) < _ALIKE


def sharpness(profile: Tensor) -> float:
    """Return the share that the median cell answers to a single strip with, 0 to 1."""
    return float(own_share(profile).amax(0).median())


def grid_of_tokens(across: Tensor, down: Tensor) -> tuple[int, ...] | None:
    """Tell which token is at each place of a grid, row by row, or return None where they cannot be told.

    Args:
        across: profile of as many upright strips as the grid has columns, (columns, tokens).
        down: profile of as many level strips as it has rows, (rows, tokens).
    """
    shares_x, shares_y = (own_share(profile) for profile in (across, down))
    # The token that answers most to both the row and the column of a place is there. (rows, columns, tokens)
    chosen = (shares_y[:, None, :] * shares_x[None, :, :]).argmax(2).flatten().tolist()
    return tuple(chosen) if len(set(chosen)) == len(chosen) else None


def own_share(profile: Tensor) -> Tensor:
    """Return what each cell answers to each strip alone, (strips, cells), as a share of all that."""
    own = profile - profile.amin(0)
    return own / own.sum(0).clamp(min=1e-30)
