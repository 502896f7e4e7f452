"""Loaded models, and proofs of maps that are made up."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from service.cam.raw_map import RawMap
from service.cam.targets import Targets
from service.engine.messages import Lane, RowAnswer
from service.engine.workers.counterparts import Asked, Counterparts
from service.engine.workers.verifying import Examined
from service.models.info import ModelKey
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig, Settings
from service.verification.region import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.models.host import ModelHost
    from service.verification.verdict import Verification


def host(architecture: str, **config: Any) -> ModelHost:
    """Load a model, once."""
    return _host(ModelConfig(name="toy", architecture=architecture, **config).model_dump_json())


@cache
def _host(config: str) -> ModelHost:
    return load_model(ModelConfig.model_validate_json(config), "cpu", Downloads(Settings().cache_dir, allowed=False))


def proved(
    model: ModelHost,
    pixels: NDArray[np.uint8],
    maps: Sequence[Any],
    *,
    target: int = 0,
    view: View | None = None,
    against: int | None = None,
    layer: str | None = None,
    **lane: Any,
) -> tuple[Verification, ...]:
    """Put maps that are made up to the proof, as if one method had made them of one layer for equal classes."""
    name = layer or model.info.layer("default").name
    asked = Lane(ModelKey("toy", 1), "explain", (name,), ("gradcam",), large=True, verify=True, **lane)
    raws = tuple(RawMap(name, "gradcam", target, np.asarray(each, np.float32), zero_gradient=False) for each in maps)
    answer = RowAnswer(model.predict(pixels[None], asked.head).numpy()[0], raws)
    targets = Targets((target,) * len(raws), against)
    row = Asked(model, asked, pixels, targets, lambda _done, _total: None)
    return Examined(row, view or View(0, 0, *pixels.shape[:2]), answer, Counterparts()).proofs()
