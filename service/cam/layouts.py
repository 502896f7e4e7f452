"""How some modules get their input while a graph is recorded: laid out so that PyTorch's operators are fast, or right.

``nn.MultiheadAttention`` with ``batch_first`` turns (N, T, C) over, and PyTorch's ``linear`` multiplies what does not
lie in one piece by a copy of the weights for each token, if the tokens ask for a gradient and the weights do not:
ViT-B/16's last block took three times as long as the eleven before it in bfloat16.

``nn.BatchNorm2d``'s gradient (PyTorch 2.13, on a CPU) has its values in wrong places where a lone picture lies channels
last, its first stride is not that of a batch, which nothing else asks for, and the gradient comes channels first.
MaxViT's windows are put together to such pictures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["lay_out_picture", "lay_out_tokens"]

_TOKENS = {"query", "key", "value"}


def lay_out_tokens(
    attention: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what attention is called with, tokens laid out as it looks at them, (T, N, C); a forward pre-hook."""
    laid_out: dict[int, Tensor] = {}  # one stays one: that tells whether tokens attend to themselves

    def lay_out(given: Any) -> Any:
        if not isinstance(given, Tensor) or given.is_nested or given.ndim != 3:
            return given
        if id(given) not in laid_out:
            laid_out[id(given)] = _tokens_first(given, turned=attention.batch_first)
        return laid_out[id(given)]

    named = {name: lay_out(given) if name in _TOKENS else given for name, given in kwargs.items()}
    return (*map(lay_out, args[:3]), *args[3:]), named


def _tokens_first(tokens: Tensor, *, turned: bool) -> Tensor:
    return tokens.transpose(0, 1).contiguous().transpose(0, 1) if turned else tokens.contiguous()


def lay_out_picture(_normalisation: nn.BatchNorm2d, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what a normalisation is called with, a lone picture with the strides of a batch; a forward pre-hook."""
    return (_as_batch(args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else args


def _as_batch(pictures: Tensor) -> Tensor:
    last = torch.channels_last
    is_odd = pictures.ndim == 4 and len(pictures) == 1 and pictures.stride(0) != pictures.numel()
    return pictures.clone(memory_format=last) if is_odd and pictures.is_contiguous(memory_format=last) else pictures
