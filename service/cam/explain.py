"""The one orchestrator of the maths: (model, batch, questions) to logits and raw maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from service.cam.capture import Capture, capture, check_logits, gradients
from service.cam.methods import METHODS
from service.cam.questions import Question, Top
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cam.layers import Layer

__all__ = ["Answer", "explain", "predict"]


@dataclass(frozen=True)
class Answer:
    """One picture's answer, on the CPU.

    Attributes:
        logits: (classes,) float32.
        targets: the T class indices that were explained.
        maps: ``maps[layer][method]``, raw maps (T, h, w) float32, layers and methods in the order asked.
    """

    logits: Tensor
    targets: tuple[int, ...]
    maps: list[list[Tensor]]


def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return float32 logits (N, classes), on the CPU, for ``inputs`` (N, 3, H, W), with no gradient work.

    Raises:
        ModelOutputError: the logits are not of that shape or not finite.
    """
    with torch.inference_mode():
        return _finite_logits(check_logits(model(inputs), len(inputs)))


def explain(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    layers: Sequence[Layer],
    methods: Sequence[str],
) -> list[Answer]:
    """Answer one question per row of a batch, from one forward pass.

    Args:
        model: frozen, in eval mode, with rows that do not influence one another; not changed.
        inputs: (N, 3, H, W) in the model's dtype.
        questions: one per row; rows may ask for different classes and different numbers of them.
        layers: where to look; the same for all rows.
        methods: names from ``METHODS``; the same for all rows.

    Returns:
        One answer per row. The maths is done in float32 whatever the model's dtype.

    Raises:
        ModelOutputError: logits or a map are not finite; the message names the layer.
    """
    captured = capture(model, inputs, [layer.call for layer in layers])
    logits = _finite_logits(captured.logits)
    targets = _resolve(questions, logits)
    activations = [layer.to_nchw(captured.activations[layer.call].detach()).float() for layer in layers]
    most = max(len(row) for row in targets)
    per_target = [
        _maps(captured, _direction(logits.shape, questions, targets, k), activations, layers, methods)
        for k in range(most)
    ]
    maps = [
        [torch.stack([maps[i][j] for maps in per_target], dim=1).cpu() for j in range(len(methods))]  # (N, most, h, w)
        for i in range(len(layers))
    ]
    return [
        Answer(logits[n], row, [[raw[n, : len(row)] for raw in layer] for layer in maps])
        for n, row in enumerate(targets)
    ]


def _finite_logits(output: Tensor) -> Tensor:
    logits = output.detach().float().cpu()
    if not logits.isfinite().all():
        raise ModelOutputError("The model's logits are not finite (NaN or infinity) for this picture.")
    return logits


def _resolve(questions: Sequence[Question], logits: Tensor) -> list[tuple[int, ...]]:
    deepest = max((target.k for q in questions for target in q.targets if isinstance(target, Top)), default=0)
    # Stable, so that classes that tie are ranked by index here and wherever predictions are listed.
    rankings = logits.argsort(dim=1, descending=True, stable=True)[:, :deepest].tolist()
    return [question.resolve(ranking) for question, ranking in zip(questions, rankings, strict=True)]


def _direction(shape: torch.Size, questions: Sequence[Question], targets: Sequence[tuple[int, ...]], k: int) -> Tensor:
    """Weights of the logits (N, classes) in every row's k-th score; zero for rows that ask fewer questions."""
    direction = torch.zeros(shape)
    for n, (question, row) in enumerate(zip(questions, targets, strict=True)):
        if k < len(row):
            direction[n, row[k]] += 1
            if question.against is not None:
                direction[n, question.against] -= 1
    return direction


def _maps(
    captured: Capture,
    direction: Tensor,
    activations: list[Tensor],
    layers: Sequence[Layer],
    methods: Sequence[str],
) -> list[list[Tensor]]:
    """Raw maps (N, h, w) per layer and method for one score per row."""
    found = gradients(captured, direction)
    maps = []
    for layer, activation in zip(layers, activations, strict=True):
        gradient = layer.to_nchw(found[layer.call]).float()  # (N, C, h, w)
        maps.append([_finite(METHODS[name].compute(activation, gradient), layer, name) for name in methods])
    return maps


def _finite(raw: Tensor, layer: Layer, method: str) -> Tensor:
    if not raw.isfinite().all():
        raise ModelOutputError(f"The {method} map at layer {layer.name!r} is not finite (NaN or infinity).")
    return raw
