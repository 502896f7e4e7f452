"""Draw the sheet of methods and play the pointing game for docs/methods.md: ``.venv/bin/python docs/make_methods.py``.

Takes some minutes. The sheet comes out of the engine, as requests would get it. The pointing game asks, on scenes that
training never saw, whether the hottest cell lies in the object's box; the embedded model's scenes know where that is.
"""

from __future__ import annotations

import asyncio
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from service.cam.methods import METHODS
from service.cam.targets import Targets, Top
from service.demo.scenes import Scene, make_scene
from service.engine.explainer import Explainer
from service.engine.request import Request, Upload
from service.metrics import Metrics
from service.models.host import HowTo, ModelHost
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig, Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "service" / "demo" / "samples"
SHOWN = ("03-star", "06-crescent", "08-heart", "09-arrow", "11-gear")
LAYERS = ("layer1", "layer2", "layer3", "layer4")
SCENES, SEED = 120, 20_260
SIDE, GAP, LABEL = 96, 6, 16
# Methods that need a transformer have nothing to show on the embedded model.
NAMES = tuple(name for name, row in METHODS.items() if row.refusal is None)


async def draw_sheet() -> Image.Image:
    """One row per sample, one column per method, half of the methods below the other half."""
    explainer = Explainer(Settings(), Metrics())
    await explainer.start()
    await explainer.settled()
    try:
        rows = [await _overlays(explainer, name) for name in SHOWN]
    finally:
        await explainer.stop()
    half = (len(NAMES) + 2) // 2
    blocks = [[("picture", *NAMES)[i] for i in range(len(NAMES) + 1)][begin : begin + half] for begin in (0, half)]
    height = LABEL + len(rows) * (SIDE + GAP)
    sheet = Image.new("RGB", (half * (SIDE + GAP) + GAP, 2 * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for block, titles in enumerate(blocks):
        for column, title in enumerate(titles):
            x, y = GAP + column * (SIDE + GAP), GAP + block * height
            pen.text((x + SIDE / 2, y), title.replace("gradcam_elementwise", "elementwise"), "#333", font, anchor="ma")
            for number, row in enumerate(rows):
                sheet.paste(row[title], (x, y + LABEL + number * (SIDE + GAP)))
    return sheet


async def _overlays(explainer: Explainer, name: str) -> dict[str, Image.Image]:
    data = (SAMPLES / f"{name}.png").read_bytes()
    answer = await explainer.answer(
        Request(
            [Upload(data, name)],
            outputs=("overlay",),
            methods=NAMES,
            image_format="png",
            size="model",
            timeout_s=600,
        )
    )
    (picture,) = answer.images
    drawn = {"picture": Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE))}
    for explanation in picture.explanations:
        assert explanation.rendered.overlay is not None
        drawn[explanation.method] = Image.open(io.BytesIO(explanation.rendered.overlay.data)).resize((SIDE, SIDE))
    return drawn


def pointing_game() -> dict[str, dict[str, float]]:
    """Method → layer → share of scenes whose hottest cell lies in the object's box."""
    host = load_model(
        ModelConfig(name="shapes", architecture="shapes"), "cpu", Downloads(Settings().cache_dir, allowed=False)
    )
    generator = np.random.default_rng(SEED)
    scenes = [make_scene(generator) for _ in range(SCENES)]
    return {name: {layer: _share(host, scenes, name, layer) for layer in LAYERS} for name in NAMES}


def _share(host: ModelHost, scenes: list[Scene], method: str, layer: str) -> float:
    hits = 0
    for begin in range(0, len(scenes), 20):
        chunk = scenes[begin : begin + 20]
        pixels = np.stack([scene.pixels for scene in chunk])
        answers = host.explain(pixels, [Targets((Top(1),))] * len(chunk), HowTo((layer,), (method,)))
        hits += sum(_hit(answer.maps[0].values.numpy(), scene) for answer, scene in zip(answers, chunk, strict=True))
    return hits / len(scenes)


def _hit(raw: NDArray[np.float32], scene: Scene) -> bool:
    height, width = raw.shape
    row, column = divmod(int(raw.argmax()), width)
    x, y = (column + 0.5) * scene.pixels.shape[1] / width, (row + 0.5) * scene.pixels.shape[0] / height
    left, top, right, bottom = scene.box
    return bool(raw.any()) and left <= x <= right and top <= y <= bottom


def table(shares: dict[str, dict[str, float]]) -> str:
    """Write the shares as a Markdown table."""
    head = f"| method | {' | '.join(f'`{layer}`' for layer in LAYERS)} |\n|---|{'--:|' * len(LAYERS)}\n"
    rows = [
        f"| `{name}` | {' | '.join(f'{shares[name][layer]:.0%}' for layer in LAYERS)} |"
        if METHODS[name].uses_layer
        else f"| `{name}` | {f'{shares[name][LAYERS[-1]]:.0%}'} (whole network) | | | |"
        for name in NAMES
    ]
    return head + "\n".join(rows) + "\n"


def main() -> None:
    """Write the sheet and the table."""
    torch.set_num_threads(2)
    asyncio.run(draw_sheet()).save(HERE / "images" / "methods.jpg", quality=84, optimize=True)
    page = HERE / "methods.md"
    marked = re.compile(r"(<!-- pointing game -->\n).*?(<!-- end -->)", re.DOTALL)
    page.write_text(marked.sub(lambda match: match[1] + table(pointing_game()) + match[2], page.read_text()))


if __name__ == "__main__":
    main()
