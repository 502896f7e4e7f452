"""What an explanation costs beyond the forward pass, without any server."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.timing import medians
from service.cam.explain import explain
from service.cam.questions import Question, Top
from service.models.host import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from service.cam.layers import Layer


@cache
def _resnet50() -> tuple[nn.Module, Layer]:
    config = ModelConfig(name="resnet50", architecture="resnet50", weights="random")
    host = load_model(config, "cpu", Downloads(Path("unused"), allowed=False))
    return host._module, host._layers["layer4"]


def _explain(batch: int, *targets: int | Top) -> Callable[[], object]:
    model, layer = _resnet50()
    inputs = torch.randn(batch, 3, 224, 224)
    return lambda: explain(model, inputs, [Question(targets)] * batch, [layer], ["gradcam"])


def explain_against_forward() -> Iterator[str]:
    """Grad-CAM at ResNet-50's layer4 against a bare forward pass in inference mode."""
    model, _ = _resnet50()
    for batch in (1, 8):
        inputs = torch.randn(batch, 3, 224, 224)

        @torch.inference_mode()
        def forward(inputs: torch.Tensor = inputs) -> object:
            return model(inputs)

        times = medians({"forward": forward, "explain": _explain(batch, Top(1))}, rounds=15)
        ratio = times["explain"] / times["forward"]
        yield (
            f"ResNet-50 layer4, batch {batch}: {ratio:.2f} × a bare forward pass "
            f"({times['explain'] / batch * 1000:.0f} against {times['forward'] / batch * 1000:.0f} ms per picture)"
        )


def many_targets_against_one() -> Iterator[str]:
    """Ten classes of one picture against one class."""
    times = medians({"one": _explain(1, Top(1)), "ten": _explain(1, Top(10))}, rounds=15)
    yield f"ResNet-50 layer4, one picture: 10 targets cost {times['ten'] / times['one']:.2f} × one target"
