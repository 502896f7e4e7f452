"""How many bytes an answer has: estimated before anything is drawn, and counted as it is.

Runs in the front process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.engine.answers import MapAnswer
    from service.vocabulary import ImageFormat, Output

__all__ = ["bytes_around", "bytes_of", "encoded_bytes", "explanation_bytes"]

_BASE64 = 4 / 3

# Names and numbers, as JSON.
_ANSWER, _PICTURE, _CLASS, _EXPLANATION = 400, 300, 100, 550
_PICTURE_FRAME = 70  # around each drawn picture: its media type and size
_REGION, _POINT = 200, 16
# Of an explanation: a few, with some tens of points each.
_REGIONS = 1000
_SCORES, _PROOF = 150, 600


@dataclass(frozen=True)
class _Curve:
    """Bytes of a drawn picture: ``header + factor * pixels ** by_pixels * cells ** by_cells``.

    A smooth map has the fewer bytes for a pixel the larger it is drawn. An overlay's are those of the picture under it.
    """

    header: int
    factor: float
    by_pixels: float
    by_cells: float = 0.0

    def __call__(self, pixels: int, cells: int) -> float:
        return self.header + self.factor * math.pow(pixels, self.by_pixels) * math.pow(
            max(1, min(cells, pixels)), self.by_cells
        )


# Fitted to photos, with maps of 13 × 13 to 224 × 224 cells, drawn on 3,000 to 7 million pixels.
_CURVES: dict[tuple[Output, ImageFormat], _Curve] = {
    ("heatmap", "png"): _Curve(1100, 0.9, 0.81, 0.09),
    ("heatmap", "jpeg"): _Curve(620, 2.4, 0.69, 0.06),
    ("heatmap", "webp"): _Curve(60, 3.1, 0.72, 0.1),
    ("mask", "png"): _Curve(80, 0.9, 0.76, 0.13),
    ("mask", "jpeg"): _Curve(330, 1.1, 0.7, 0.07),
    ("mask", "webp"): _Curve(60, 2.1, 0.74, 0.1),
    ("overlay", "png"): _Curve(80, 2.6, 0.93),
    ("overlay", "jpeg"): _Curve(620, 0.8, 0.87),
    ("overlay", "webp"): _Curve(60, 0.9, 0.84),
    ("hidden", "png"): _Curve(80, 2.6, 0.93),
    ("hidden", "jpeg"): _Curve(620, 0.8, 0.87),
    ("hidden", "webp"): _Curve(60, 0.9, 0.84),
}
_AUTO: dict[Output, ImageFormat] = {"heatmap": "png", "overlay": "jpeg", "mask": "png", "hidden": "jpeg"}


def bytes_around(images: int, top_k: int) -> int:
    """Estimate the bytes of an answer beside its explanations: ``top_k`` classes for each image."""
    return _ANSWER + images * (_PICTURE + _CLASS * top_k) if images else 0


def encoded_bytes(output: Output, image_format: ImageFormat, pixels: int, cells: int) -> float:
    """Estimate the bytes of a drawn picture as a file; 0 for an output that is none.

    Args:
        output: what is drawn.
        image_format: as it was asked for.
        pixels: of the drawn picture.
        cells: of the map.
    """
    if output not in _AUTO:
        return 0.0
    return _CURVES[output, _AUTO[output] if image_format == "auto" else image_format](pixels, cells)


def explanation_bytes(
    outputs: tuple[Output, ...], image_format: ImageFormat, pixels: int, cells: int, *, verify: bool = False
) -> float:
    """Estimate the bytes of an explanation as JSON, see ``encoded_bytes``; ``verify``: with its proof."""
    total = float(_EXPLANATION + (_PROOF if verify else 0))
    for output in outputs:
        if output == "regions":
            total += _REGIONS
        elif output == "scores":
            total += _SCORES
        elif output == "map":
            total += _BASE64 * 4 * cells
        else:
            total += _PICTURE_FRAME + _BASE64 * encoded_bytes(output, image_format, pixels, cells)
    return total


def bytes_of(drawn: MapAnswer, *, with_map: bool) -> float:
    """Count the bytes of an explanation as JSON, all but exactly."""
    regions = drawn.rendered.regions or ()
    encoded = drawn.rendered.bytes + (drawn.raw.nbytes if with_map else 0)
    told = _EXPLANATION + (0 if drawn.scores is None else _SCORES) + (0 if drawn.proof is None else _PROOF)
    return told + _BASE64 * encoded + sum(_REGION + _POINT * len(region.polygon) for region in regions)
