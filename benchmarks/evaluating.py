"""How long it takes to compare layers."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.results import Line, at_most
from service.demo.scenes import make_scene
from service.evaluation.asked import Arm, Asked
from service.evaluation.in_process import InProcess
from service.evaluation.outcome import outcome_of
from service.evaluation.pictures import Picture
from service.evaluation.report import report_of
from service.evaluation.run import CHUNK, Run
from service.imaging.preprocess import geometry_for
from service.model_config import ModelConfig
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from service.models.host import ModelHost

_PICTURES = 100
_LAYERS = (
    *("conv1", "relu", "maxpool", "layer1.0", "layer1", "layer2.0", "layer2"),
    *("layer3.0", "layer3", "layer4.0", "layer4", "layer4.1.bn2"),
)
_LOOKS = (0.1, 0.25, 0.5, 0.75)  # when the time that is said to be left is compared with the time that was


class _Varied(InProcess):
    """A network of random weights that, as a trained one does, sees different classes on different pictures."""

    def __init__(self, host: ModelHost, pixels: NDArray[np.uint8]) -> None:
        super().__init__(host)
        parts = (pixels[begin : begin + CHUNK] for begin in range(0, len(pixels), CHUNK))
        self._mean = np.concatenate([super(_Varied, self).logits(part) for part in parts]).mean(axis=0)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(100 * (super().logits(pixels) - self._mean), np.float32)


def hundred_pictures_and_twelve_layers() -> Iterator[str | Line]:
    """Minutes of an evaluation, by what they went to; and whether the time that was said to be left was true."""
    config = ModelConfig(name="resnet18", architecture="resnet18", weights="random")
    host = load_model(config, "cpu", Downloads(Settings().cache_dir, allowed=False))
    spec, rng = host.info.preprocess, np.random.default_rng(0)
    pictures = []
    for number in range(_PICTURES):
        scene = make_scene(rng, number % 12, size=(spec.width, spec.height))
        geometry = geometry_for(spec, spec.width, spec.height)
        pictures.append(Picture(f"{number}.png", scene.pixels, geometry, None, {}))
    subject = _Varied(host, np.stack([picture.pixels for picture in pictures]))
    run = Run(subject, pictures, Asked(tuple(Arm(layer, "gradcam") for layer in _LAYERS)))
    began = last = time.perf_counter()
    spent: dict[str, float] = defaultdict(float)
    said: list[tuple[float, float, float | None]] = []
    for progress in run.steps():
        now = time.perf_counter()
        spent[progress.stage] += now - last
        share, last = progress.done / progress.total, now
        if len(said) < len(_LOOKS) and share >= _LOOKS[len(said)]:
            said.append((share, now - began, progress.left_s))
    outcome = outcome_of(run)
    report_of(outcome)
    took = time.perf_counter() - began
    yield at_most(
        10,
        took / 60,
        f"ResNet-18, {_PICTURES} pictures × {len(_LAYERS)} layers: {took / 60:.1f} min "
        f"({', '.join(f'{stage} {seconds:.0f} s' for stage, seconds in spent.items() if seconds >= 1)}), "
        f"{len(run.mosaics)} mosaics, {len(run.kept())} candidates in the second round, {len(run.finalists())} in the "
        "last",
        "min",
    )
    for share, passed, told in said:
        left = f"{'nothing' if told is None else f'{told:.0f} s'} said to be left, {took - passed:.0f} s were"
        yield f"after {share:.0%}: {passed:.0f} s gone, {left}"
