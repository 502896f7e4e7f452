"""How well maps lie on the object, with the placing of cells that was measured and with the grid stretched."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, get_args

import numpy as np
from PIL import Image

from benchmarks.timing import medians
from service.cam.targets import Targets, Top
from service.demo.scenes import make_scene
from service.imaging.preprocess import PreprocessSpec, geometry_for
from service.imaging.render import RenderSpec, render
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from service.vocabulary import Registration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from service.demo.scenes import Scene
    from service.models.host import ModelHost

_SCENES, _SEED = 400, 5


def measured_against_stretched() -> Iterator[str]:
    """Judge Grad-CAM maps of the embedded model by the known object, drawn in both ways."""
    rng = np.random.default_rng(_SEED)
    scenes = [make_scene(rng, distractors=number % 4) for number in range(_SCENES)]
    with tempfile.TemporaryDirectory() as folder:
        host = load_model(ModelConfig(architecture="shapes"), "cpu", Downloads(Path(folder), allowed=False))
    pixels = np.stack([scene.pixels for scene in scenes])
    for layer in ("layer4", "layer3", "layer2"):
        answers = host.explain(pixels, [Targets((Top(1),))] * len(scenes), HowTo((layer,), ("gradcam",)))
        maps = [answer.maps[0].values.numpy() for answer in answers]
        for registration in get_args(Registration):
            hits, off, overlap = _judged(host, layer, registration, maps, scenes)
            yield (
                f"shapes {layer}, {registration:8}: peak on the object in {hits:.1%}, "
                f"centroid {off:.2f} px off, IoU {overlap:.3f}"
            )


def load_with_and_without_measuring() -> Iterator[str]:
    """Load ResNet-50 where nothing is known of it, and where what was measured is kept."""
    config = ModelConfig(architecture="resnet50", weights="random")
    with tempfile.TemporaryDirectory() as kept:

        def load(folder: str) -> None:
            load_model(config, "cpu", Downloads(Path(folder), allowed=False))

        def load_anew() -> None:
            with tempfile.TemporaryDirectory() as folder:
                load(folder)

        times = medians({"measured": load_anew, "kept": lambda: load(kept)}, rounds=5)
    added = times["measured"] - times["kept"]
    yield f"ResNet-50: {times['measured']:.1f} s to load, {added:.1f} s of them to measure where its cells look"


def _judged(
    host: ModelHost,
    layer: str,
    registration: Registration,
    maps: Sequence[NDArray[np.float32]],
    scenes: Sequence[Scene],
) -> tuple[float, float, float]:
    """Return the share of peaks on the object, the mean distance of centroids in pixels, and the mean IoU at half."""
    side = host.info.preprocess.height
    placement = host.info.layer(layer).placed(registration, side, side)
    geometry = geometry_for(PreprocessSpec("squash", side, side), side, side)
    rows, columns = np.mgrid[:side, :side] + 0.5
    hits, off, overlaps = [], [], []
    for values, scene in zip(maps, scenes, strict=True):
        drawn = render(values, geometry, RenderSpec(("mask",)), placement=placement)
        if drawn.peak is None or drawn.mask is None:
            continue  # an empty map is as empty in either way
        mask, target = np.asarray(Image.open(io.BytesIO(drawn.mask.data))).astype(float), scene.target_mask
        hits.append(float(target[min(side - 1, int(drawn.peak.y)), min(side - 1, int(drawn.peak.x))]))
        x, y = (mask * columns).sum() / mask.sum(), (mask * rows).sum() / mask.sum()
        off.append(float(np.hypot(x - columns[target].mean(), y - rows[target].mean())))
        overlaps.append(float((target & (mask >= 128)).sum() / (target | (mask >= 128)).sum()))
    return mean(hits), mean(off), mean(overlaps)
