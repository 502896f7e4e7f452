"""What of a model's outputs is measured: the logit of the class that a map explains, and its probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.vocabulary import Activation

__all__ = ["Scale", "probabilities"]

# Probabilities of 0 and 1 have no log-odds; nearer than that they are taken for it.
_NEAREST = 1e-7


def probabilities(outputs: NDArray[np.float64], activation: Activation) -> NDArray[np.float64]:
    """Return the probabilities of classes, the last axis, from a model's outputs."""
    if activation == "none":
        return outputs
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(outputs, -700, 700)))
    exponentials = np.exp(outputs - outputs.max(-1, keepdims=True))
    shares: NDArray[np.float64] = exponentials / exponentials.sum(-1, keepdims=True)
    return shares


@dataclass(frozen=True)
class Scale:
    """What is read off the outputs of a model.

    Attributes:
        activation: what makes probabilities of them.
        target: the class that the map explains.
        against: what it is compared with; the score is then the difference of both.
    """

    activation: Activation
    target: int
    against: int | None = None

    def logits(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the score of each row of outputs (n, classes).

        It is the logit; log-odds where the outputs are probabilities already, which say little near 0 and 1.
        """
        logits = outputs.astype(np.float64)
        if self.activation == "none" and logits.min() >= 0 and logits.max() <= 1:
            near = np.clip(logits, _NEAREST, 1 - _NEAREST)
            logits = np.log(near / (1 - near))
        score: NDArray[np.float64] = logits[:, self.target]
        return score if self.against is None else score - logits[:, self.against]

    def probability(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the target's probability in each row of outputs (n, classes)."""
        chances: NDArray[np.float64] = probabilities(outputs.astype(np.float64), self.activation)[:, self.target]
        return chances
