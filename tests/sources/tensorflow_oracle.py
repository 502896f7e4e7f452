"""Run by a Python that has TensorFlow: saves models, and Grad-CAM of them by its GradientTape.

``python tensorflow_oracle.py FOLDER`` writes ``NAME.keras`` and ``NAME.npz`` (pixels, layers, targets, and a map for
each layer and target, as it is before its ReLU) for every network. It imports nothing of this package.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np


def _networks(keras: Any) -> dict[str, tuple[Any, Any, list[str]]]:
    """Return by name: the model, what is done to its pictures, and the layers."""
    applications, layers = keras.applications, keras.layers
    small = {"weights": None, "input_shape": (64, 64, 3), "classes": 5}
    inputs = keras.Input((32, 48, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(8, 3, activation="relu", name="conv.1")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="gelu", name="b")(x)
    x = layers.SeparableConv2D(12, 3, padding="same", name="c")(x)
    own = keras.Model(inputs, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    return {
        "vgg16": (
            applications.VGG16(**small),
            applications.vgg16.preprocess_input,
            ["block3_conv3", "block5_conv1", "block4_pool"],
        ),
        "resnet50": (
            applications.ResNet50(**small),
            applications.resnet.preprocess_input,
            ["conv3_block4_out", "conv4_block6_out", "conv5_block3_out"],
        ),
        "mobilenet_v2": (
            applications.MobileNetV2(alpha=0.35, **small),
            applications.mobilenet_v2.preprocess_input,
            ["block_3_expand", "block_12_add", "out_relu"],
        ),
        "own": (own, np.asarray, ["conv.1", "b", "c"]),
    }


def _settle(model: Any) -> None:
    random = np.random.default_rng(0)
    for variable in model.variables:
        kind = variable.path.rpartition("/")[2]
        if kind in {"bias", "beta", "moving_mean"}:
            variable.assign(random.normal(0, 0.1, variable.shape))
        elif kind in {"gamma", "moving_variance"}:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))


def _gradcam(keras: Any, tf: Any, model: Any, layer: str, given: Any, target: int) -> Any:
    last = model.layers[-1]
    seen = keras.Model(model.inputs, [model.get_layer(layer).output, last.input])
    with tf.GradientTape() as tape:
        activations, features = seen(given[None], training=False)
        logit = (features @ last.kernel + last.bias)[0, target]
    gradient = tape.gradient(logit, activations)
    return tf.reduce_sum(tf.reduce_mean(gradient, (1, 2), keepdims=True) * activations, -1)[0].numpy()


def main(folder: Path) -> None:
    """Write all of it to ``folder``."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    for name, (model, preprocess, layers) in _networks(keras).items():
        _settle(model)
        pixels = np.random.default_rng(1).integers(0, 256, model.input_shape[1:], dtype=np.uint8)
        given = preprocess(pixels.astype(np.float32))
        maps = {
            f"{layer}|{target}": _gradcam(keras, tf, model, layer, given, target)
            for layer in layers
            for target in (0, 1, 2)
        }
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", pixels=pixels, probabilities=model(given[None])[0].numpy(), **maps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
