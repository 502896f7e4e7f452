"""Where the cells of every layer look, found by asking the network.

Strips of a few probe images are replaced, upright ones and then level ones, and the centre of what a cell answers to is
where it looks. All layers are watched in the same forward passes. That holds whatever the windows, paddings, token
orders and views inside the network are, and what a trained network makes of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.fitting import all_alike, explained, fit, grid_of_tokens, live, own_share, rough_centres, sharpness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cam.layers import Layer, LayerCall, Layout
    from service.cam.network import Network
    from service.placement import Placement

__all__ = ["Finding", "apply", "measure"]

_STRIPS = 12  # per axis; cells of a ResNet's last layer see about two of them
# All strips of one axis at once, of images up to this size; of larger ones fewer.
_BATCH_PIXELS = _STRIPS * 224 * 224
# Of a fine grid every so many-th row and column, of many channels every so many-th: about so many are left.
_CELLS, _CHANNELS = 24, 32

# Cells are in the order that was assumed where it explains so much of the variance of their centres,
_ORDERED = 0.9
# can be told apart where the median cell answers with such a share to one strip,
_SHARP = 0.3
# and are no places at all where it explains so little. Of few cells, chance explains as much.
_PLACELESS, _FEWEST_CELLS = 0.1, 16

# Cells that change less than such a share of what most do hear of the picture from other cells, if at all.
_FAINT = 0.02

# Cells look the other way round where so much of the variance says so.
_TURNED = 0.5

# Cells that are told apart are refused where so little of the variance follows their order.
_GRID = 0.5

# A layer is placed as one before where no more than such a share of its telling cells look elsewhere: those that answer
# to one strip with so much of what they answer with.
_ASTRAY, _TELLING = 0.1, 0.5

_COPIES = "all its cells look at the same part of the picture: there is no place to show"
_NO_PLACES = "its cells are no places of the picture: where they look does not follow their order"
_ON_ITS_SIDE = "it sees the picture on its side, and maps are turned back only where the model's input is square"
_NO_GRID = "its cells look at places of the picture, but these are no grid in the order of the cells"
_ANOTHER_VIEW = "it sees a turned or cropped view of the picture, and where its cells look could not be measured"


@dataclass(frozen=True)
class Finding:
    """What was found out about one layer's grid.

    Attributes:
        placement: where its cells look; None where no placement fits well.
        order: as of a ``Layout``; None where it is as was assumed.
        refusal: why no map of it can be drawn, or None.
        as_before: whether the placement is that of an earlier layer.
    """

    placement: Placement | None = None
    order: tuple[int, ...] | None = None
    refusal: str | None = None
    as_before: bool = False


def measure(network: Network, images: Tensor, layers: Sequence[Layer]) -> dict[LayerCall, Finding]:
    """Find out where the cells of ``layers`` look.

    Args:
        network: left as it was.
        images: two or more different images (N, 3, H, W), as the network takes them; noise is best. Strips of each are
            replaced by those of the next, so that each but the last costs 25 forward passes.
        layers: rows of the catalogue that can be explained.
    """
    seen = {layer.call: _Profiles(layer.layout) for layer in layers if layer.layout is not None}
    for image, other in itertools.pairwise(images):
        _disturb(network, image, other, seen, (_STRIPS, _STRIPS))
    size = images.shape[2], images.shape[3]
    whole = {call: each for call, each in seen.items() if each.complete}
    orders = _orders(network, images, {call: each for call, each in whole.items() if not each.ordered(size)})
    found = {call: each.finding(size, orders.get(call)) for call, each in whole.items()}
    return dict.fromkeys(seen, Finding()) | _as_before(whole, found, size)


def _as_before(
    whole: dict[LayerCall, _Profiles], found: dict[LayerCall, Finding], size: tuple[int, int]
) -> dict[LayerCall, Finding]:
    """Place layers whose cells look nearly everywhere, as attention makes them, as the last layer of the same grid."""
    placed: dict[tuple[int, int], Placement] = {}
    filled = {}
    for call, each in whole.items():
        finding, grid = found[call], (each.layout.height, each.layout.width)
        before = placed.get(grid)
        doubtful = finding.refusal in (None, _NO_GRID) and not each.ordered(size, finding.order)
        if doubtful and before is not None and each.agrees(before, size, finding.order):
            finding = Finding(before, finding.order, as_before=True)
        if finding.placement is not None:
            placed[grid] = finding.placement
        filled[call] = finding
    return filled


def _disturb(
    network: Network, image: Tensor, other: Tensor, seen: dict[LayerCall, _Profiles], strips: tuple[int, int]
) -> None:
    """Show the network ``image`` (3, H, W) with one strip after the other taken from ``other``: upright, then level."""
    rows = max(1, _BATCH_PIXELS // (image.shape[1] * image.shape[2]))
    network.watch(image[None], seen, lambda call, output: seen[call].remember(output))
    for axis, dim in enumerate((2, 1)):
        for batch in torch.split(_with_strips(image, other, dim, strips[axis]), rows):
            network.watch(batch, seen, partial(_compare, seen, axis))
    for each in seen.values():
        each.sum_up(strips)


def _compare(seen: dict[LayerCall, _Profiles], axis: int, call: LayerCall, output: Tensor) -> None:
    seen[call].compare(axis, output)


def _with_strips(image: Tensor, other: Tensor, dim: int, strips: int) -> Tensor:
    """Return ``strips`` copies of ``image``, each with the next strip across ``dim`` taken from ``other``."""
    size = image.shape[dim]
    which = torch.arange(size, device=image.device) * strips // size  # the strip that a pixel is in
    chosen = which == torch.arange(strips, device=image.device)[:, None]  # (strips, size)
    return torch.where(chosen.view(strips, 1, *((1, size) if dim == 2 else (size, 1))), other, image)


def _orders(
    network: Network, images: Tensor, doubtful: dict[LayerCall, _Profiles]
) -> dict[LayerCall, tuple[int, ...] | None]:
    """Tell the order of cells where it is not what was assumed.

    Tokens are told apart by strips as wide as theirs, those of one grid together. Where a layer has mixed them beyond
    that, it has the order of the layer before it.
    """
    orders: dict[LayerCall, tuple[int, ...] | None] = {}
    known: dict[Layout, tuple[int, ...] | None] = {}
    for layout in dict.fromkeys(each.layout for each in doubtful.values() if each.layout.kind == "tokens"):
        alike = {call: each for call, each in doubtful.items() if each.layout == layout}
        fine = {call: _Profiles(layout) for call, each in alike.items() if each.sharp()}
        if fine:
            _disturb(network, images[0], images[1], fine, (layout.width, layout.height))
        for call in alike:
            known[layout] = (fine[call].order_of_tokens() if call in fine else None) or known.get(layout)
            orders[call] = known[layout]
    size = images.shape[2], images.shape[3]
    grids = {call: each.turned(size) for call, each in doubtful.items() if each.layout.kind != "tokens"}
    return orders | grids


class _Profiles:
    """How much some cells of one layer changed with each strip, per axis; of tokens, all of them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        most = None if layout.kind == "tokens" else _CELLS
        self.rows, self.columns = _some(layout.height, most), _some(layout.width, most)
        self._before: Tensor | None = None
        self.complete = True
        self._changes: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._profiles: list[Tensor | None] = [None, None]
        self._changed: list[Tensor | None] = [None, None]  # how much each cell changed in all

    def remember(self, output: Tensor) -> None:
        """Keep what the layer gives for an image as it is."""
        # A copy: the next layer may change the output in place.
        self._before = self._sample(output).clone()

    def compare(self, axis: int, output: Tensor) -> None:
        """Add how much each cell changed for that image with the next strips replaced."""
        if self._before is None:
            return  # the layer was not called for one image alone
        self._changes[axis].append((self._sample(output) - self._before).square().sum(1).double().cpu())

    def _sample(self, output: Tensor) -> Tensor:
        """Return some channels of some cells, (N, C', cells)."""
        if self.layout.kind == "tokens":
            return output[:, :, :: max(1, output.shape[2] // _CHANNELS)].transpose(1, 2).float()
        grid = output if self.layout.kind == "nchw" else output.permute(0, 3, 1, 2)
        return (
            grid[:, :: max(1, grid.shape[1] // _CHANNELS), :: self.rows.step, :: self.columns.step].float().flatten(2)
        )

    def sum_up(self, strips: tuple[int, int]) -> None:
        """Add the changes of one image to the profiles; every image counts the same for a cell.

        A network that takes its batches apart calls a layer with some of the rows: it is not ``complete`` then.
        """
        for axis, changes in enumerate(self._changes):
            if sum(map(len, changes)) != strips[axis]:
                self.complete = False
                return
            change = torch.cat(changes)  # (strips, cells)
            whole = change.sum(0)
            share = change / whole.clamp(min=1e-30)
            before, changed = self._profiles[axis], self._changed[axis]
            self._profiles[axis] = share if before is None else before + share
            self._changed[axis] = whole if changed is None else changed + whole
            changes.clear()

    def _profile(self, axis: int) -> Tensor:
        """Return the profile of one axis; 0 for cells that hardly change, such as those that look at padding alone."""
        profile, changed = self._profiles[axis], self._changed[axis]
        assert profile is not None
        assert changed is not None
        return profile * (changed >= _FAINT * changed.quantile(0.75))

    def _places(self, order: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
        """Return the profiles (strips, rows, columns) of what is at each place of the grid, across and down."""
        chosen = self._sampled(order)
        across, down = (self._profile(axis)[:, chosen] for axis in (0, 1))
        grid = len(self.rows), len(self.columns)
        return across.view(-1, *grid), down.view(-1, *grid)

    def _sampled(self, order: tuple[int, ...] | None) -> Tensor:
        """Say which sampled cell is at each sampled place."""
        count = len(self.rows) * len(self.columns)
        if self.layout.kind == "tokens":
            return torch.tensor(order) if order else torch.arange(count) + self.layout.special
        cells = torch.arange(count)
        return cells if order is None else cells.view(len(self.columns), -1).T.flatten()

    def _explained(self, size: tuple[int, int], order: tuple[int, ...] | None) -> tuple[float, float]:
        """Say how much of the variance of the cells' centres follows their columns, and their rows."""
        across, down = (each.flatten(1) for each in self._places(order))
        rows, columns = (torch.tensor(at) for at in (self.rows, self.columns))
        by_row, by_column = torch.meshgrid(rows, columns, indexing="ij")
        seeing = live(across) & live(down)
        return (
            explained(rough_centres(across[:, seeing], size[1]), by_column.flatten()[seeing]),
            explained(rough_centres(down[:, seeing], size[0]), by_row.flatten()[seeing]),
        )

    def ordered(self, size: tuple[int, int], order: tuple[int, ...] | None = None) -> bool:
        """Whether the cells look where an order, or the one that was assumed, has them."""
        return min(map(abs, self._explained(size, order))) >= _ORDERED

    def _on_its_side(self, size: tuple[int, int]) -> bool:
        """Whether the columns of the picture follow the rows of the grid, and its rows the grid's columns."""
        across, down = (each.transpose(1, 2).flatten(1) for each in self._places(None))
        columns, rows = torch.meshgrid(torch.tensor(self.columns), torch.tensor(self.rows), indexing="ij")
        follows = (
            explained(rough_centres(across, size[1]), rows.flatten()),
            explained(rough_centres(down, size[0]), columns.flatten()),
        )
        return min(map(abs, follows)) >= _ORDERED

    def sharp(self) -> bool:
        """Whether cells answer to few strips each, so that finer ones can tell them apart."""
        return min(sharpness(self._profile(axis)) for axis in (0, 1)) >= _SHARP

    def turned(self, size: tuple[int, int]) -> tuple[int, ...] | None:
        """Return the order of a grid whose rows are the picture's columns, or None where it is not so."""
        height, width = self.layout.height, self.layout.width
        if height != width:
            return None
        order = tuple(torch.arange(height * width).view(width, height).T.flatten().tolist())
        return order if min(map(abs, self._explained(size, order))) >= _ORDERED else None

    def order_of_tokens(self) -> tuple[int, ...] | None:
        """Tell which token is at each place, given strips as wide as tokens."""
        return grid_of_tokens(self._profile(0), self._profile(1))

    def finding(self, size: tuple[int, int], order: tuple[int, ...] | None) -> Finding:
        """Sum up, given the order of cells where it is not what was assumed."""
        across, down = self._places(order)
        if not (across.any() and down.any()):
            return Finding()  # it answers to nothing, as a dead layer does: that says nothing of where it looks
        if all_alike(across.flatten(1)) and all_alike(down.flatten(1)):
            return Finding(refusal=_COPIES)
        follows = self._explained(size, order)
        if len(self.rows) * len(self.columns) >= _FEWEST_CELLS and max(map(abs, follows)) < _PLACELESS:
            return Finding(refusal=_ON_ITS_SIDE if self._on_its_side(size) else _NO_PLACES)
        placement = fit(across, down, (self.rows, self.columns), size)
        if placement is None and min(follows) < -_TURNED:
            return Finding(refusal=_ANOTHER_VIEW)
        if placement is None and self.sharp() and min(follows) < _GRID:
            return Finding(refusal=_NO_GRID)
        return Finding(placement, order)

    def agrees(self, placement: Placement, size: tuple[int, int], order: tuple[int, ...] | None) -> bool:
        """Whether it answers to anything, and no cell that answers to one strip above all looks elsewhere."""
        profiles = [each.flatten(1) for each in self._places(order)]
        rows, columns = (torch.tensor(at) for at in (self.rows, self.columns))
        by_row, by_column = torch.meshgrid(rows, columns, indexing="ij")
        axes = zip(profiles, (by_column, by_row), (placement.x, placement.y), reversed(size), strict=True)
        for profile, index, axis, pixels in axes:
            if not profile.any():
                return False
            telling = own_share(profile).amax(0) >= _TELLING
            off = (rough_centres(profile, pixels) - axis.start - axis.step * index.flatten()).abs()
            if (off[telling] > abs(axis.step) + pixels / len(profile)).sum() > _ASTRAY * telling.sum():
                return False
        return True


def _some(count: int, most: int | None) -> range:
    """Return every so many-th of ``count`` cells, so that about ``most`` are left; all where it is None."""
    return range(0, count, max(1, count // most) if most else 1)


def apply(layer: Layer, finding: Finding) -> Layer:
    """Return the row of the catalogue as it is after ``finding``."""
    assert layer.layout is not None
    if finding.refusal is not None:
        return replace(layer, explainable=False, note=finding.refusal)
    notes = [layer.note] if layer.note else []
    if finding.order is not None:
        notes.append("its cells were found in another order than row by row, and are put where they look")
    if finding.as_before:
        notes.append(
            "its cells look nearly everywhere, and are put where those of an earlier layer of the same grid look"
        )
    if finding.placement is None:
        notes.append("where its cells look could not be measured: maps are stretched over the model's input")
    layout = replace(layer.layout, order=finding.order)
    return replace(layer, layout=layout, placement=finding.placement or layer.placement, note="; ".join(notes) or None)
