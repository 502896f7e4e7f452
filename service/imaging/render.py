"""A map back onto the user's own picture: heatmap, overlay, mask, regions.

Every output pixel is mapped through the geometry to the model's input, so that what is shown at a pixel is what the
model saw there. What it did not see stays visibly unexplained: transparent in a heatmap (black in a JPEG), 0 in a mask,
the plain picture in an overlay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from service.imaging.colormaps import colormap
from service.imaging.encode import EncodedImage, encode_grey, encode_indexed, encode_photo, indexed
from service.imaging.geometry import Point
from service.imaging.grid import Grid, grid_for
from service.imaging.regions import Region, regions_of
from service.imaging.sampling import resample
from service.options import DEFAULT_COLORMAP, Options
from service.placement import Placement
from service.vocabulary import ImageFormat, Output, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from service.imaging.canvas import Canvas
    from service.imaging.geometry import Geometry

__all__ = [
    "RenderSpec",
    "Rendered",
    "pixels_for",
    "render",
]

_BAND_PIXELS = 1_000_000


@dataclass(frozen=True, slots=True)
class RenderSpec:
    """What to draw.

    Attributes:
        outputs: which fields of ``Rendered`` to fill. "map", "scores" and "hidden" are accepted and ignored: nothing is
            drawn here.
        size: the grid of the pictures: the picture's own, the model's input, or the layer's cells.
        colormap: a name from ``COLORMAPS``.
        alpha: opacity of the overlay, 0–1.
        threshold: of ``regions``, as a fraction of the map's maximum, 0–1.
        image_format: of the pictures; "auto" is PNG for heatmap and mask, JPEG for the overlay.
        max_side: longest side in pixels at size "picture".
        signed: show what is below zero, too: zero in the middle of the colormap, and 128 in a mask.
    """

    outputs: frozenset[Output] | tuple[Output, ...] = Options.outputs
    size: Size = Options.size
    colormap: str = DEFAULT_COLORMAP
    alpha: float = Options.alpha
    threshold: float = Options.threshold
    image_format: ImageFormat = Options.image_format
    max_side: int = Options.max_side
    signed: bool = Options.signed

    @property
    def needs_canvas(self) -> bool:
        """Whether something is laid on the picture."""
        return not {"overlay", "hidden"}.isdisjoint(self.outputs)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn: UnknownColormap, or a ValueError that names the field."""
        colormap(self.colormap)
        _require(set(self.outputs) <= set(get_args(Output)), f"outputs must be among {get_args(Output)}")
        _require(self.size in get_args(Size), f"size must be one of {get_args(Size)}, not {self.size!r}")
        known = self.image_format in get_args(ImageFormat)
        _require(known, f"image_format must be one of {get_args(ImageFormat)}, not {self.image_format!r}")
        _require(0 <= self.alpha <= 1, f"alpha must lie in 0–1, not {self.alpha}")
        _require(0 <= self.threshold <= 1, f"threshold must lie in 0–1, not {self.threshold}")
        _require(self.max_side >= 1, f"max_side must be positive, not {self.max_side}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A drawn map; what was not asked for is None.

    Attributes:
        empty: the map is zero everywhere; unless signed, nothing in it was positive.
        maximum: of the raw map; 0 where empty.
        peak: the centre of the hottest cell, in picture pixels, moved into the view; None where nothing is positive.
        hidden: the picture without what the map calls important; drawn by others.
        signed: as in the ``RenderSpec``: whoever reads the mask must know where its zero is.
    """

    empty: bool
    maximum: float
    peak: Point | None
    signed: bool = False
    heatmap: EncodedImage | None = None
    overlay: EncodedImage | None = None
    mask: EncodedImage | None = None
    regions: list[Region] | None = None
    hidden: EncodedImage | None = None

    @property
    def bytes(self) -> int:
        """Of the encoded pictures together."""
        return sum(len(each.data) for each in (self.heatmap, self.overlay, self.mask, self.hidden) if each is not None)


def render(
    saliency: NDArray[Any],
    geometry: Geometry,
    spec: RenderSpec,
    canvas: Canvas | None = None,
    placement: Placement | None = None,
) -> Rendered:
    """Draw a map on the picture it explains.

    Args:
        saliency: the raw map, (h, w), finite; unless signed, what is negative counts as 0. It is normalised by its
            greatest magnitude.
        geometry: as returned by ``preprocess`` for that picture.
        spec: what to draw.
        canvas: what overlays are laid on; only they need it.
        placement: where the map's cells look; evenly spread over the model's input if None. Pictures on the layer's
            own grid ignore it.

    Raises:
        ValueError: the map is not two-dimensional, has no cells, or is not finite; or an overlay has no canvas.

    Example:
        >>> spec = RenderSpec(("heatmap", "overlay"))
        >>> canvas = Canvas(image, prepared.geometry, spec.size, spec.max_side)
        >>> drawn = render(saliency, prepared.geometry, spec, canvas)
        >>> drawn.heatmap.media_type, drawn.overlay.media_type
        ('image/png', 'image/jpeg')
    """
    maximum, normalised = _normalise(saliency, signed=spec.signed)
    stretched = Placement.stretched(saliency.shape[0], saliency.shape[1], geometry.model_height, geometry.model_width)
    placement = placement or stretched
    drawn: dict[str, Any] = {}
    if {"heatmap", "overlay", "mask"} & set(spec.outputs):
        grid = grid_for(spec.size, geometry, saliency.shape, spec.max_side)
        base = _base(canvas, saliency.shape) if "overlay" in spec.outputs else None
        values = _values(normalised, grid, stretched if spec.size == "layer" else placement)
        drawn = _drawn((values + np.float32(1)) * np.float32(0.5) if spec.signed else values, base, grid, spec)
    evidence = _evidence(normalised) if spec.signed else normalised
    return Rendered(
        empty=not normalised.any(),
        maximum=maximum,
        peak=_peak(evidence, geometry, placement) if evidence.any() else None,
        signed=spec.signed,
        **drawn,
        regions=regions_of(evidence, geometry, placement, spec.threshold) if "regions" in spec.outputs else None,
    )


def _base(canvas: Canvas | None, cells: tuple[int, int]) -> NDArray[np.uint8]:
    if canvas is None:
        raise ValueError("an overlay needs a canvas")
    return canvas.under(cells)


def pixels_for(spec: RenderSpec | None, geometry: Geometry) -> int:
    """Return how many pixels a drawn picture has at most; drawing it needs up to 32 bytes for each."""
    if spec is None or not {"heatmap", "overlay", "mask", "hidden"} & set(spec.outputs):
        return 0
    size: Size = "model" if spec.size == "layer" else spec.size  # a layer's grid is no finer than the model's input
    height, width = grid_for(size, geometry, (1, 1), spec.max_side).shape
    return height * width


def _normalise(saliency: NDArray[Any], *, signed: bool) -> tuple[float, NDArray[np.float64]]:
    """Return the maximum and the map divided by its greatest magnitude: in 0–1, or in -1–1 if signed."""
    if saliency.ndim != 2 or not saliency.size:
        raise ValueError(f"a map has two dimensions and at least one cell, not shape {saliency.shape}")
    if not np.isfinite(saliency).all():
        raise ValueError("the map is not finite")
    kept = saliency.astype(np.float64) if signed else np.maximum(saliency, 0).astype(np.float64)
    maximum = float(kept.max())
    greatest = max(maximum, -float(kept.min())) if signed else maximum
    return maximum, kept / greatest if greatest else kept


def _evidence(normalised: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what speaks for the class, in 0–1."""
    positive = np.maximum(normalised, 0)
    highest = float(positive.max())
    return positive / highest if highest else positive


def _peak(normalised: NDArray[np.float64], geometry: Geometry, placement: Placement) -> Point:
    row, column = divmod(int(normalised.argmax()), normalised.shape[1])
    x, y = geometry.to_image(placement.x.to_model(column + 0.5), placement.y.to_model(row + 0.5))
    view = geometry.view
    return Point(min(max(x, view.left), view.right), min(max(y, view.top), view.bottom))


def _values(normalised: NDArray[np.float64], grid: Grid, placement: Placement) -> NDArray[np.float32]:
    """Return the map at the centres of the pixels the model saw."""
    return resample(normalised, placement.x.to_cells(grid.x.centres()), placement.y.to_cells(grid.y.centres()))


def _drawn(values: NDArray[np.float32], base: NDArray[np.uint8] | None, grid: Grid, spec: RenderSpec) -> dict[str, Any]:
    """Draw and encode those pictures that are asked for, by the name of their field."""
    drawn: dict[str, Any] = {}
    if "mask" in spec.outputs:
        drawn["mask"] = encode_grey(_spread(values, 255, 0.5, grid), spec.image_format)
    if "heatmap" in spec.outputs or "overlay" in spec.outputs:
        # Level 0 is "not seen"; 1 to 255 are cold to warm.
        heat = indexed(_spread(values, 254, 1.5, grid), colormap(spec.colormap).palette)
        if "heatmap" in spec.outputs:
            drawn["heatmap"] = encode_indexed(heat, spec.image_format)
        if "overlay" in spec.outputs and base is not None:
            drawn["overlay"] = encode_photo(_blend(base, heat, spec.alpha, grid), spec.image_format)
    return drawn


def _spread(values: NDArray[np.float32], scale: float, offset: float, grid: Grid) -> NDArray[np.uint8]:
    """Return ``values * scale + offset`` as whole numbers where the model saw the picture, 0 elsewhere."""
    levels = np.zeros(grid.shape, np.uint8)
    levels[grid.seen] = values * np.float32(scale) + np.float32(offset)
    return levels


def _blend(base: NDArray[np.uint8], heat: Image.Image, alpha: float, grid: Grid) -> NDArray[np.uint8]:
    """Return ``round((1 - alpha) * base + alpha * heat)`` where the model saw the picture, ``base`` elsewhere."""
    blended = base.copy()
    rows, columns = grid.seen
    height = max(1, _BAND_PIXELS // base.shape[1])
    for top in range(rows.start, rows.stop, height):  # in bands: floats take four times the room of the picture
        band = slice(top, min(top + height, rows.stop)), columns
        colours = np.asarray(heat.crop((columns.start, band[0].start, columns.stop, band[0].stop)).convert("RGB"))
        mixed = base[band] * np.float32(1 - alpha)
        mixed += colours * np.float32(alpha)
        mixed += np.float32(0.5)
        blended[band] = mixed
    return blended
