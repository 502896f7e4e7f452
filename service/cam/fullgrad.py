"""Methods that look at the whole network, not at one layer. Signatures as in ``gradient``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.capture import check_logits

if TYPE_CHECKING:
    from service.cam.context import LayerContext

__all__ = ["fullgrad"]


def fullgrad(context: LayerContext) -> Tensor:
    """FullGrad, eq. 5: the input times its gradient, and every bias times its gradient, each scaled to 0-1 and summed.

    The map is as fine as the input. A BatchNorm's bias is what it adds in eval mode, β - γ μ / √(σ² + ε). Layers are
    paired with their gradients by hook, so their order of definition plays no part.
    """
    inputs = context.forward_pass.inputs.detach().requires_grad_()
    outputs: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        bias = _bias(module)
        if bias is None or output.ndim != 4:
            return None
        outputs.append((bias.detach().view(1, -1, 1, 1), output))
        return output.clone()  # an in-place successor must not take over this output's place in the graph

    with ExitStack() as hooks, torch.inference_mode(mode=False), torch.enable_grad():
        for module in context.forward_pass.model.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                hooks.callback(module.register_forward_hook(keep).remove)
        logits = check_logits(context.forward_pass.model(inputs), len(inputs))
    found = torch.autograd.grad(
        logits,
        [inputs, *(output for _, output in outputs)],
        context.forward_pass.logit_weights.to(logits),
        materialize_grads=True,
    )
    saliency = _scaled(inputs.detach() * found[0], inputs.shape)
    for (bias, _), gradient in zip(outputs, found[1:], strict=True):
        saliency = saliency + _scaled(bias * gradient, inputs.shape)
    return saliency


def _bias(module: nn.Module) -> Tensor | None:
    if isinstance(module, nn.BatchNorm2d):
        if module.running_mean is None or module.running_var is None or module.bias is None:
            return None
        return module.bias - module.running_mean * module.weight / torch.sqrt(module.running_var + module.eps)
    bias = module.bias
    return bias if isinstance(bias, Tensor) else None


def _scaled(evidence: Tensor, size: torch.Size) -> Tensor:
    """Absolute values scaled to 0-1 per row, brought to the input's size and summed over channels: (N, H, W)."""
    magnitude = evidence.float().abs()
    low = magnitude.amin((1, 2, 3), keepdim=True)
    magnitude = magnitude - low
    magnitude = magnitude / magnitude.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    # Upsampling is linear: the channels may be summed before it.
    return functional.interpolate(magnitude.sum(1, keepdim=True), tuple(size[2:]), mode="bilinear")[:, 0]
