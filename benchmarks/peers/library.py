"""Grad-CAM at ResNet-50's layer4 in process, as it is served here and by pytorch-grad-cam."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.in_process import served
from benchmarks.precisions import left_out, precisions
from benchmarks.results import at_least
from benchmarks.timing import medians
from service.cam.targets import Targets, Top
from service.models.host import HowTo
from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.results import Line

# Times as fast, at batch 8.
_AT_LEAST = {"float32": 4.0, "bfloat16": 8.0}


def explain_against_the_library() -> Iterator[str | Line]:
    """The same pixels: normalised and explained here, and given to pytorch-grad-cam as it takes them."""
    from pytorch_grad_cam import GradCAM  # noqa: PLC0415  # it imports torchvision, which needs the adapter's help before

    yield from left_out()
    hosts = {precision: served("resnet50", precision) for precision in precisions()}
    model = torchvision.models.get_model("resnet50", weights=None).eval()  # its parameters as the library needs them
    for batch in (1, 8):
        pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
        inputs = hosts["float32"].normalise(pixels).contiguous()  # (N, 3, 224, 224), as its README makes them
        asked = [Targets((Top(1),))] * batch, HowTo(("layer4",), ("gradcam",))
        runs = {name: partial(host.explain, pixels, *asked, gives_way=False) for name, host in hosts.items()}
        with GradCAM(model=model, target_layers=[model.layer4[-1]]) as cam:
            times = medians({"theirs": partial(cam, input_tensor=inputs, targets=None), **runs}, rounds=9)
        for name in hosts:
            ratio = times["theirs"] / times[name]
            text = (
                f"ResNet-50 layer4, {name}, batch {batch}: {ratio:.1f} × as fast as pytorch-grad-cam "
                f"({1000 * times[name] / batch:.0f} against {1000 * times['theirs'] / batch:.0f} ms per picture)"
            )
            yield at_least(_AT_LEAST[name], ratio, text) if batch == 8 else text
