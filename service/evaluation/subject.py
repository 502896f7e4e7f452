"""What an evaluation asks of a model. It knows nothing of how, or in which process, the answers are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.evaluation.asked import Arm
    from service.models.info import ModelInfo
    from service.vocabulary import Activation

__all__ = ["Subject", "grey_of", "probabilities_of"]


class Subject(Protocol):
    """A model."""

    @property
    def info(self) -> ModelInfo:
        """What is known of it."""

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits (N, classes) for inputs (N, h, w, channels)."""

    def maps(
        self, pixels: NDArray[np.uint8], classes: Sequence[Sequence[int]], arms: Sequence[Arm]
    ) -> list[NDArray[np.float32]]:
        """Return for each arm the raw maps (N, K, h, w), at least 0 everywhere, of the K classes of each picture."""

    def takes(self, height: int, width: int) -> bool:
        """Whether it can be shown, and explained for, inputs of another size than its own."""

    def with_random_head(self, seed: int) -> Subject | None:
        """Return the same model with a last layer that has learned nothing; None where there is no such layer."""


def probabilities_of(logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float64]:
    """Return the probabilities (N, classes) that logits stand for."""
    values = logits.astype(np.float64)
    if activation == "none":
        return values
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(values, -700, 700)))
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def grey_of(info: ModelInfo) -> NDArray[np.float64]:
    """Return the pixel (channels,), 0–255 and in RGB, that the model's normalisation makes zero of."""
    spec = info.preprocess
    mean = np.array(spec.mean) / spec.scale
    return mean[::-1] if spec.order == "BGR" else mean
