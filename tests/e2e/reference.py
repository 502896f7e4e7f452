"""Grad-CAM as a textbook has it, on the real classifier: torchvision's own preset, full backward pass, no batching."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor, nn

from service.models.torchvision_adapter import torchvision
from tests import imagenet

if TYPE_CHECKING:
    from pathlib import Path


@cache
def model() -> nn.Module:
    """SqueezeNet 1.0 with its weights, and parameters that do ask for gradients."""
    net: nn.Module = torchvision.models.squeezenet1_0(weights=None)
    net.load_state_dict(load_file(imagenet.FOLDER / "squeezenet1_0.safetensors"))
    return net.eval()


def gradcam(photo: Path, target: int | None = None, layer: str = "features") -> tuple[int, Tensor]:
    """Return the class that was explained and its map (h, w), not normalised."""
    preset: Any = torchvision.models.SqueezeNet1_0_Weights.IMAGENET1K_V1.transforms()
    with Image.open(photo) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    net = model()
    handle = net.get_submodule(layer).register_forward_hook(keep)
    logits = net(preset(upright)[None])
    handle.remove()
    chosen = int(logits[0].argmax()) if target is None else target
    net.zero_grad()
    logits[0, chosen].backward()
    (activations,) = kept
    assert activations.grad is not None
    weights = activations.grad.mean((2, 3), keepdim=True)
    return chosen, torch.relu((weights * activations.detach()).sum(1))[0]


def normalised(raw: Any) -> Tensor:
    """A map divided by its maximum."""
    tensor = torch.as_tensor(raw, dtype=torch.float32)
    return tensor / tensor.max()
