"""What an explanation costs beyond the forward pass, without any server."""

from __future__ import annotations

import statistics
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.precisions import left_out, precisions
from benchmarks.results import at_most
from benchmarks.timing import medians
from service.cam.explain import explain, predict
from service.cam.folding import FoldedNetwork
from service.cam.methods import METHODS
from service.cam.targets import Targets, Top
from service.engine.amount import amount
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from benchmarks.results import Line
    from service.cam.layers import Layer
    from service.cam.network import Network
    from service.models.host import ModelHost
    from service.models.info import ModelInfo


# Of a bare float32 forward pass, at batch 8, as the docs promise.
_EXPLAIN_AT_MOST = {"float32": 0.78, "bfloat16": 0.40}

# A pass for every channel, or nearly so: what is counted is what takes the time.
_MINUTES = ("scorecam", "ablationcam")
_VIT_LAYER = "encoder.layers.encoder_layer_11.ln_1"


@cache
def served(architecture: str, precision: str = "float32", device: str = "cpu") -> ModelHost:
    """Return a model of random weights, as a worker has it."""
    config = ModelConfig(name=architecture, architecture=architecture, weights="random", precision=precision)
    host = load_model(config, device, Downloads(Settings().cache_dir, allowed=False))
    host.compute_in_parts()
    return host


def bare(host: ModelHost) -> nn.Module:
    """Return the modules of a network with normalisations, as they are without the service."""
    network = host.network(None)
    assert isinstance(network, FoldedNetwork)
    return network.own_module


def _loaded(architecture: str) -> tuple[Network, dict[str, Layer], ModelInfo]:
    host = served(architecture)
    return host.network(None), {layer.name: layer for layer in host.info.layers}, host.info


def _explain(batch: int, *targets: int | Top) -> Callable[[], object]:
    network, layers, _ = _loaded("resnet50")
    layer = layers["layer4"]
    inputs = torch.randn(batch, 3, 224, 224)
    return lambda: explain(network, inputs, [Targets(targets)] * batch, [layer], ["gradcam"])


def explain_against_forward() -> Iterator[str | Line]:
    """Grad-CAM at ResNet-50's layer4, as it is served, against a bare float32 forward pass in inference mode."""
    yield from left_out()
    hosts = {precision: served("resnet50", precision) for precision in precisions()}
    model = bare(hosts["float32"])
    for batch in (1, 8):
        pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
        inputs = hosts["float32"].normalise(pixels).contiguous()  # (N, 3, H, W), as most programs have it

        @torch.inference_mode()
        def forward(inputs: torch.Tensor = inputs) -> object:
            return model(inputs)

        asked = [Targets((Top(1),))] * batch, HowTo(("layer4",), ("gradcam",))
        runs = {name: partial(each.explain, pixels, *asked, gives_way=False) for name, each in hosts.items()}
        times = medians({"forward": forward, **runs}, rounds=15)
        for name in hosts:
            ratio, each = times[name] / times["forward"], {run: 1000 * took / batch for run, took in times.items()}
            text = (
                f"ResNet-50 layer4, {name}, batch {batch}: {ratio:.2f} × a bare float32 forward pass "
                f"({each[name]:.0f} against {each['forward']:.0f} ms per picture)"
            )
            yield at_most(_EXPLAIN_AT_MOST[name], ratio, text) if batch == 8 else text


def many_targets_against_one() -> Iterator[str]:
    """Ten classes of one picture against one class."""
    times = medians({"one": _explain(1, Top(1)), "ten": _explain(1, Top(10))}, rounds=15)
    yield f"ResNet-50 layer4, one picture: 10 targets cost {times['ten'] / times['one']:.2f} × one target"


def methods_against_forward() -> Iterator[str]:
    """Every method at ResNet-18's layer4 (512 channels), or ViT-B/16's last block, in bare forward passes.

    Score-CAM is left out: it is one forward pass per channel, by definition.
    """
    inputs = torch.randn(1, 3, 224, 224)
    for method, row in METHODS.items():
        if method == "scorecam":
            continue
        architecture, name = ("vit_b_16", _VIT_LAYER) if row.refusal else ("resnet18", "layer4")
        times = medians(_against_forward(architecture, name, method, inputs), rounds=7)
        ratio = times["explain"] / times["forward"]
        yield f"{architecture}, {method}: {ratio:.2f} × a bare forward pass"


def _against_forward(
    architecture: str, name: str, method: str, inputs: torch.Tensor
) -> dict[str, Callable[[], object]]:
    network, layers, _ = _loaded(architecture)
    return {
        "forward": lambda: predict(network, inputs),
        "explain": lambda: explain(network, inputs, [Targets((Top(1),))], [layers[name]], [method]),
    }


def several_layers_against_one() -> Iterator[str]:
    """Five layers of ResNet-18 in one request against its last."""
    network, layers, _ = _loaded("resnet18")
    inputs = torch.randn(1, 3, 224, 224)
    five = [layers[name] for name in ("layer4", "layer4.0", "layer3", "layer3.0", "layer2")]

    def ask(*chosen: Layer) -> Callable[[], object]:
        return lambda: explain(network, inputs, [Targets((Top(1),))], chosen, ["gradcam"])

    times = medians({"one": ask(five[0]), "five": ask(*five)}, rounds=15)
    yield f"ResNet-18, layer2 to layer4: 5 layers cost {times['five'] / times['one']:.2f} × the last one"


def estimated_against_measured() -> Iterator[str]:
    """The estimated work of methods, in passes, against what they take at an early, a middle and the last layer."""
    for architecture in ("squeezenet1_0", "resnet18"):
        network, by_name, info = _loaded(architecture)
        grids = [layer for layer in by_name.values() if layer.explainable and layer.kind in {"conv", "block"}]
        layers = (grids[0], grids[len(grids) // 2], grids[-1])
        ratios = {
            (name, layer.name): _estimated_against_measured(network, name, layer, info.flops)
            for name, method in METHODS.items()
            if name not in info.refused_methods and name not in _MINUTES
            for layer in (layers if method.uses_layer else layers[-1:])
        }
        least, most = min(ratios, key=lambda key: ratios[key]), max(ratios, key=lambda key: ratios[key])
        yield (
            f"{architecture}: estimated work is {ratios[least]:.2f} ({least[0]} at {least[1]}) to {ratios[most]:.2f} "
            f"({most[0]} at {most[1]}) of what is measured, median {statistics.median(ratios.values()):.2f}"
        )


def _estimated_against_measured(network: Network, name: str, layer: Layer, flops: int) -> float:
    inputs, targets = torch.randn(1, 3, 224, 224), [Targets((Top(1),))]
    times = medians(
        {
            "pass": lambda: predict(network, inputs),
            "explain": lambda: explain(network, inputs, targets, [layer], [name]),
        },
        rounds=3,
    )
    return amount([name], [layer], flops=flops) * times["pass"] / times["explain"]
