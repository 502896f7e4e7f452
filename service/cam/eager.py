"""A network computed by PyTorch modules as they are, seen through forward hooks. All hooks are registered here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.capture import Capture, check_logits
from service.cam.heads import pick_head
from service.cam.layers import LayerCall
from service.cam.modules import ModuleDescription
from service.cam.network import AttentionCapture
from service.cam.transformer import find_transformer, self_attention
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from service.cam.layers import Layer
    from service.cam.network import Observer

__all__ = ["EagerNetwork"]

_Hook = Callable[[Any, Any, Any], Any]
"""(module, inputs, output) to the output that the network goes on with, or None to leave it."""


class EagerNetwork:
    """A module, or a module seen through one of its heads, as a ``Network``.

    It holds no state of its own, so views of several heads can be made at will. The module must be frozen and in eval
    mode; it is not changed, and its hooks are gone when a call returns or raises.
    """

    def __init__(self, module: nn.Module, head: str | None = None) -> None:
        self._module = module
        self._head = head

    def _run(self, inputs: Tensor, rows: int, hooks: Iterable[tuple[nn.Module, _Hook]] = ()) -> Tensor:
        """Run the module with ``hooks`` in place; return logits (rows, classes)."""
        with ExitStack() as registered:
            for module, hook in hooks:
                registered.callback(module.register_forward_hook(hook).remove)
            output = self._module(inputs)
        return check_logits(output if self._head is None else pick_head(output, self._head), rows)

    def predict(self, inputs: Tensor) -> Tensor:
        """See ``Network``."""
        with torch.inference_mode():
            return self._run(inputs, len(inputs))

    def capture(self, inputs: Tensor, layers: Sequence[LayerCall], derivatives: int = 1) -> Capture:
        """See ``Network``.

        The output of a layer is replaced by a detached leaf, so autograd records only what comes after the first of
        them: nothing is back-propagated below it, no parameter gets a ``.grad``, and the cost of a map grows with the
        tail of the network, not with the network (Selvaraju et al., https://arxiv.org/abs/1610.02391, ask for no more).
        """
        activations: dict[LayerCall, Tensor] = {}
        wanted: dict[str, set[int]] = {}
        for layer in layers:
            wanted.setdefault(layer.module, set()).add(layer.call)
        hooks = list(self._twice_differentiable()) if derivatives > 1 else []
        for name, calls in wanted.items():
            cut = _Cut(name, calls, activations, differentiate=derivatives > 0)
            hooks.append((self._module.get_submodule(name), cut))
        with torch.inference_mode(mode=False), torch.enable_grad():
            logits = self._run(inputs, len(inputs), hooks)
        for layer in layers:
            if layer not in activations:
                raise ModelOutputError(f"The forward pass did not reach call {layer.call} of layer {layer.module!r}.")
        return Capture(logits, activations)

    def _twice_differentiable(self) -> Iterator[tuple[nn.Module, _Hook]]:
        """Yield hooks that compute by other means what torch cannot differentiate twice: attention, hard sigmoid."""
        yield from self._explicit_attention([])
        for module in self._module.modules():
            if isinstance(module, nn.Hardsigmoid) and not module.inplace:
                yield module, lambda _module, inputs, _output: functional.relu6(inputs[0] + 3) / 6

    def _explicit_attention(self, into: list[Tensor]) -> Iterator[tuple[nn.Module, _Hook]]:
        """Yield hooks that compute attention step by step and append every attention matrix to ``into``.

        torch's fused attention keeps the matrix to itself and has no second derivative.
        """

        def attend(module: nn.MultiheadAttention, inputs: tuple[Tensor, ...], _output: Any) -> tuple[Tensor, None]:
            mixed, attention = self_attention(module, inputs[0])
            into.append(attention)
            return mixed, None

        for module in self._module.modules():
            if isinstance(module, nn.MultiheadAttention) and module.batch_first:
                yield module, attend

    def resume(self, inputs: Tensor, layer: Layer, activations: Tensor) -> Tensor:
        """See ``Network``.

        Where everything behind the layer depends on it alone, the layers before it run for one image, not for M.
        """
        if layer.on_every_path:
            try:
                return self._resume(inputs, layer.call, activations)
            except (RuntimeError, ModelOutputError):
                pass  # the model reads the batch size off its input, as torchvision's ViT does for its class tokens
        return self._resume(inputs.expand(len(activations), -1, -1, -1), layer.call, activations)

    def _resume(self, inputs: Tensor, call: LayerCall, activations: Tensor) -> Tensor:
        calls = 0

        def replace(_module: nn.Module, _inputs: Any, _output: Any) -> Tensor | None:
            nonlocal calls
            calls += 1
            return activations if calls - 1 == call.call else None

        with torch.inference_mode():
            return self._run(inputs, len(activations), [(self._module.get_submodule(call.module), replace)])

    def modules(self) -> dict[str, ModuleDescription]:
        """See ``Network``."""
        return {name: ModuleDescription.of(module) for name, module in self._module.named_modules() if name}

    def observe(self, inputs: Tensor, modules: Collection[str], see: Observer) -> Tensor:
        """See ``Network``."""
        calls = dict.fromkeys(modules, 0)

        def hook_for(name: str) -> _Hook:
            def show(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
                call = LayerCall(name, calls[name])
                calls[name] += 1
                if not isinstance(output, Tensor):
                    see(call, output, None)
                    return None
                # The copy has a node of its own: an in-place successor cannot take it over, and a layer that hands its
                # input through (an identity on a skip connection) is not taken for the layer before it.
                passed_on = output.clone()
                see(call, output, passed_on.grad_fn)
                return passed_on

            return show

        hooks = [(self._module.get_submodule(name), hook_for(name)) for name in modules]
        with torch.inference_mode(mode=False), torch.enable_grad():
            return self._run(inputs, len(inputs), hooks)

    def watch(self, inputs: Tensor, layers: Collection[LayerCall], see: Callable[[LayerCall, Tensor], None]) -> None:
        """See ``Network``."""
        calls = Counter[str]()

        def hook_for(name: str) -> _Hook:
            def show(_module: nn.Module, _inputs: Any, output: Any) -> None:
                call = LayerCall(name, calls[name])
                calls[name] += 1
                if call in layers:
                    see(call, output)

            return show

        names = {layer.module for layer in layers}
        with torch.inference_mode():
            self._run(inputs, len(inputs), [(self._module.get_submodule(name), hook_for(name)) for name in names])

    def biases(self) -> dict[str, Tensor]:
        """See ``Network``."""
        found = ((name, _bias(module)) for name, module in self._module.named_modules())
        return {name: bias.detach() for name, bias in found if bias is not None}

    @property
    def has_class_token(self) -> bool:
        """See ``Network``."""
        return find_transformer(self._module) is not None

    def capture_attention(self, inputs: Tensor) -> AttentionCapture:
        """See ``Network``."""
        transformer = find_transformer(self._module)
        assert transformer is not None
        tokens: list[Tensor] = []
        attentions: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            tokens.append(output)

        hooks = [*self._explicit_attention(attentions), *((block, keep) for block in transformer.blocks)]
        with torch.inference_mode(mode=False), torch.enable_grad():
            # The input asks for a gradient so that frozen parameters do not leave the attention without a graph.
            self._run(inputs.detach().requires_grad_(), len(inputs), hooks)
        return AttentionCapture(tokens, attentions, transformer.classify)


class _Cut:
    """Forward hook of one module: makes the wanted calls' outputs the places where gradients are read."""

    def __init__(self, name: str, wanted: set[int], into: dict[LayerCall, Tensor], *, differentiate: bool) -> None:
        self.name, self.wanted, self.into, self.calls = name, wanted, into, 0
        self.differentiate = differentiate

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        call, self.calls = self.calls, self.calls + 1
        if call not in self.wanted:
            return None
        # A layer behind another target layer is already in the graph and must stay in it.
        kept = output if output.requires_grad else output.detach().requires_grad_(self.differentiate)
        self.into[LayerCall(self.name, call)] = kept
        # The network goes on with a copy: an in-place ReLU or += behind the layer must not change what was kept.
        return kept.clone()


def _bias(module: nn.Module) -> Tensor | None:
    if isinstance(module, nn.BatchNorm2d):
        if module.running_mean is None or module.running_var is None or module.bias is None:
            return None
        return module.bias - module.running_mean * module.weight / torch.sqrt(module.running_var + module.eps)
    return module.bias if isinstance(module, nn.Conv2d) else None
