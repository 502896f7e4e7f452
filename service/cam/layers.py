"""What a layer is: which call of which module, and how its output becomes a grid. Needs no torch to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from service.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor

    from service.vocabulary import LayerKind, Registration

__all__ = ["MAX_SPECIAL_TOKENS", "Layer", "LayerCall", "Layout", "find_layout", "finest_of", "rows_first"]

# Class, distillation and register tokens; DINOv2 with registers has 1 + 4.
MAX_SPECIAL_TOKENS = 8


@dataclass(frozen=True)
class LayerCall:
    """One call of a module within a forward pass.

    Attributes:
        module: its qualified name.
        call: which of its calls, from 0, for modules used more than once.
        batch_axis: where its output has the images: 0, or 1 for sequences of tokens (T, N, C).
    """

    module: str
    call: int = 0
    batch_axis: Literal[0, 1] = 0


def rows_first(output: Tensor, batch_axis: int) -> Tensor:
    """Bring the axis of the images to the front, or from there back to its place."""
    return output if batch_axis == 0 else output.transpose(0, batch_axis)


@dataclass(frozen=True)
class Layout:
    """Where the grid is in a layer's output.

    Attributes:
        kind: ``nchw`` (N, C, h, w), ``nhwc`` (N, h, w, C), or ``tokens`` (N, special + h*w, C).
        height: h, rows of the grid.
        width: w, columns of the grid.
        special: tokens that are no place (class, distillation, registers); 0 unless ``tokens``.
        order: which of the output's cells, counted row by row, or which of its tokens is at each place of the grid, row
            by row; None where that is simply their order, special tokens first.
    """

    kind: Literal["nchw", "nhwc", "tokens"]
    height: int
    width: int
    special: int = 0
    order: tuple[int, ...] | None = None

    def to_nchw(self, output: Tensor) -> Tensor:
        """Bring a layer's output, or a gradient of its shape, to (N, C, h, w)."""
        if self.order is None and self.kind == "nchw":
            return output
        if self.order is None and self.kind == "nhwc":
            return output.permute(0, 3, 1, 2)  # (N, C, h, w)
        cells = self._cells(output)  # (N, special + h*w, C)
        places = cells[:, self.special :] if self.order is None else cells[:, self.order]  # (N, h*w, C)
        return places.transpose(1, 2).reshape(len(output), -1, self.height, self.width)  # (N, C, h, w)

    def from_nchw(self, activations: Tensor, like: Tensor) -> Tensor:
        """Bring (M, C, h, w) back to the layer's own layout.

        Args:
            activations: what is to stand in the grid.
            like: an output of the layer for one image, (1, …), whose dtype the result has; its special tokens are kept.
        """
        if self.order is None and self.kind == "nchw":
            return activations.to(like)
        if self.order is None and self.kind == "nhwc":
            return activations.permute(0, 2, 3, 1).to(like)
        places = activations.flatten(2).transpose(1, 2).to(like)  # (M, h*w, C)
        cells = self._cells(like).repeat(len(places), 1, 1)  # (M, special + h*w, C)
        cells[:, slice(self.special, None) if self.order is None else self.order] = places
        if self.kind == "tokens":
            return cells
        if self.kind == "nhwc":
            return cells.reshape(len(cells), *like.shape[1:])
        return cells.transpose(1, 2).reshape(len(cells), *like.shape[1:])

    def _cells(self, output: Tensor) -> Tensor:
        """Bring an output to (N, cells or tokens, C), in its own order."""
        if self.kind == "tokens":
            return output
        return output.flatten(1, 2) if self.kind == "nhwc" else output.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Layer:
    """One row of the catalogue.

    Attributes:
        name: unique; the module's qualified name, followed by ``:call`` where a module is called more than once.
        call: the module and which of its calls.
        type: class name of the module.
        kind: what it does.
        shape: (channels, h, w) where the output is a grid, otherwise the output's shape without the batch axis.
        layout: how the output becomes a grid; None where there is none.
        stride: input pixels per grid row; None where there is no grid.
        order: position in the forward pass, from 0.
        on_every_path: whether everything that the logits depend on goes through this output.
        explainable: whether a map can be made.
        note: the reason if it can't, or what to keep in mind.
        beside: the last layers of other branches that lead to the logits and that this one does not feed: what it
            says nothing of. Empty for a layer on every path, or in a residual branch.
        no_gradient: why no gradient reaches it, though the logits depend on it; None where one does.
        placement: where the grid's cells look; None where there is no grid.
        tail: share of the network's arithmetic that comes after it, 0 to 1.
    """

    name: str
    call: LayerCall
    type: str
    kind: LayerKind
    shape: tuple[int, ...]
    layout: Layout | None
    stride: int | None
    order: int
    on_every_path: bool
    explainable: bool
    note: str | None
    beside: tuple[str, ...] = ()
    no_gradient: str | None = None
    placement: Placement | None = None
    tail: float = 1.0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns; only for layers with a grid."""
        assert self.layout is not None, f"layer {self.name} has no grid"
        return self.layout.height, self.layout.width

    def placed(self, registration: Registration, height: int, width: int, *, flip: bool = False) -> Placement:
        """Return where this layer's maps lie in an input of ``height`` × ``width`` pixels; only for layers with a grid.

        Args:
            registration: measured, or stretched over the input. What could not be measured is stretched, too.
            height: of the model's input.
            width: likewise.
            flip: whether maps are averages over the image and its mirror image.
        """
        placement = self.placement if registration == "measured" else None
        placement = placement or Placement.stretched(*self.grid, height, width)
        return placement.averaged_with_mirror(self.grid[1], width) if flip else placement

    @property
    def covers(self) -> str | None:
        """What part of the network it shows, where there are branches beside it: "covers one of 3 branches ..."."""
        if not self.beside:
            return None
        names = ", ".join(repr(name) for name in self.beside)
        return f"covers one of {len(self.beside) + 1} branches that lead to the logits; the others end with {names}"

    def to_nchw(self, output: Tensor) -> Tensor:
        """Bring this layer's output, or a gradient of its shape, to (N, C, h, w); only for layers with a grid."""
        assert self.layout is not None, f"layer {self.name} has no grid"
        return self.layout.to_nchw(output)


def finest_of(grids: Sequence[tuple[int, int]]) -> int:
    """Return the index of the first grid (h, w) with the most cells: the one that fused maps are on."""
    return max(range(len(grids)), key=lambda index: grids[index][0] * grids[index][1])


def find_layout(
    shape: tuple[int, ...],
    input_height: int,
    input_width: int,
    channels: Literal["first", "last"] | None = None,
    seen: Collection[tuple[int, int]] = (),
) -> Layout | None:
    """Recognise the grid in an output of ``shape`` (batch first) for an input of the given size in pixels.

    A grid has the input's aspect ratio, up to the rounding of strides; unless it is known where the channels are, or
    that there is such a grid, since kernels without padding take more from the shorter side. Numbers can agree by
    accident, as they do in attention matrices and in windows of tokens; what is known of the layer and of the grids
    before it tells those.

    Args:
        shape: of the output.
        input_height: rows of the image.
        input_width: columns of the image.
        channels: where the layer's type puts the channels. Where None, and both fit, channels come first, as PyTorch's
            convolutions have it.
        seen: grids (h, w) of earlier layers. Unless the type says ``first``, a grid has to be one of them or a pooled
            one, halved any number of times. None seen yet, or none coarser than the image: any will do.

    Returns:
        The layout, or None where the output has no spatial axes.
    """
    coarser = [grid for grid in seen if grid != (input_height, input_width)]
    for layout in _candidates(shape, input_height, input_width, channels, seen):
        grid = layout.height, layout.width
        if channels == "first" or grid == (1, 1) or grid in seen or not coarser:
            return layout
        if any(_is_pooled(grid, finer) for finer in coarser):
            return layout
    return None


def _candidates(
    shape: tuple[int, ...],
    input_height: int,
    input_width: int,
    channels: Literal["first", "last"] | None,
    seen: Collection[tuple[int, int]],
) -> Iterator[Layout]:
    """Yield all layouts that the numbers allow, the likeliest first."""

    def fits(height: int, width: int) -> bool:
        if height > input_height or width > input_width:
            return False
        if channels is not None or (height, width) in seen:
            return True
        if input_height == input_width:
            return height == width
        # One cell of rounding: 7 x 10 is a grid of 224 x 320, and so is 7 x 11 of 224 x 336.
        return abs(height * input_width - width * input_height) <= max(input_height, input_width)

    if len(shape) == 4 and channels != "last" and fits(shape[2], shape[3]):
        yield Layout("nchw", shape[2], shape[3])
    if len(shape) == 4 and channels != "first" and fits(shape[1], shape[2]):
        yield Layout("nhwc", shape[1], shape[2])
    if len(shape) == 3 and channels != "first":
        yield from _token_candidates(shape[1], input_height, input_width)
        yield from _tokens_of(seen, shape[1])


def _token_candidates(tokens: int, input_height: int, input_width: int) -> Iterator[Layout]:
    for special in range(min(MAX_SPECIAL_TOKENS, tokens - 1) + 1):
        height = round(math.sqrt((tokens - special) * input_height / input_width))
        width = round(math.sqrt((tokens - special) * input_width / input_height))
        if height * width == tokens - special:
            yield Layout("tokens", height, width, special)


def _tokens_of(seen: Collection[tuple[int, int]], tokens: int) -> Iterator[Layout]:
    """Yield the grids of earlier layers that so many tokens are, of whatever aspect: a network may resize its input."""
    for special in range(min(MAX_SPECIAL_TOKENS, tokens - 1) + 1):
        yield from (Layout("tokens", *grid, special) for grid in sorted(seen) if math.prod(grid) == tokens - special)


def _is_pooled(grid: tuple[int, int], finer: tuple[int, int]) -> bool:
    """Whether halving ``finer`` some times, rounded up or down, gives ``grid``."""
    return any(
        all(side in (whole // step, -(-whole // step)) for side, whole in zip(grid, finer, strict=True))
        for step in (2, 4, 8, 16, 32)
    )
