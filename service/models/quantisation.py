"""Layers that were quantised: they explain why a model has no gradient, or another answer beside other pictures."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.errors import ModelLoadError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["naming_quantisation", "quantised_layers"]

# Packages whose layers are so: torch.ao.nn.quantized, torch.ao.nn.intrinsic.qat, and those of others.
_PACKAGES = {"bitsandbytes", "brevitas", "optimum", "pytorch_quantization", "qat", "quantized", "quanto", "torchao"}
# What does nothing in a network that is not converted, and what could be, as QuantizableResNet.
_AT_REST = re.compile("(De)?QuantStub|QuantWrapper|.*Quantizable.*")
_FEW = 3


def quantised_layers(module: nn.Module) -> str:
    """Say which layers are quantised and what to do, in sentences that go on after others; empty where none is."""
    found = {name: part for name, part in module.named_modules() if name and _is_quantised(part)}
    outermost = [name for name in found if not any(name != other and name.startswith(f"{other}.") for other in found)]
    if not outermost:
        return ""
    names = ", ".join(repr(name) for name in outermost[:_FEW]) + (" and others" if len(outermost) > _FEW else "")
    kind = type(found[outermost[0]])
    subject = f"layer {names} is" if len(outermost) == 1 else f"layers {names} are"
    return (
        f" Its {subject} quantised ({kind.__module__}.{kind.__qualname__}): that takes the gradient away or rounds it, "
        "and may make a scale of the whole batch. Serve the network as it was before it was quantised."
    )


def _is_quantised(part: nn.Module) -> bool:
    kind = type(part)
    if _AT_REST.fullmatch(kind.__name__):
        return False
    if _PACKAGES & set(kind.__module__.split(".")) or "quant" in kind.__name__.lower():
        return True
    own = (*part.parameters(recurse=False), *part.buffers(recurse=False))
    return any(weight.is_quantized or _PACKAGES & set(type(weight).__module__.split(".")) for weight in own)


@contextmanager
def naming_quantisation(module: nn.Module) -> Iterator[None]:
    """Let what is raised meanwhile say which layers of ``module`` are quantised, if any are.

    Raises:
        ModelLoadError: instead of anything, where there are such layers.
    """
    try:
        yield
    except ModelLoadError as error:
        raise ModelLoadError(f"{error.message}{quantised_layers(module)}") from error
    except Exception as error:
        said = quantised_layers(module)
        if not said or isinstance(error, ServiceError):
            raise
        raise ModelLoadError(f"The model cannot be explained.{said}") from error
