"""Whether an image has one answer: the same whenever it is asked for, and whatever images are beside it."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from service.cam.capture import TOLERANCE, logits_apart, same_logits
from service.cam.explain import predict
from service.errors import ModelLoadError
from service.models.info import ModelWarning
from service.models.quantisation import quantised_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from service.cam.network import Network

__all__ = ["check_repeatable", "check_rows", "rows_apart", "runs_apart"]

# What is drawn may be a coin per image, which falls on the same side in all passes with a probability of 2^-23.
_PASSES = 24
# Of a model that uses none of the random numbers that can be watched, passes are made for so long, and some at least.
_LONG_ENOUGH_S, _FEWEST_PASSES = 0.5, 3

_SMALLEST_LOGIT = 1e-3  # below, rounding of what was summed up to a logit is larger than the tolerance

# Of the tolerance, what is left where the same batch is computed in the same way: rounding is the same, too. Not with
# layers that are quantised as they are computed: how coarsely follows the whole batch.
_SAME_WAY = 1e-2


def runs_apart(network: Network, images: Tensor) -> float:
    """Return how far two answers for the same images lie apart, as a share of the largest logit."""
    return logits_apart(predict(network, images), predict(network, images))


def rows_apart(network: Network, images: Tensor) -> float:
    """Return how far the answers for images alone and together lie apart, as a share of the largest logit."""
    return logits_apart(_alone(network, images), predict(network, images), _SMALLEST_LOGIT)


def _alone(network: Network, images: Tensor) -> Tensor:
    return torch.cat([predict(network, image[None]) for image in images])


# -- the same every time ----------------------------------------------------------------------------------------------


def check_repeatable(network: Network, module: nn.Module, images: Tensor) -> tuple[ModelWarning, ...]:
    """Refuse a model that answers the same images differently; warn of one that draws random numbers to no effect.

    Random numbers of PyTorch, NumPy and Python are noticed by their state: no luck hides a model that uses them.

    Raises:
        ModelLoadError: it does; the message says whether by chance.
        ModelOutputError: it gives no logits.
    """
    before, began = _random_states(images), time.monotonic()
    first = predict(network, images)
    draws = _random_states(images) != before
    for done in range(1, _PASSES):
        if not draws and done >= _FEWEST_PASSES and time.monotonic() - began > _LONG_ENOUGH_S:
            break
        if not same_logits(predict(network, images), first, images.dtype):
            raise ModelLoadError(_why_not_the_same(network, module, images, draws=draws))
    return (_DRAWS,) if draws else ()


_DRAWS = ModelWarning(
    "random_numbers",
    "It draws random numbers while it predicts, though no answer that was tried changed with them. If one does, the "
    "same picture gets different maps: leave out what draws them where the model is not training.",
)


def _random_states(images: Tensor) -> tuple[object, ...]:
    """Return the states of the generators that a model's code may use without having one of its own."""
    legacy = np.random.get_state()
    devices = [torch.cuda.get_rng_state(images.device)] if images.device.type == "cuda" else []
    tensors = tuple(state.numpy().tobytes() for state in (torch.get_rng_state(), *devices))
    return (*tensors, random.getstate(), legacy[1].tobytes(), *legacy[2:])  # type: ignore[index]


def _why_not_the_same(network: Network, module: nn.Module, images: Tensor, *, draws: bool) -> str:
    modes = _in_training_mode(module)
    if draws and _same_with_one_seed(network, images):
        return (
            "The model gives the same picture another answer every time, because it draws random numbers: dropout that "
            "is active at inference, most likely. Write functional.dropout(x, p, self.training), and leave no module "
            "in training mode."
        ) + modes
    return (
        "The model gives the same picture another answer every time, and not by random numbers of PyTorch, NumPy or "
        "Python: what it keeps from one pass to the next, or a generator of its own, changes what it computes."
    ) + modes


def _same_with_one_seed(network: Network, images: Tensor) -> bool:
    devices = [images.device] if images.device.type == "cuda" else []
    found = []
    with _python_and_numpy_restored():
        for _ in range(2):
            with torch.random.fork_rng(devices):
                torch.manual_seed(0)
                random.seed(0)
                np.random.seed(0)  # the one that code without a generator of its own uses
                found.append(predict(network, images))
    first, second = found
    return same_logits(first, second, images.dtype)


@contextmanager
def _python_and_numpy_restored() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


# -- whatever is beside it --------------------------------------------------------------------------------------------


def check_rows(network: Network, module: nn.Module, images: Tensor) -> None:
    """Refuse a model whose answer for an image depends on the images beside it.

    Raises:
        ModelLoadError: the rows are not independent, so that batches would answer wrongly.
        ModelOutputError: it gives no logits.
    """
    together = predict(network, images)
    alone = same_logits(_alone(network, images), together, images.dtype, _SMALLEST_LOGIT)
    most = TOLERANCE[images.dtype] * (1 if quantised_layers(module) else _SAME_WAY)
    if not alone or _beside_others(network, images, together) > most:
        raise ModelLoadError(
            "The model's answer for a picture changes with the other pictures in the batch, so it cannot be batched. "
            "Look for a layer that mixes rows, such as a normalisation over the batch that is active in eval mode."
            + _in_training_mode(module)
        )


def _beside_others(network: Network, images: Tensor, together: Tensor) -> float:
    """Return how far the first answer and the last move when other images are beside them, and nothing else differs.

    A batch of one is computed by other algorithms than a larger one, which hides a small dependence in their rounding.
    Batches of one size are not.
    """
    others = images.flip(-1) * 0.5
    apart = []
    for row in {0, len(images) - 1}:
        batch = others.clone()
        batch[row] = images[row]
        apart.append(logits_apart(predict(network, batch)[row], together[row], _SMALLEST_LOGIT))
    return max(apart)


def _in_training_mode(module: nn.Module) -> str:
    training = [f"{name} ({type(part).__name__})" for name, part in module.named_modules() if part.training and name]
    return f" In training mode in spite of eval(): {', '.join(training[:5])}." if training else ""
