"""What it costs to put a map to the proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.timing import medians
from service.cam.methods import METHODS
from service.cam.targets import Targets, Top
from service.engine.amount import amount, amount_of_proofs
from service.engine.messages import Lane
from service.engine.workers.counterparts import Asked
from service.engine.workers.verifying import Examined
from service.models.info import ModelKey
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig, Settings
from service.verification.region import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.models.host import ModelHost

# A pass for every channel: an explanation takes so long that its proof does not matter.
_MINUTES = ("scorecam", "ablationcam")


def proofs_against_passes() -> Iterator[str]:
    """Passes of one map's proof, method by method, and its time in bare predictions of one picture."""
    host = _loaded("resnet18")
    side = host.info.preprocess.height
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for method in (name for name in _applicable(host) if name not in _MINUTES):
        examined = _explained(host, method, pixels)
        (found,) = examined.proofs()
        times = medians({"predict": lambda: host.predict(pixels[None]), "proof": examined.proofs}, rounds=3)
        layer = host.info.layer("default")
        estimate = amount_of_proofs([method], [layer], 1, examined.asked.lane.cam_options)
        explained = amount([method], [layer], flops=host.info.flops)
        yield (
            f"ResNet-18, {method}: {found.passes} passes, {times['proof'] / times['predict']:.1f} × one prediction "
            f"({times['proof'] * 1000:.0f} ms); estimated {estimate:.1f}, beside {explained:.1f} of the explanation"
        )


def _loaded(architecture: str) -> ModelHost:
    config = ModelConfig(name=architecture, architecture=architecture, weights="random")
    return load_model(config, "cpu", Downloads(Settings().cache_dir, allowed=False))


def _applicable(host: ModelHost) -> list[str]:
    return [name for name in METHODS if name not in host.info.refused_methods]


def _explained(host: ModelHost, method: str, pixels: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]) -> Examined:
    layer, targets = host.info.default_layer, Targets((Top(1),))
    assert layer is not None
    lane = Lane(ModelKey("m", 1), "explain", (layer,), (method,), large=True, verify=True)
    asked = Asked(host, lane, pixels, targets, lambda _done, _total: None)
    return Examined(asked, View(0, 0, *pixels.shape[:2]), *asked.answered())
