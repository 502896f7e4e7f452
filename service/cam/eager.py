"""A network computed by PyTorch modules as they are, seen through forward hooks. All hooks are registered here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from service.cam.capture import Capture, check_logits, same_logits
from service.cam.derivatives import TwiceDifferentiable
from service.cam.heads import pick_head
from service.cam.layers import LayerCall, rows_first
from service.cam.layouts import lay_out_picture, lay_out_tokens
from service.cam.modules import ModuleDescription
from service.cam.network import AttentionCapture, BlockOutputs
from service.cam.random_head import matrices_of, shuffled_copy, with_random_weights
from service.cam.transformer import AttentionRecorder, BlockFinder
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from service.cam.layers import Layer
    from service.cam.network import Observer

__all__ = ["EagerNetwork"]

_Hook = Callable[[Any, Any, Any], Any]
"""(module, inputs, output) to the output that the network goes on with, or None to leave it."""


class EagerNetwork:
    """A module, or a module seen through one of its heads, as a ``Network``.

    It holds no state of its own but which modules are a transformer's blocks, once that was asked, so views of several
    heads can be made at will. The module must be frozen and in eval mode; it is not changed, and its hooks are gone
    when a call returns or raises.
    """

    def __init__(self, module: nn.Module, head: str | None = None, hidden: Collection[str] = ()) -> None:
        """See ``module`` through ``head``; those of its submodules that are ``hidden``, by name, are no layers."""
        self._module = module
        self._head = head
        self._hidden = hidden
        self._blocks: tuple[LayerCall, ...] | None = None
        self._random: tuple[nn.Module, _Hook] | None = None
        self._heads = 1  # whose logits lie side by side

    def like(self, module: nn.Module) -> EagerNetwork:
        """Return a network of another module that has the same parts under the same names."""
        other = EagerNetwork(module, self._head, self._hidden)
        other._blocks = self._blocks
        return other

    def with_random_head(self, layers: Sequence[Layer], classes: int, seed: int) -> EagerNetwork | None:
        """See ``Network``."""
        own = self._own_matrices(classes)
        if own:
            return self.like(shuffled_copy(self._module, own, seed))
        layer = self._last_layer(layers, classes)
        if layer is None:
            return None
        other, module = self.like(self._module), self._module.get_submodule(layer.call.module)
        other._random = module, with_random_weights(module, seed)
        return other

    def beside_random_head(
        self, layers: Sequence[Layer], asked: Sequence[Layer], classes: int, seed: int
    ) -> EagerNetwork | None:
        """See ``Network``."""
        last = None if self._own_matrices(classes) else self._last_layer(layers, classes)
        if last is None or last.call.batch_axis or any(layer.order >= last.order for layer in asked):
            return None
        other, module = self.like(self._module), self._module.get_submodule(last.call.module)
        other._random = module, with_random_weights(module, seed, beside=True)
        other._heads = 2
        return other

    @property
    def randomised(self) -> nn.Module | None:
        """The module whose output has another one's beside or in place of it."""
        return None if self._random is None else self._random[0]

    def _own_matrices(self, classes: int) -> list[str]:
        return [name for name, each in matrices_of(self._module).items() if len(each) == classes]

    def _last_layer(self, layers: Sequence[Layer], classes: int) -> Layer | None:
        """Return the last layer that has weights, if it gives out one channel per class."""
        passed = (each for each in reversed(layers) if each.on_every_path)
        found = next((each for each in passed if matrices_of(self._module.get_submodule(each.call.module))), None)
        return found if found is not None and found.shape[0] == classes else None

    def _run(
        self, inputs: Tensor, rows: int, hooks: Iterable[tuple[nn.Module, _Hook]] = (), *, first: bool = True
    ) -> Tensor:
        """Run the module with ``hooks`` in place; return logits (rows, classes).

        Hooks come before the module's own, which so see what the network goes on with, unless they are not to be
        ``first``. The module gets a copy of the input, which it may change.
        """
        with ExitStack() as registered:
            for module, hook in hooks:
                registered.callback(module.register_forward_hook(hook, prepend=first).remove)
            if self._random is not None:  # before all others, which see what comes out
                module, hook = self._random
                registered.callback(module.register_forward_hook(hook, prepend=True).remove)
            output = self._module(inputs.clone())
        logits = check_logits(output if self._head is None else pick_head(output, self._head), rows * self._heads)
        return logits if self._heads == 1 else torch.cat(logits.chunk(self._heads), dim=1)

    def predict(self, inputs: Tensor) -> Tensor:
        """See ``Network``."""
        with torch.no_grad():
            return self._run(inputs, len(inputs))

    def capture(self, inputs: Tensor, layers: Sequence[LayerCall], derivatives: int = 1) -> Capture:
        """See ``Network``.

        The output of a layer is replaced by a detached leaf, so autograd records only what comes after the first of
        them: nothing is back-propagated below it, no parameter gets a ``.grad``, and the cost of a map grows with the
        tail of the network, not with the network (Selvaraju et al., https://arxiv.org/abs/1610.02391, ask for no more).
        """
        activations: dict[LayerCall, Tensor] = {}
        wanted: dict[str, dict[int, LayerCall]] = {}
        for layer in layers:
            wanted.setdefault(layer.module, {})[layer.call] = layer
        hooks = [
            (self._module.get_submodule(name), _Cut(calls, activations, differentiate=derivatives > 0))
            for name, calls in wanted.items()
        ]
        means = TwiceDifferentiable() if derivatives > 1 else nullcontext()
        laid_out = _laid_out(self._module) if derivatives > 0 else nullcontext()
        with torch.inference_mode(mode=False), torch.set_grad_enabled(derivatives > 0), means, laid_out:
            logits = self._run(inputs, len(inputs), hooks).clone()
        for layer in layers:
            if layer not in activations:
                raise ModelOutputError(f"The forward pass did not reach call {layer.call} of layer {layer.module!r}.")
        return Capture(logits, activations)

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

        def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            nonlocal calls
            calls += 1
            return _with_tensor(output, rows_first(activations, call.batch_axis)) if calls - 1 == call.call else None

        with torch.no_grad():
            return self._run(inputs, len(activations), [(self._module.get_submodule(call.module), replace)])

    def modules(self) -> dict[str, ModuleDescription]:
        """See ``Network``."""
        named = self._module.named_modules()
        return {name: ModuleDescription.of(module) for name, module in named if name and name not in self._hidden}

    def observe(
        self,
        inputs: Tensor,
        modules: Collection[str],
        see: Observer,
        across_cuts: bool = False,
    ) -> Tensor:
        """See ``Network``."""
        calls = dict.fromkeys(modules, 0)

        def hook_for(name: str) -> _Hook:
            def show(_module: nn.Module, _inputs: Any, output: Any) -> Any:
                call = LayerCall(name, calls[name])
                calls[name] += 1
                tensor = _tensor_in(output)
                if tensor is None:
                    see(call, output, None)
                    return None
                # The copy has a node of its own: an in-place successor cannot take it over, and a layer that hands its
                # input through (an identity on a skip connection) is not taken for the layer before it.
                with _recording():
                    passed_on = tensor.clone()
                    if across_cuts and _is_cut(tensor, len(inputs)):
                        passed_on = passed_on.requires_grad_().clone()
                see(call, tensor, passed_on.grad_fn)
                return _with_tensor(output, passed_on)

            return show

        watched = [(name, self._module.get_submodule(name)) for name in modules]
        hooks = [(module, hook_for(name)) for name, module in watched if not isinstance(module, torch.jit.ScriptModule)]
        with _recording(), _laid_out(self._module):
            return self._run(inputs, len(inputs), hooks)

    def watch(self, inputs: Tensor, layers: Collection[LayerCall], see: Callable[[LayerCall, Tensor], None]) -> None:
        """See ``Network``."""
        wanted = {(layer.module, layer.call): layer for layer in layers}
        calls = Counter[str]()

        def hook_for(name: str) -> _Hook:
            def show(_module: nn.Module, _inputs: Any, output: Any) -> None:
                layer = wanted.get((name, calls[name]))
                calls[name] += 1
                tensor = _tensor_in(output)
                if layer is not None and tensor is not None:
                    see(layer, rows_first(tensor, layer.batch_axis))

            return show

        names = {layer.module for layer in layers}
        with torch.no_grad():
            self._run(inputs, len(inputs), [(self._module.get_submodule(name), hook_for(name)) for name in names])

    def altered(self, inputs: Tensor) -> set[tuple[str, int]]:
        """See ``Network``."""
        hooked = [(name, part) for name, part in self._module.named_modules() if name and part._forward_hooks]
        watches = [_Watch(name, part) for name, part in hooked if not isinstance(part, torch.jit.ScriptModule)]
        if not watches:
            return set()
        with ExitStack() as registered, torch.no_grad():
            for watch in watches:  # behind the network's own
                registered.callback(watch.module.register_forward_hook(watch.after).remove)
            self._run(inputs, len(inputs), [(watch.module, watch.before) for watch in watches])
        return {(watch.name, call) for watch in watches for call in watch.changed}

    def biases(self) -> dict[str, Tensor]:
        """See ``Network``."""
        found = ((name, _bias(module)) for name, module in self._module.named_modules())
        return {name: bias.detach() for name, bias in found if bias is not None}

    def capture_attention(self, inputs: Tensor, derivatives: int = 1) -> AttentionCapture:
        """See ``Network``."""
        if self._blocks is None:
            self._blocks = self._find_blocks(inputs[:1])
        return self._capture_attention(inputs, self._blocks, derivatives)

    def _capture_attention(self, inputs: Tensor, blocks: Sequence[LayerCall], derivatives: int = 1) -> AttentionCapture:
        rows, tokens = len(inputs), dict[LayerCall, Tensor]()
        reader = _Reader(blocks, tokens)
        hooks = [(self._module.get_submodule(name), reader.hook_for(name)) for name in {each.module for each in blocks}]
        with _recording(), AttentionRecorder() as recorder, _laid_out(self._module):
            # The input asks for a gradient so that frozen parameters do not leave the attention without a graph. The
            # model's own hooks come first: they shall not see more rows than there are images.
            begins = inputs.detach().requires_grad_(derivatives > 0 or not blocks)
            logits = self._run(begins, rows * max(1, len(blocks)), hooks, first=False)
        attentions = [call.among_tokens(rows) for call in recorder.calls]
        found = None if reader.read is None else BlockOutputs(list(tokens.values()), reader.read)
        return AttentionCapture(attentions, logits, found)

    def _find_blocks(self, image: Tensor) -> tuple[LayerCall, ...]:
        """Find the blocks of a transformer by one image; nothing where one cannot tell what their tokens become.

        Raises:
            ModelOutputError: see ``capture_attention``.
        """
        recorder = AttentionRecorder()
        finder = BlockFinder(recorder)

        def leave(name: str) -> _Hook:
            return lambda _module, _inputs, output: finder.leave(name, _tensor_in(output))

        named = [(name, part) for name, part in self._module.named_modules() if name]
        parts = [(name, part) for name, part in named if not isinstance(part, torch.jit.ScriptModule)]
        with ExitStack() as entered, torch.no_grad(), recorder:
            for _, part in parts:
                entered.callback(part.register_forward_pre_hook(lambda *_: finder.enter()).remove)
            self._run(image, 1, [(part, leave(name)) for name, part in parts])
        blocks = finder.blocks()
        return blocks if self._go_through(blocks, torch.cat([image, image.flip(3)])) else ()

    def _go_through(self, blocks: Sequence[LayerCall], images: Tensor) -> bool:
        """Whether all that the logits depend on goes through the last block, whatever number of rows it gives out."""
        try:
            logits = self._capture_attention(images, blocks).logits[-len(images) :]
        except (RuntimeError, ModelOutputError):
            return False
        return same_logits(logits, self.predict(images), images.dtype)


@contextmanager
def _laid_out(module: nn.Module) -> Iterator[None]:
    """See ``service.cam.layouts``. What is replaced for the time being gets no tensor."""
    with ExitStack() as registered:
        for part in module.modules():
            if type(part) is nn.MultiheadAttention:
                registered.callback(part.register_forward_pre_hook(lay_out_tokens, with_kwargs=True).remove)
            elif isinstance(part, nn.BatchNorm2d) and "forward" not in vars(part):
                registered.callback(part.register_forward_pre_hook(lay_out_picture).remove)
        yield


class _Reader:
    """Hooks of a transformer's blocks: keep their tokens, and let what comes behind the last read those of all."""

    def __init__(self, blocks: Sequence[LayerCall], into: dict[LayerCall, Tensor]) -> None:
        self.blocks, self.into, self.calls = (
            {(block.module, block.call): block for block in blocks},
            into,
            Counter[str](),
        )
        self.read: Tensor | None = None

    def hook_for(self, name: str) -> _Hook:
        """Return the hook of one module."""

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            block = self.blocks.get((name, self.calls[name]))
            self.calls[name] += 1
            tensor = _tensor_in(output)
            if block is None or tensor is None:
                return None
            self.into[block] = rows_first(tensor.clone(), block.batch_axis)
            if len(self.into) < len(self.blocks):
                return None
            self.read = torch.cat(list(self.into.values())).detach().requires_grad_()
            return _with_tensor(output, rows_first(self.read, block.batch_axis).clone())

        return keep


class _Watch:
    """Two hooks of one module, before and after its own: which of its calls' outputs those change."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.changed: set[int] = set()
        self.calls = 0
        self.given: Tensor | None = None

    def before(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Keep what the module gives out, which a hook may write into."""
        tensor = _tensor_in(output)
        self.given = None if tensor is None else tensor.clone()

    def after(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Compare it with what the network goes on with."""
        tensor = _tensor_in(output)
        if self.given is not None and not _equal(self.given, tensor):
            self.changed.add(self.calls)
        self.calls += 1


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)


class _Cut:
    """Forward hook of one module: makes the wanted calls' outputs the places where gradients are read."""

    def __init__(self, wanted: Mapping[int, LayerCall], into: dict[LayerCall, Tensor], *, differentiate: bool) -> None:
        self.wanted, self.into, self.calls = wanted, into, 0
        self.differentiate = differentiate

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        layer = self.wanted.get(self.calls)
        self.calls += 1
        if layer is None:
            return None
        tensor = _tensor_in(output)
        if tensor is None:
            raise ModelOutputError(f"Layer {layer.module!r} gave {type(output).__name__} instead of a tensor.")
        with torch.inference_mode(mode=False), torch.set_grad_enabled(self.differentiate):
            # A copy, whoever may write into the output: what comes next in the network, the module in its next pass,
            # which somebody else's picture may need before these gradients are found.
            tensor = rows_first(tensor.clone(), layer.batch_axis)
            # A layer behind another target layer is already in the graph and must stay in it.
            kept = tensor if tensor.requires_grad else tensor.detach().requires_grad_(self.differentiate)
            self.into[layer] = kept
            # The network goes on with a copy: an in-place ReLU or += behind the layer must not change what was kept.
            return _with_tensor(output, rows_first(kept, layer.batch_axis).clone())


@contextmanager
def _recording() -> Iterator[None]:
    """Record a graph, whatever the thread or the network has switched off."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def _tensor_in(output: Any) -> Tensor | None:
    """The tensor that a layer gives out: its output, or what a tuple begins with (a hidden state, then its weights)."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None


def _with_tensor(output: Any, tensor: Tensor) -> Any:
    """A layer's output with another tensor in it."""
    if isinstance(output, Tensor):
        return tensor
    parts = [tensor, *output[1:]]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)


def _is_cut(tensor: Tensor, rows: int) -> bool:
    """Whether an output depends on the image, to tell it from constants, and is not in the graph all the same."""
    if tensor.requires_grad or not tensor.is_floating_point():
        return False
    axes = [axis for axis in range(min(2, tensor.ndim)) if tensor.shape[axis] == rows > 1]
    return any(not torch.equal(tensor.select(axis, 0), tensor.select(axis, 1)) for axis in axes)


def _bias(module: nn.Module) -> Tensor | None:
    if isinstance(module, nn.BatchNorm2d):
        if module.running_mean is None or module.running_var is None or module.bias is None:
            return None
        return module.bias - module.running_mean * module.weight / torch.sqrt(module.running_var + module.eps)
    return module.bias if isinstance(module, nn.Conv2d) else None
