"""What a model is fit for: its methods are tried when it is loaded, so that nobody else has to find out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from service.cam.capture import same_logits
from service.cam.catalogue import depends_on
from service.cam.derivatives import cause_of
from service.cam.explain import explain, predict
from service.cam.methods import METHODS
from service.cam.targets import Targets
from service.errors import MethodNotApplicable, ModelLoadError, ModelOutputError, kind_and_line
from service.models.info import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.cam.layers import Layer
    from service.cam.methods import Method
    from service.cam.network import Network

__all__ = ["Fitness", "in_eval_mode", "try_methods", "unwatched_parts"]

log = logging.getLogger("camserve.models")


@dataclass(frozen=True)
class Fitness:
    """What trying a model's methods has shown: those that it refuses, with the reason, and what to warn of."""

    refused_methods: Mapping[str, str]
    warnings: tuple[ModelWarning, ...]


# -- before anything is computed --------------------------------------------------------------------------------------


def in_eval_mode(module: nn.Module) -> nn.Module:
    """Return ``module``, out of its wrappers, in eval mode and with frozen parameters.

    Raises:
        ModelLoadError: its layers cannot be watched; the message says what to return instead.
    """
    module = _unwrapped(module)
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if (bare := _unwrapped(child)) is not child:
                setattr(part, name, bare)
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelLoadError(
            "The model is TorchScript (torch.jit.script or torch.jit.trace): its layers cannot be watched. Return the "
            "module that it was made from; its weights are in script.state_dict()."
        )
    _refuse_unfinished(module)
    try:
        module.eval()  # whose result may be nothing, where a model has a train() of its own
        module.requires_grad_(requires_grad=False)
    except NotImplementedError as error:
        raise ModelLoadError(
            f"The model cannot be put in eval mode ({error}). Of a torch.export program, return "
            "torch.export.unflatten(program) instead of program.module()."
        ) from error
    return module


def _refuse_unfinished(module: nn.Module) -> None:
    """Refuse weights that have no values, or not even a size.

    Raises:
        ModelLoadError: there are such; the message names some.
    """
    weights = [*module.named_parameters(), *module.named_buffers()]
    if lazy := [name for name, weight in weights if is_lazy(weight)]:
        raise ModelLoadError(
            f"The model has weights whose size is not known yet, {', '.join(lazy[:3])}: its lazy layers learn it from "
            "a first input. Run the model once, on zeros of a picture's shape, where it is built."
        )
    if empty := [name for name, weight in weights if weight.is_meta]:
        raise ModelLoadError(
            f"The model has weights without values, on PyTorch's device meta: {', '.join(empty[:3])}. Build it outside "
            'of torch.device("meta"), or fill it with to_empty() and load_state_dict().'
        )


def unwatched_parts(module: nn.Module) -> list[str]:
    """Name the outermost parts that are TorchScript: no hook tells what their layers give."""
    names = [name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return what ``torch.compile`` or ``DataParallel`` wraps: compiled code passes hooks over."""
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) or _is_compiled(module):
        module = module._orig_mod if _is_compiled(module) else module.module  # type: ignore[assignment]
    if getattr(module, "_compiled_call_impl", None) is not None:
        module._compiled_call_impl = None
    return module


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule"  # whose own module takes seconds to import


# -- methods ----------------------------------------------------------------------------------------------------------

# Tried together, since they share a forward pass.
_QUICK = [name for name, row in METHODS.items() if not row.slow and row.derivatives < 2 and row.uses_layer]

_OTHER_LOGITS = "the network gives other logits than its own when it is computed for this"


def try_methods(
    network: Network, layers: Sequence[Layer], default: Layer, images: Tensor, quantised: str = ""
) -> Fitness:
    """Try every method that is quick at the default layer, and a gradient through the whole network.

    Those that alter the forward pass must leave the logits as they are. It costs some six forward passes of one image.

    Args:
        network: sound so far: it predicts, and its rows are independent.
        layers: the catalogue.
        default: the layer to try; of the catalogue.
        images: one or more, (N, 3, H, W).
        quantised: which layers are quantised, in a sentence; empty where none is.
    """
    trial = _Trial(network, images[:1])
    # A default layer that no gradient reaches says nothing of the others: requests are told so layer by layer.
    reached = [layer for layer in layers if layer.explainable and layer.no_gradient is None]
    tried = default if default.no_gradient is None or not reached else reached[-1]
    refused = trial.refused_methods(tried)
    warnings = []
    if "gradcam" in refused:
        warnings.append(_not_differentiable(refused, quantised))
    else:
        warnings += trial.early_layers(layers, tried, refused)
        warnings += [_flat(tried, quantised)] if trial.is_flat(tried) else []
    if default.covers is not None:
        warnings.append(_covers_part(default))
    return Fitness({name: refused[name] for name in METHODS if name in refused}, tuple(warnings))


@dataclass(frozen=True)
class _Trial:
    """Methods tried on one image (1, 3, H, W)."""

    network: Network
    image: Tensor
    _with_gradient: set[str] = field(default_factory=set)

    @cached_property
    def _logits(self) -> Tensor:
        return predict(self.network, self.image)

    def refused_methods(self, layer: Layer) -> dict[str, str]:
        """Return the methods that do not work at a layer, each with its reason."""
        first = {row.refusal: row for row in METHODS.values()}
        refusals = {refusal: self._refusal(row) for refusal, row in first.items()}
        found = {name: refusals[row.refusal] for name, row in METHODS.items()}
        if layer.no_gradient is not None:
            cause = f"no gradient reaches layer {layer.name!r}, since {layer.no_gradient}; take that out of forward()"
            found |= {name: found[name] or cause for name, row in METHODS.items() if row.needs_gradients}
        together = [name for name in _QUICK if found[name] is None]
        if self._why_not(together, layer, classes=3) is not None:
            found |= {name: self._why_not([name], layer) for name in together}
        for name, row in METHODS.items():
            if row.needs_gradients:
                found[name] = found[name] or found["gradcam"]
            if row.derivatives > 1:
                found[name] = found[name] or self._why_not([name], layer)
        found["ablationcam"] = found["ablationcam"] or self._why_not_resume(layer)
        return {name: reason for name, reason in found.items() if reason is not None}

    def _refusal(self, method: Method) -> str | None:
        """Say why the network is not of the kind that a method is made for; None where it is."""
        try:
            return method.refuses(self.network, self.image)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # noqa: BLE001  # see below
            return f"the network cannot be run as this needs it ({_words(error)})"

    def early_layers(self, layers: Sequence[Layer], default: Layer, refused: dict[str, str]) -> list[ModelWarning]:
        """Try a gradient down to the first layer; where there is none, FullGrad is added to ``refused``."""
        first = next(layer for layer in layers if layer.explainable and layer.no_gradient is None)
        cause = self._why_not(["gradcam"], first) if first.name != default.name else None
        if cause is not None or any(layer.no_gradient is not None for layer in layers):
            # It costs more than everything else here, and works where the gradient reaches the first layer.
            reason = self._why_not(["fullgrad"], default)
            refused |= {} if reason is None else {"fullgrad": reason}
        return [] if cause is None else [_partly_differentiable(first, cause)]

    def is_flat(self, layer: Layer) -> bool:
        """Whether no logit had a gradient at a layer that they depend on, as behind rounding or a threshold."""
        return layer.name not in self._with_gradient and depends_on(self.network, self.image, layer)

    def _why_not(self, methods: Sequence[str], layer: Layer, classes: int = 1) -> str | None:
        """Say why ``methods`` cannot be computed together; None where they can."""
        few = Targets(tuple(range(min(classes, self._logits.shape[1]))))
        try:
            (answer,) = explain(self.network, self.image, [few], [layer], methods)
        except ModelOutputError:
            self._with_gradient.add(layer.name)
            return None  # noise may overflow where pictures do not
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # noqa: BLE001  # a network's own code may raise anything
            return _cause(error)
        if not all(raw.zero_gradient for raw in answer.maps if METHODS[raw.method].needs_gradients):
            self._with_gradient.add(layer.name)
        return None if same_logits(answer.logits[None], self._logits, self.image.dtype) else _OTHER_LOGITS

    def _why_not_resume(self, layer: Layer) -> str | None:
        """Say why the network cannot go on from a layer's output; None where that gives its own logits."""
        try:
            kept = self.network.capture(self.image, [layer.call], 0).activations[layer.call]
            logits = self.network.resume(self.image, layer, torch.cat([kept, kept]))
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # noqa: BLE001  # see above
            return f"the network cannot go on from layer {layer.name!r} ({_words(error)})"
        return None if same_logits(logits.cpu(), self._logits.expand(2, -1), self.image.dtype) else _OTHER_LOGITS


def _cause(error: Exception) -> str:
    log.info("a method that was tried raised", exc_info=error)
    known = cause_of(error.__cause__ if isinstance(error, MethodNotApplicable) else error)
    return f"no gradient can be computed: {known or _words(error)}"


def _words(error: Exception) -> str:
    return kind_and_line(error)


# -- warnings ---------------------------------------------------------------------------------------------------------


def _not_differentiable(refused: Mapping[str, str], quantised: str) -> ModelWarning:
    left = [name for name in METHODS if name not in refused]
    instead = f"Ask for {' or '.join(left)} by 'method'." if left else "Only predictions are left."
    reason = refused["gradcam"]
    return ModelWarning(
        "not_differentiable", f"The default method and others are refused: {reason}. {instead}{quantised}"
    )


def _partly_differentiable(first: Layer, cause: str) -> ModelWarning:
    return ModelWarning(
        "partly_differentiable",
        f"Early layers, as {first.name!r}, cannot be explained by methods that need a gradient: {cause}.",
    )


def _flat(default: Layer, quantised: str) -> ModelWarning:
    guess = " Is there rounding, a threshold or a saturated activation behind it?"
    return ModelWarning(
        "zero_gradient",
        f"The logits change with layer {default.name!r}, and yet their gradient is zero all over it, for random "
        f"pictures at least: maps that need it will be empty.{quantised or guess}",
    )


def _covers_part(default: Layer) -> ModelWarning:
    return ModelWarning(
        "default_layer_covers_part",
        f"The default layer {default.name!r} {default.covers}. Ask for those by 'layer', or set the model's 'layer'.",
    )
