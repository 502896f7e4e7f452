"""How fast a GPU explains: in process, and over HTTP until decoding is the wall."""

from __future__ import annotations

import asyncio
import statistics
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.in_process import served
from benchmarks.peers.load import load, uploads
from benchmarks.precisions import left_out, precisions
from benchmarks.sockets import server_port, usage
from benchmarks.timing import medians
from service.cam.methods import METHODS
from service.cam.targets import Targets, Top
from service.models.host import HowTo
from service.models.torchvision_adapter import torchvision
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from benchmarks.peers.load import Served
    from service.models.host import ModelHost

_CLIENTS = (1, 16, 64)
_LAYERS = ("layer4", "layer4.0", "layer3", "layer3.0", "layer2")
_PATH = "/api/v1/explain?output=map"


def _asked(
    host: ModelHost, batch: int, classes: int = 1, layers: tuple[str, ...] = ("layer4",)
) -> Callable[[], object]:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    return partial(host.explain, pixels, [Targets((Top(classes),))] * batch, HowTo(layers, ("gradcam",)))


def in_process(device: str) -> Iterator[str]:
    """ResNet-50's layer4 against a bare float32 pass, and ten targets and five layers against one."""
    yield from left_out(device)
    hosts = {precision: served("resnet50", precision, device) for precision in precisions(device)}
    model = torchvision.models.get_model("resnet50", weights=None).eval().to(device)
    for batch in (1, 8, 32):
        inputs = torch.randn(batch, 3, 224, 224, device=device)

        @torch.inference_mode()
        def forward(inputs: torch.Tensor = inputs) -> object:
            return model(inputs).argmax(1).cpu()  # which waits for the device, as an answer does

        times = medians({"bare": forward, **{name: _asked(host, batch) for name, host in hosts.items()}}, rounds=20)
        for name in hosts:
            yield (
                f"ResNet-50 layer4, {name}, batch {batch}: {times[name] / times['bare']:.2f} × a bare float32 forward "
                f"pass ({1000 * times[name] / batch:.2f} against {1000 * times['bare'] / batch:.2f} ms per picture)"
            )
    for name, host in hosts.items():
        runs = {"one": _asked(host, 8), "ten": _asked(host, 8, classes=10), "five": _asked(host, 8, layers=_LAYERS)}
        times = medians(runs, rounds=10)
        ten, five = times["ten"] / times["one"], times["five"] / times["one"]
        yield f"ResNet-50, {name}, batch 8: ten targets cost {ten:.2f} × one, five layers {five:.2f} × one"


def over_http(device: str, seconds: float) -> Iterator[str]:
    """Answers a second with more and more clients, beside those in process, and how busy the front is."""
    for precision in precisions(device):
        host = served("resnet50", precision, device)
        times = medians({"lone": _asked(host, 1), "many": _asked(host, 16)}, rounds=10)
        options = f"--model=resnet50:random,precision={precision}", f"--device={device}", "--log-level=error"
        with running_server(*options) as server:
            port, requests = server_port(server), uploads(_PATH)
            asyncio.run(load(port, requests, 16, seconds / 3))
            for clients in _CLIENTS:
                before = usage(server.process.pid).cpu_s
                found = asyncio.run(load(port, requests, clients, seconds))
                cpu_s = usage(server.process.pid).cpu_s - before
                beside = found.per_second * times["many"] / 16 if clients > 1 else found.at(0.5) / times["lone"]
                yield f"ResNet-50, {precision}, {_said(clients, found, cpu_s, beside, seconds)}"


def _said(clients: int, found: Served, cpu_s: float, beside: float, seconds: float) -> str:
    compared = f"{beside:.2f} × {'batches of 16' if clients > 1 else 'the median of one picture'} in process"
    return (
        f"{clients} clients over HTTP: {found.per_second:.0f}/s, p50 {1000 * found.at(0.5):.1f} ms, p99 "
        f"{1000 * found.at(0.99):.1f} ms, {compared}; the front keeps {cpu_s / seconds:.1f} cores busy, "
        f"{1000 * cpu_s / len(found.seconds):.2f} ms for each"
    )


def same_maps(device: str) -> Iterator[str]:
    """Maps of every method that is not minutes, on the device and on the CPU."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    here, there = (served("resnet18", "float32", place) for place in ("cpu", device))
    methods = [name for name in METHODS if name not in {*here.info.refused_methods, "scorecam", "ablationcam"}]
    found = {}
    for method in methods:
        asked = pixels, [Targets((3,))] * len(pixels), HowTo(("layer4",), (method,))
        pairs = zip(here.explain(*asked), there.explain(*asked), strict=True)
        found[method] = min(_correlation(*(each.maps[0].values.cpu().numpy() for each in pair)) for pair in pairs)
    worst = min(found, key=lambda method: found[method])
    yield (
        f"ResNet-18, {len(found)} methods, {device} against the CPU: maps correlate with {found[worst]:.4f} at least "
        f"({worst}), {statistics.median(found.values()):.4f} in the median"
    )


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    if not (one.std() and other.std()):  # an empty map correlates with nothing
        return float(np.allclose(one, other))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
