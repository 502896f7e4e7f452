"""Draw the pictures of cvat.md and fiftyone.md: ``.venv-tools/bin/python docs/make_tool_pictures.py [URL]``.

Everything shown is what the client gave to the tool's own package. It needs a running server with the embedded models,
and the environment that ``scripts/test-tools`` makes.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.client import Client
from service.client.cvat import DetectionFunction, create
from service.imaging.colormaps import COLORMAPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tile = tuple[Image.Image, str]

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "service" / "demo" / "samples"
SIDE, GAP, CAPTION = 288, 12, 26
PAPER, INK, GREEN, ORANGE = (255, 255, 255), (60, 60, 60), (0, 150, 60), (255, 140, 0)


def row(*tiles: Tile) -> Image.Image:
    """Lay pictures out side by side, each with its caption below."""
    canvas = Image.new("RGB", (len(tiles) * (SIDE + GAP) + GAP, SIDE + CAPTION + GAP), PAPER)
    pen = ImageDraw.Draw(canvas)
    for column, (picture, caption) in enumerate(tiles):
        left = GAP + column * (SIDE + GAP)
        canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, GAP))
        middle = (left + SIDE / 2, GAP + SIDE + CAPTION / 2)
        pen.text(middle, caption, fill=INK, font=ImageFont.load_default(15), anchor="mm")
    return canvas


def tinted(picture: Image.Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Image.Image:
    """Draw a mask over a picture as tools do, half transparent."""
    opacity = Image.fromarray((mask * 130).astype(np.uint8))
    return Image.composite(Image.new("RGB", picture.size, colour), picture, opacity)


def cvat(url: str, name: str) -> Image.Image:
    """Show a picture, and what the function gives to ``cvat-cli`` at two thresholds."""
    from cvat_sdk.auto_annotation.driver import _DetectionFunctionContextImpl as Context  # noqa: PLC0415
    from cvat_sdk.masks import decode_mask  # noqa: PLC0415

    with Image.open(SAMPLES / name) as image:
        picture = image.convert("RGB")
    drawn = picture
    for threshold, colour in ((0.3, ORANGE), (0.7, GREEN)):
        function = create(url, kind="mask", region_threshold=threshold)
        assert isinstance(function, DetectionFunction)
        for shape in function.detect(Context(frame_name=name, conf_threshold=None), picture):
            mask = decode_mask(shape.points, image_width=picture.width, image_height=picture.height)
            drawn = tinted(drawn, mask, colour)
        function.close()
    with Client(url) as client:
        heat = client.explain(SAMPLES / name, output="overlay", image_format="png").overlay()
    return row((picture, "the picture"), (drawn, "masks at 0.3 and 0.7"), (heat.convert("RGB"), "camserve's heatmap"))


def fiftyone(url: str, name: str) -> Image.Image:
    """Show a picture, the heatmap of its sample, and the sample's regions."""
    import fiftyone as fo  # noqa: PLC0415

    from service.client.fiftyone import add_explanations  # noqa: PLC0415

    sample = fo.Sample(filepath=str(SAMPLES / name))
    with Client(url) as client:
        add_explanations([sample], client)
    with Image.open(SAMPLES / name) as image:
        picture = image.convert("RGB")
    grid = Image.fromarray(COLORMAPS["viridis"].table[sample["heatmap"].map])
    heat = Image.blend(picture, grid.resize(picture.size, Image.Resampling.BICUBIC), 0.55)
    drawn = picture
    for detection in sample["regions"].detections:
        drawn = _detected(drawn, detection)
    best = sample["prediction"]
    return row((picture, f"{best.label} {best.confidence:.2f}"), (heat, "heatmap"), (drawn, "regions"))


def _detected(picture: Image.Image, detection: Any) -> Image.Image:
    left, top, wide, high = detection.bounding_box
    x, y = round(left * picture.width), round(top * picture.height)
    mask = np.zeros((picture.height, picture.width), np.bool_)
    rows, columns = detection.mask.shape
    mask[y : y + rows, x : x + columns] = detection.mask
    drawn = tinted(picture, mask, GREEN)
    box = (x, y, round((left + wide) * picture.width) - 1, round((top + high) * picture.height) - 1)
    ImageDraw.Draw(drawn).rectangle(box, outline=GREEN)
    return drawn


def main(url: str) -> None:
    """Draw both with the server at ``url``."""
    for name, picture in (("cvat", cvat(url, "03-star.png")), ("fiftyone", fiftyone(url, "03-star.png"))):
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=85, method=6)
        (HERE / "images" / f"{name}.webp").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main((sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000").rstrip("/"))
