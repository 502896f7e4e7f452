"""A model in this process, as evaluations ask it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from service.cam.methods import METHODS
from service.cam.targets import Targets
from service.errors import ServiceError
from service.models.host import HowTo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.cam.explain import Explained
    from service.evaluation.asked import Arm
    from service.models.host import ModelHost
    from service.models.info import ModelInfo

__all__ = ["InProcess"]


class InProcess:
    """Implements :class:`service.evaluation.subject.Subject` with a loaded model."""

    def __init__(self, host: ModelHost, random_head: int | None = None) -> None:
        self._host, self._random_head = host, random_head

    @property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return self._host.info

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Subject``."""
        return np.asarray(self._host.predict(pixels).numpy())

    def maps(
        self, pixels: NDArray[np.uint8], classes: Sequence[Sequence[int]], arms: Sequence[Arm]
    ) -> list[NDArray[np.float32]]:
        """See ``Subject``."""
        layers = tuple(dict.fromkeys(arm.layer for arm in arms))
        methods = tuple(dict.fromkeys(arm.method for arm in arms))
        targets = [Targets(tuple(row)) for row in classes]
        how = HowTo(layers, methods, random_head=self._random_head)
        answers = self._host.explain(pixels, targets, how, gives_way=False)  # there is nobody else
        return [_stacked(answers, arm) for arm in arms]

    def takes(self, height: int, width: int) -> bool:
        """See ``Subject``: found out by trying."""
        spec, (layer, method) = self.info.preprocess, (self.info.layer("default"), self._a_method())
        if layer.layout is None or layer.layout.kind == "tokens" or layer.layout.order is not None:
            return False
        pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, spec.channels), dtype=np.uint8)
        try:
            (answer,) = self._host.explain(pixels, [Targets((0,))], HowTo((layer.name,), (method,)))
        except (ServiceError, RuntimeError, ValueError, TypeError, AssertionError):
            return False
        grown = [
            side * extent // own for side, extent, own in zip(layer.grid, (height, width), self._size, strict=True)
        ]
        return all(abs(a - b) <= 1 for a, b in zip(answer.maps[0].values.shape, grown, strict=True))

    @property
    def _size(self) -> tuple[int, int]:
        return self.info.preprocess.height, self.info.preprocess.width

    def _a_method(self) -> str:
        works = (name for name, row in METHODS.items() if row.uses_layer and name not in self.info.refused_methods)
        return next(works)

    def with_random_head(self, seed: int) -> InProcess | None:
        """See ``Subject``."""
        return InProcess(self._host, seed) if self._host.has_random_head() else None


def _stacked(answers: Sequence[Explained], arm: Arm) -> NDArray[np.float32]:
    """Return the maps of an arm: (N, K, h, w)."""
    return np.stack(
        [
            np.stack([raw.values.numpy() for raw in answer.maps if (raw.layer, raw.method) == (arm.layer, arm.method)])
            for answer in answers
        ]
    )
