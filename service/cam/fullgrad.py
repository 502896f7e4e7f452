"""FullGrad, which looks at the whole network, not at one layer. Signature as in ``gradient``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from service.cam.cancellation import stretched
from service.cam.derivatives import differentiate

if TYPE_CHECKING:
    from service.cam.context import LayerContext
    from service.cam.layers import LayerCall
    from service.cam.network import Network

__all__ = ["fullgrad", "refuse_unknown_biases"]


def refuse_unknown_biases(network: Network, _images: Tensor) -> str | None:
    """Say why the method does not apply: biases are known of PyTorch's own layers, and others may have some as well."""
    if network.biases() or any(module.channels == "first" for module in network.modules().values()):
        return None
    return "it reads the biases of Conv2d and BatchNorm2d layers of PyTorch, of which this model has none"


def fullgrad(context: LayerContext) -> Tensor:
    """FullGrad, eq. 5: the input times its gradient, and every bias times its gradient, each scaled to 0-1 and summed.

    The map is as fine as the input. Biases meet their gradients call by call, so the order in which a model defines its
    layers plays no part.
    """
    network, logit_weights = context.forward_pass.network, context.forward_pass.logit_weights
    inputs = context.forward_pass.inputs.detach().requires_grad_()
    biases = network.biases()
    outputs: list[tuple[Tensor, Tensor]] = []

    def keep(call: LayerCall, output: object, _node: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            outputs.append((biases[call.module].view(1, -1, 1, 1), output))

    logits = network.observe(inputs, biases, keep)
    context.checkpoint(1, 2)
    terms = [(inputs.detach(), inputs), *outputs]
    saliency = torch.zeros(len(inputs), *inputs.shape[2:], device=inputs.device)
    for (factor, _), gradient in zip(
        terms, differentiate(logits, [each for _, each in terms], logit_weights), strict=True
    ):
        if gradient is not None:
            saliency += _scaled(factor * gradient, inputs.shape)
    return saliency


def _scaled(evidence: Tensor, size: torch.Size) -> Tensor:
    """Absolute values scaled to 0-1 per row, brought to the input's size and summed over channels: (N, H, W)."""
    magnitude = stretched(evidence.float().abs(), (1, 2, 3))
    # Upsampling is linear: the channels may be summed before it.
    return functional.interpolate(magnitude.sum(1, keepdim=True), tuple(size[2:]), mode="bilinear")[:, 0]
