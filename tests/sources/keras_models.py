"""Small networks of Keras, as people build them, and Grad-CAM computed in Keras itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["NETWORKS", "direct_gradcam", "settle"]


def _functional(keras: Any) -> Any:
    """32 channels on a grid of 32×32, where nothing but the source can tell channels from rows and columns."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="first")(x)
    x = layers.Conv2D(32, 3, padding="same", name="second")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="third")(x)
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(5, activation="softmax", name="classes")(x))


def _sequential(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((40, 56, 3)),
            layers.RandomFlip("horizontal"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_1"),
            layers.SeparableConv2D(12, 3, padding="same", activation="relu", name="conv_2"),
            layers.Conv2D(6, 3, padding="same", activation="gelu", name="conv_3"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
            layers.Activation("softmax"),
        ]
    )


def _nested(keras: Any) -> Any:
    """A backbone within the model, whose own name holds a dot, with ``preprocess_input`` as operations."""
    backbone = keras.applications.MobileNetV2(input_shape=(64, 64, 3), alpha=0.35, weights=None, include_top=False)
    inputs = keras.Input((64, 64, 3))
    x = backbone(keras.applications.mobilenet_v2.preprocess_input(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


def _grey(keras: Any) -> Any:
    """One channel, one unit with a sigmoid."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu", name="a"),
            layers.Conv2D(8, 3, activation="relu", name="b"),
            layers.Conv2D(28, 3, activation="relu", name="c"),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def _vgg(keras: Any) -> Any:
    return keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=6)


NETWORKS: Mapping[str, tuple[Callable[[Any], Any], tuple[str, str, str]]] = {
    "functional": (_functional, ("first", "norm", "third")),
    "sequential": (_sequential, ("conv_1", "conv_2", "conv_3")),
    "nested": (_nested, ("block_3_expand", "block_13_expand_relu", "out_relu")),
    "grey": (_grey, ("a", "b", "c")),
    "vgg": (_vgg, ("block2_conv2", "block3_pool", "block4_conv3")),
}


def settle(keras: Any, model: Any) -> None:
    """Give every variable numbers that matter: biases are 0 otherwise, and averages of normalisation 0 and 1."""
    random = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.rpartition("/")[2] in {"bias", "beta", "moving_mean"}:
            variable.assign(random.normal(0, 0.1, variable.shape))
        elif "seed" not in variable.path and variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))


def direct_gradcam(keras: Any, model: Any, layer: str, pixels: NDArray[Any], target: int) -> NDArray[Any]:
    """Grad-CAM of one picture (H, W, C) in Keras on torch, the logits written out from the last layer's weights."""
    last = next(each for each in reversed(model.layers) if each.weights)
    backbone = next((each for each in model.layers if hasattr(each, "get_layer")), None)
    given = pixels.astype(np.float32)
    if backbone is None:
        inputs, tensors = _by_layer(keras, model)
        before = tensors[model.layers[model.layers.index(last) - 1].name]
    else:
        inputs, tensors = _by_layer(keras, backbone)
        before = keras.layers.GlobalAveragePooling2D()(backbone.output)
        given = keras.applications.mobilenet_v2.preprocess_input(given)
    seen = keras.Model(inputs, [tensors[layer], before])
    activations, features = seen(torch.tensor(given[None], requires_grad=True), training=False)
    logits = features @ last.kernel.value + last.bias.value  # (1, classes)
    score = logits[0, target] if logits.shape[1] > 1 else logits[0, 0] * (1 if target == 1 else -1)
    (gradient,) = torch.autograd.grad(score, activations)  # (1, h, w, C)
    weighted: NDArray[Any] = (gradient.mean((1, 2), keepdim=True) * activations).sum(-1)[0].relu().detach().numpy()
    return weighted


def _by_layer(keras: Any, model: Any) -> tuple[Any, dict[str, Any]]:
    """Return a model's input, and what each of its layers makes of it."""
    if not isinstance(model, keras.Sequential):
        return model.inputs, {layer.name: layer.output for layer in model.layers}
    # A Sequential calls its layers anew with every one that is added: their first outputs are of other graphs.
    inputs = x = keras.Input(model.input_shape[1:])
    return inputs, {layer.name: (x := layer(x)) for layer in model.layers}
