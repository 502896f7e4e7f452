"""What the tests of all sources share: asking a real server, and Grad-CAM by nothing but autograd to compare with."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["ask", "assert_equal_maps", "direct_map", "picture", "settle", "told"]


def picture(width: int = 200, height: int = 160, seed: int = 0) -> Image.Image:
    """Draw colours that change slowly, with some noise on top."""
    noise = np.random.default_rng(seed)
    coarse = Image.fromarray(noise.integers(0, 256, (9, 11, 3), dtype=np.uint8)).resize((width, height))
    fine = noise.integers(-20, 21, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse, np.int64) + fine, 0, 255).astype(np.uint8))


def ask(
    url: str, model: str, image: Image.Image, layers: Sequence[str], classes: Sequence[int], **options: str
) -> dict[str, Any]:
    """Have a picture explained; return its result."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    answer = httpx.post(
        f"{url}/api/v1/models/{model}/explain",
        params={"layer": list(layers), "target": [f"#{index}" for index in classes], "output": "map", **options},
        content=buffer.getvalue(),
        headers={"Content-Type": "image/png"},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def told(url: str, model: str) -> dict[str, Any]:
    """Return what the server says of a model."""
    entry: dict[str, Any] = httpx.get(f"{url}/api/v1/models/{model}", timeout=60).json()
    return entry


def map_of(explanation: dict[str, Any]) -> NDArray[np.float32]:
    raw = explanation["map"]
    return np.frombuffer(base64.b64decode(raw["data"]), "<f4").reshape(raw["shape"])


def direct_map(
    module: nn.Module, inputs: Tensor, layer: str, index: int, read: Callable[[Any], Tensor] = lambda output: output
) -> NDArray[np.float32]:
    """Grad-CAM of one image (Selvaraju et al.), before the ReLU, on the whole network, by one hook and autograd alone.

    Tokens (1, T, C) are those of a grid of the input's shape, behind class and register tokens.
    """
    kept: list[Tensor] = []
    hook = module.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    logits = read(module(inputs.clone().requires_grad_()))
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, index], kept)
    activation, gradient = _channels_first(kept[0], inputs), _channels_first(gradient, inputs)
    found: NDArray[np.float32] = (activation * gradient.mean((1, 2), keepdim=True)).sum(0).detach().numpy()
    return found


def _channels_first(output: Tensor, inputs: Tensor) -> Tensor:
    """Bring one image's activations to (C, h, w)."""
    if output.ndim == 4:
        return output[0]
    height, width = inputs.shape[2:]
    count = output.shape[1]
    sides = [(((count - special) * height / width) ** 0.5, special) for special in range(6)]
    rows, special = next((round(side), special) for side, special in sides if abs(side - round(side)) < 1e-6)
    return output[0, special:].T.reshape(output.shape[2], rows, -1)


def assert_equal_maps(result: dict[str, Any], expected: Callable[[str, int], NDArray[np.float32]]) -> None:
    """Compare all maps of an answer with others, which are before the ReLU, within 1e-5 of what these reach.

    At least one must show something.
    """
    shown = 0
    for explanation in result["explanations"]:
        other = expected(explanation["layer"], explanation["target"]["index"])
        found = map_of(explanation)
        assert found.shape == other.shape, explanation["layer"]
        assert np.abs(found - other.clip(0)).max() <= 1e-5 * np.abs(other).max(), explanation["layer"]
        shown += other.max() > 0.1 * np.abs(other).max()
    assert shown


def settle(module: nn.Module, channels: int = 3, height: int = 160, width: int = 160) -> nn.Module:
    """Give a network with initial weights statistics and biases as if it had been trained a little."""
    torch.manual_seed(1)
    module.train()
    with torch.no_grad():
        for _ in range(5):
            module(torch.randn(4, channels, height, width))
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for part in module.modules():
            if isinstance(part, nn.Linear) and not part.weight.any():
                nn.init.normal_(part.weight, std=0.02)
    return module.eval()
