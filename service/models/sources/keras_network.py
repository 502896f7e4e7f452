"""A network of Keras as a module of PyTorch: NCHW in, logits out, and its layers by Keras' names.

Keras' layers are modules on its torch backend, and hooks on them fire; but a model keeps its layers in lists, where
PyTorch does not see them. Here they are registered by their names, those of a model within the model under its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from service.vocabulary import Activation, ChannelLayout

__all__ = ["KerasModule", "hidden_layers", "is_model", "layers_within", "take_off_activation"]


class KerasModule(nn.Module):
    """Maps (N, channels, H, W) to what a Keras model gives out, on the device of its input.

    Its precision is that of its file: every layer has one of its own.
    """

    _model: Any
    _device: Any
    _names: Any

    def __init__(self, keras: Any, model: Any, layout: ChannelLayout) -> None:
        """Register the layers of ``model``, whose pictures are laid out as ``layout`` says."""
        super().__init__()
        # Not as submodules: the model is this module itself.
        self.__dict__.update(_model=model, _device=keras.device, _names=getattr(model, "output_names", []))
        self._layout = layout
        for module in list(model.modules()):
            _own_variables(module)
        _register(self, model)

    def forward(self, images: Tensor) -> Any:
        """Return logits (N, classes), or those of all outputs by name."""
        with self._device(str(images.device)):
            pixels = images if self._layout == "NCHW" else images.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
            outputs = self._model(pixels, training=False)
        if isinstance(outputs, list | tuple):
            return outputs[0] if len(outputs) == 1 else dict(zip(self._names, outputs, strict=True))
        return outputs

    def to(self, device: torch.device, **_precision: Any) -> KerasModule:  # type: ignore[override]
        """Move it to a device; its precision stays."""
        return super().to(device)


def layers_within(model: Any) -> Iterator[Any]:
    """Yield the layers of a model and of all models within it, in their order."""
    for layer in model.layers:
        yield layer
        if is_model(layer):
            yield from layers_within(layer)


_PREPARING = ("CenterCrop", "GaussianNoise", "Normalization", "Random", "Rescaling", "Resizing")


def hidden_layers(module: KerasModule) -> frozenset[str]:
    """Name the layers that prepare or augment pictures: they say nothing of what a network sees."""
    prepares = {name: type(part).__name__.startswith(_PREPARING) for name, part in module.named_modules() if name}
    return frozenset(
        name
        for name in prepares
        if all(does for other, does in prepares.items() if other.startswith(f"{name}."))
        and (prepares[name] or any(other.startswith(f"{name}.") for other in prepares))
    )


def is_model(layer: Any) -> bool:
    """Whether a layer is a model within the model."""
    return hasattr(layer, "layers") and hasattr(layer, "get_layer")


def _register(parent: nn.Module, model: Any) -> None:
    """Make the layers of ``model`` submodules of ``parent``, which it may be itself."""
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":  # which computes nothing
            continue
        for module in list(layer.modules()):
            _own_variables(module)
        if is_model(layer):
            # A Sequential has the same layers once more, in a model that is never called.
            layer.__dict__.update(layer._modules)
            layer._modules.clear()
            _register(layer, layer)
        parent._modules[_name_in(parent, layer.name)] = layer


def _name_in(parent: nn.Module, name: str) -> str:
    """Return the layer's name, without dots, which part modules, and other than the attributes of its parent."""
    name = name.replace(".", "_")
    while hasattr(type(parent), name) or name in parent.__dict__ or name in parent._modules:
        name += "_"
    return name


def _own_variables(layer: nn.Module) -> None:
    """Give a layer its own variables as parameters, in place of a module that has all those below it, too."""
    if not hasattr(layer, "torch_params"):
        return
    layer.__dict__["_torch_params"] = layer.torch_params
    layer._modules.pop("_torch_params", None)
    for variable in (*layer._trainable_variables, *layer._non_trainable_variables):  # type: ignore[misc]
        layer._parameters[variable.name.replace(".", "_")] = variable.value


# -- the last activation ----------------------------------------------------------------------------------------------

_PASSING = {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze"}
_ACTIVATIONS: dict[str, Activation] = {"softmax": "softmax", "sigmoid": "sigmoid"}


def take_off_activation(keras: Any, model: Any) -> Activation | None:
    """Let a model give out what comes before its closing softmax or sigmoid, and return which it was.

    The logits are exact: nothing is inverted. Where it cannot be taken off, since something else uses its output or its
    layer, or where outputs end in different ones that nobody could tell afterwards, it stays.
    """
    ends = [_closing(model, output) for output in model.outputs]
    found = {kind for _, kind, _ in filter(None, ends)}
    if len(found) == 1 and None not in ends:
        _take_off(keras, [end[0] for end in ends if end])
        return next(iter(found))
    # What is left is a softmax of several outputs or a sigmoid of one: so the activation is found by itself.
    usual = [end[0] for end in ends if end and end[1] == ("sigmoid" if end[2] == 1 else "softmax")]
    _take_off(keras, usual)
    return None


def _closing(model: Any, output: Any, uses: int = 0) -> tuple[Any, Activation, int] | None:
    """Return the operation that is a model's closing activation, which it is, and of how many values; or None.

    ``uses`` is how often the model itself uses ``output``: by what hands it on, if by anything.
    """
    nodes = _nodes_behind(model.outputs)
    operation, node_index, tensor_index = output._keras_history
    used = sum(any(tensor is output for tensor in node.input_tensors) for node in nodes)
    if used > uses or sum(node.operation is operation for node in nodes) > 1:
        return None
    if is_model(operation):
        return _closing(operation, operation.outputs[tensor_index])
    kind = _activation_of(operation)
    if kind is None and (type(operation).__name__ in _PASSING or _is_linear(operation)):
        return _closing(model, operation._inbound_nodes[node_index].input_tensors[0], uses=1)
    *places, size = output.shape[1:]
    # A softmax of one value is 1, whatever its logit is: that is told later.
    if kind is None or size is None or any(side != 1 for side in places) or (kind == "softmax" and size == 1):
        return None
    return operation, kind, size


def _nodes_behind(outputs: Sequence[Any]) -> list[Any]:
    """Return the calls of operations that lead to ``outputs``, each once. Keras keeps those of other graphs as well."""
    nodes: dict[int, Any] = {}
    waiting = list(outputs)
    while waiting:
        operation, index, _ = waiting.pop()._keras_history
        node = operation._inbound_nodes[index]
        if id(node) not in nodes:
            nodes[id(node)] = node
            waiting.extend(node.input_tensors)
    return list(nodes.values())


def _activation_of(operation: Any) -> Activation | None:
    name = getattr(getattr(operation, "activation", None), "__name__", type(operation).__name__.lower())
    last = getattr(operation, "axis", -1) == -1
    return _ACTIVATIONS.get(name) if last else None


def _is_linear(operation: Any) -> bool:
    return type(operation).__name__ == "Activation" and operation.activation.__name__ == "linear"


def _take_off(keras: Any, operations: Sequence[Any]) -> None:
    for operation in operations:
        if hasattr(operation, "activation"):
            operation.activation = keras.activations.linear
        else:
            operation.call = _handed_on


def _handed_on(inputs: Any, **_options: Any) -> Any:
    return inputs
