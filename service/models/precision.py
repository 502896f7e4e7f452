"""What a model computes in: what was asked for, what the device does by itself, and what a check of bfloat16 shows."""

from __future__ import annotations

import logging
from collections import OrderedDict
from copy import copy
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from service.cam.binary import BinaryNetwork
from service.cam.folding import FoldedNetwork
from service.errors import ServiceError, kind_and_line
from service.models.info import ModelWarning, PrecisionChoice, SelfCheck
from service.models.inputs import Probe
from service.models.self_check import compare, compute, objection, worst

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from service.cam.layers import Layer
    from service.cam.network import Network
    from service.models.host import ModelHost
    from service.vocabulary import Precision, PrecisionRefusal

    Build = Callable[[Precision], ModelHost]

__all__ = ["bring", "settle", "why_not_native"]

log = logging.getLogger("camserve.models")

# By which maps are compared, best first: the default, and one that takes no gradient.
_METHODS = ("gradcam", "activation")

_CONTAINERS = {dict, list, set, OrderedDict}


def settle(
    asked: Precision | str, fixed: Precision | None, module: nn.Module, device: torch.device, build: Build
) -> ModelHost:
    """Load a model in the precision that it is to have.

    bfloat16 is taken only where logits and maps are nearly those of float32. That is tried with what was loaded, while
    the weights are there in both; then one of the two is dropped.

    Args:
        asked: of the configuration; may be ``auto``.
        fixed: what the artefact computes in, whatever is asked for; None where it can be chosen.
        module: frozen and in eval mode, on any device.
        device: where it is to compute.
        build: loads ``module`` in a precision, to which it brings it; called once, or twice where bfloat16 is tried and
            not taken.

    Raises:
        ModelLoadError: see ``load_model``.
    """
    if fixed is not None:
        told = f"The model computes in {fixed}, as its file says." if asked != fixed else None
        return _chosen(build(fixed), PrecisionChoice(asked, "source" if fixed == "float32" and told else None, told))
    if asked == "auto" and (lacking := why_not_native(device)) is not None:
        return _chosen(build("float32"), PrecisionChoice(asked, "hardware", lacking))
    if asked in {"auto", "bfloat16"}:
        return _tried(asked, bring(module, device, torch.float32), device, build)
    return _chosen(build("float16" if asked == "float16" else "float32"), PrecisionChoice(asked))


def why_not_native(device: torch.device) -> str | None:
    """Say why a device does not compute bfloat16 by itself, as far as PyTorch tells; None where it does."""
    if device.type == "cpu":
        tell: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # older ones have it not
        known = tell()
        if known.get("avx512_bf16") or known.get("amx_bf16"):
            return None
        if known.get("architecture") not in {None, "x86_64"}:
            return "It is not known whether the CPU here computes bfloat16 by itself."
        return "The CPU here has neither AVX512_BF16 nor AMX, as far as PyTorch tells."
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if native else f"The GPU {device} emulates bfloat16."
    return f"It is not known whether {device} computes bfloat16 by itself."


def _tried(asked: str, module: nn.Module, device: torch.device, build: Build) -> ModelHost:
    """Load in bfloat16, and once more in float32 where that is not near enough."""
    weights = _Weights(module)
    refused: PrecisionRefusal
    check = None
    try:
        host = build("bfloat16")
        check = _checked(host, weights, device)
        reason, refused = objection(check), "check"
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except ServiceError as error:
        reason, refused = error.message, "failed"
    except Exception as error:  # a network's own code may raise anything
        log.info("a network that was tried in bfloat16 raised", exc_info=error)
        reason, refused = kind_and_line(error), "failed"
    if reason is None:
        return _warned_of_emulation(_chosen(host, PrecisionChoice(asked, check=check)), device)
    weights.put_back()
    host = build("float32")
    why = "The check of bfloat16 failed" if refused == "check" else "The model cannot be computed in bfloat16"
    return _chosen(host, PrecisionChoice(asked, refused, f"{why}: {reason.rstrip('.')}.", check))


def _chosen(host: ModelHost, choice: PrecisionChoice) -> ModelHost:
    """Note how it came to the precision that ``host`` has."""
    info = replace(host.info, precision=choice)
    if choice.refused is not None and choice.asked == "bfloat16":
        text = f"It computes in {info.dtype}, though bfloat16 was asked for. {choice.reason} Set precision=float32."
        info = replace(info, warnings=(*info.warnings, ModelWarning("precision_refused", text)))
        log.warning("model %s: %s", info.name, text)
    elif choice.reason is not None:
        log.info("model %s computes in %s: %s", info.name, info.dtype, choice.reason)
    host.info = info
    return host


def _warned_of_emulation(host: ModelHost, device: torch.device) -> ModelHost:
    """Say of a model in bfloat16 that float32 may be quicker, where a device does not compute bfloat16 by itself."""
    if (lacking := why_not_native(device)) is not None:
        text = (
            f"It computes in bfloat16, which may take several times as long as float32 here. {lacking} "
            "Set precision=auto, which takes bfloat16 where the hardware computes it by itself."
        )
        host.info = replace(host.info, warnings=(*host.info.warnings, ModelWarning("precision_emulated", text)))
        log.warning("model %s: %s", host.info.name, text)
    return host


def bring(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Bring a module to a device and its real numbers to ``dtype``; complex ones stay so, of two float32.

    ``Module.to`` drops the imaginary parts.
    """
    if not any(tensor.is_complex() for tensor in chain(module.parameters(), module.buffers())):
        return module.to(device, dtype=dtype)

    def converted(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device, torch.complex64)
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    module._apply(converted)  # type: ignore[no-untyped-call]  # as Module.to does
    return module


class _Weights:
    """The weights of a module as they are now, to be put back after it was brought to another precision.

    What its parts keep besides is put back as well: tables that are made in the first pass are of its precision.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._kept = {name: tensor.detach() for name, tensor in self._named()}
        self._attributes = {part: _attributes_of(part) for part in module.modules() if _is_plain(part)}

    def put_back(self) -> None:
        """Let the module have these again; nothing is copied."""
        for part, attributes in self._attributes.items():
            for gone in part.__dict__.keys() - attributes.keys():
                del part.__dict__[gone]
            for name, (value, content) in attributes.items():
                part.__dict__[name] = value
                _refill(value, content)
        for name, tensor in self._named():
            tensor.data = self._kept[name]

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._module.named_parameters(remove_duplicate=False)
        yield from self._module.named_buffers(remove_duplicate=False)


def _is_plain(part: nn.Module) -> bool:
    return not isinstance(part, torch.jit.ScriptModule)  # whose attributes are none of Python's


def _attributes_of(part: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return every attribute, buffers among them, and of a container also what is in it."""
    return {name: (value, copy(value) if type(value) in _CONTAINERS else None) for name, value in vars(part).items()}


def _refill(container: Any, content: Any) -> None:
    """Put into a container what was in it: others may refer to it."""
    if isinstance(content, list):
        container[:] = content
    elif content is not None:
        container.clear()
        container.update(content)


# -- the check --------------------------------------------------------------------------------------------------------


def _checked(host: ModelHost, full: _Weights, device: torch.device) -> SelfCheck:
    """Compare a model that was loaded in bfloat16 with its modules in float32, head by head."""
    reduced = _Weights(full._module)
    probe = Probe(host.info.preprocess, device, torch.float32, host.channels_last)
    return worst([_of_head(host, head, probe, full, reduced) for head in host.info.heads or (None,)])


def _of_head(host: ModelHost, head: str | None, probe: Probe, full: _Weights, reduced: _Weights) -> SelfCheck:
    """Compare by Grad-CAM; by what needs no gradient where that is refused, or shows nothing of any picture."""
    layer, methods = _explained(host, head)
    check = None
    for method in methods:
        full.put_back()
        expected = compute(_as_it_is(host.network(head)), probe.leaves(), layer, method)
        reduced.put_back()
        batches = (batch.to(torch.bfloat16) for batch in probe.leaves())
        check = compare(expected, compute(host.network(head), batches, layer, method, expected.classes), method)
        if check.correlation is not None:
            break
    assert check is not None
    return check


def _explained(host: ModelHost, head: str | None) -> tuple[Layer | None, tuple[str | None, ...]]:
    """Return the default layer of a head and the methods to try there; nothing where no layer leads to it."""
    view = host.info.head_view(head)
    methods = tuple(name for name in _METHODS if name not in view.refused_methods)
    try:
        return view.layer("default"), methods or (None,)
    except ServiceError:
        return None, (None,)


def _as_it_is(network: Network) -> Network:
    """Return the network that computes with its own modules, unfolded."""
    if isinstance(network, BinaryNetwork):
        return network.like(_as_it_is(network.network))
    return network.own if isinstance(network, FoldedNetwork) else network
