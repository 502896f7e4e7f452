"""Draw pictures of these documents from the embedded scenes: ``.venv/bin/python docs/make_images.py``.

Everything shown comes out of the engine, as a request would get it; this script only lays it out.
"""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.engine.explainer import Explainer
from service.engine.request import Request, Upload
from service.imaging.difference import draw_difference
from service.metrics import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "service" / "demo" / "samples"
SHEET = ("02-triangle", "03-star", "07-hourglass", "08-heart", "09-arrow", "11-gear")
WATERMARKED = "watermark-star"
MOVED, MOVED_CLASS = "watermark-disk", "disk"
WIDTH, GAP, MARGIN, CAPTION = 900, 12, 12, 26
PAPER, INK = (255, 255, 255), (60, 60, 60)


@dataclass(frozen=True)
class Tile:
    """A picture and what stands below it."""

    picture: Image.Image
    caption: str


async def explained(explainer: Explainer, name: str, model: str) -> Tile:
    """Return the overlay of a sample's predicted class, with the prediction as caption."""
    upload = Upload((SAMPLES / f"{name}.png").read_bytes(), name)
    answer = await explainer.answer(Request([upload], outputs=("overlay",), image_format="png", model=model))
    [picture] = answer.images
    drawn = picture.explanations[0].rendered.overlay
    assert drawn is not None
    best = picture.predictions[0]
    return Tile(Image.open(io.BytesIO(drawn.data)), f"{model}: {best.label} {best.probability:.0%}")


async def levels(explainer: Explainer, name: str, model: str, target: str) -> NDArray[np.uint8]:
    """Return a sample's map for a class, (h, w), 0 to 255."""
    upload = Upload((SAMPLES / f"{name}.png").read_bytes(), name)
    asked = Request(
        [upload], outputs=("mask",), image_format="png", model=model, targets=(target,), max_side=64, size="picture"
    )
    mask = (await explainer.answer(asked)).images[0].explanations[0].rendered.mask
    assert mask is not None
    return np.asarray(Image.open(io.BytesIO(mask.data)))


def original(name: str) -> Tile:
    """Return a sample as it is."""
    return Tile(Image.open(SAMPLES / f"{name}.png").convert("RGB"), "")


def sheet(rows: list[list[Tile]]) -> Image.Image:
    """Lay tiles out in rows of one width, each centre-cropped to a square as the model sees it."""
    columns = len(rows[0])
    side = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    heights = [side + (CAPTION if any(tile.caption for tile in row) else 0) for row in rows]
    canvas = Image.new("RGB", (WIDTH, 2 * MARGIN + sum(heights) + GAP * (len(rows) - 1)), PAPER)
    pen = ImageDraw.Draw(canvas)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = MARGIN + column * (side + GAP)
            canvas.paste(_square(tile.picture, side), (left, top))
            pen.text(
                (left + side / 2, top + side + CAPTION / 2),
                tile.caption,
                fill=INK,
                font=ImageFont.load_default(15),
                anchor="mm",
            )
        top += height + GAP
    return canvas


def _square(picture: Image.Image, side: int) -> Image.Image:
    shorter = min(picture.size)
    left, top = (picture.width - shorter) / 2, (picture.height - shorter) / 2
    box = (left, top, left + shorter, top + shorter)
    return picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box)


async def main() -> None:
    """Start the engine with the embedded models, and draw the pictures."""
    explainer = Explainer(Settings(device="cpu"), Metrics())
    await explainer.start()
    try:
        while any(status.state == "loading" for status in explainer.models()):  # noqa: ASYNC110  # a script
            await asyncio.sleep(0.05)
        overlays = [await explained(explainer, name, "shapes") for name in SHEET]
        names = [Tile(tile.picture, tile.caption.removeprefix("shapes: ")) for tile in overlays]
        _save(sheet([[original(name) for name in SHEET], names]), "samples.jpg")
        honest, fooled = [await explained(explainer, WATERMARKED, model) for model in ("shapes", "shapes-shortcut")]
        _save(sheet([[Tile(original(WATERMARKED).picture, "the picture"), honest, fooled]]), "shortcut.jpg")
        was, now = [await levels(explainer, MOVED, model, MOVED_CLASS) for model in ("shapes", "shapes-shortcut")]
        _save(draw_difference(original(MOVED).picture, was, now, "turbo"), "golden.jpg")
    finally:
        await explainer.stop()


def _save(picture: Image.Image, name: str) -> None:
    (HERE / "images").mkdir(exist_ok=True)
    picture.save(HERE / "images" / name, quality=88, subsampling=0)


if __name__ == "__main__":
    asyncio.run(main())
