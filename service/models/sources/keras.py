"""Models that Keras 3 saved (``.keras``, ``.h5``), computed on its torch backend.

Keras is told its backend by the environment when it is imported, and reads and writes a file in the user's home; both
are kept from it. Custom classes, lambdas and whatever else is code in a file are not run.
"""

from __future__ import annotations

import re
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.errors import ModelLoadError
from service.models.digests import digest_of_files
from service.models.sources.keras_files import KerasFile, code_of_their_own, read_keras_file, reads
from service.models.sources.keras_inputs import find_layout, find_precision, find_preprocessing
from service.models.sources.keras_network import KerasModule, hidden_layers, layers_within, take_off_activation
from service.models.sources.libraries import library
from service.models.sources.source import Downloads, LoadedModel, refuse_weights
from service.settings import environment

if TYPE_CHECKING:
    from service.settings import ModelConfig

__all__ = ["import_keras", "load", "reads"]

_IMPORTING = threading.Lock()
_MOST_VALUES = 2**28  # that a layer gives out for a picture: 1 GiB
_SLACK = 1.1, 1_000_000  # what a network may have of weights beyond what its file holds: seeds of random layers


def load(config: ModelConfig, _downloads: Downloads) -> LoadedModel:
    """Load a file of Keras.

    Raises:
        ModelLoadError: it holds no model, or one that cannot be served; the message says what to do.
    """
    refuse_weights(config)
    path = Path(config.architecture)
    if not path.exists():
        raise ModelLoadError(f"There is no file {path}.")
    keras = import_keras()
    model = _built(keras, read_keras_file(path))
    layout = find_layout(path.name, model)
    spec, warnings = find_preprocessing(path.name, config, model, layout)
    precision = find_precision(path.name, config, model)
    activation = take_off_activation(keras, model)
    digest = digest_of_files(path)
    module = KerasModule(keras, model, layout)
    return LoadedModel(
        module,
        spec,
        None,
        digest[:12],
        warnings,
        layout=layout,
        hidden=hidden_layers(module),
        activation=activation,
        precision=precision,
        digest=digest,
    )


def import_keras() -> Any:
    """Import Keras on torch, whatever the environment says.

    Raises:
        ModelLoadError: it is not installed, or code of the user has imported it on another backend.
    """
    with (
        _IMPORTING,
        tempfile.TemporaryDirectory() as home,
        environment(KERAS_BACKEND="torch", KERAS_HOME=home, TF_FORCE_GPU_ALLOW_GROWTH="true"),
    ):
        keras = library("keras", "keras")
    if int(keras.__version__.partition(".")[0]) < 3:
        raise ModelLoadError(
            f"Keras {keras.__version__} is installed; Keras 3 is needed: pip install 'camserve[keras]'."
        )
    if keras.backend.backend() != "torch":
        raise ModelLoadError(
            f"Keras was imported on {keras.backend.backend()} by code of yours in this process; it is needed on torch. "
            "Set KERAS_BACKEND=torch where the service is started."
        )
    return keras


# -- building ---------------------------------------------------------------------------------------------------------


def _built(keras: Any, file: KerasFile) -> Any:
    """Build the network and fill it.

    First on PyTorch's device without memory: what a description asks for is known before any of it is there.
    """
    name = file.path.name
    with tempfile.TemporaryDirectory() as folder:
        try:
            place = file.placed_in(Path(folder))
            _check_extent(name, _tried(keras, place), file.path.stat().st_size)
            with keras.device("cpu"):
                model = keras.saving.load_model(place, compile=False, safe_mode=True)
        except ModelLoadError:
            raise
        except Exception as error:  # what Keras raises at others' files is anything
            raise _in_words(name, str(error) or type(error).__name__) from error
    if not getattr(model, "inputs", None):
        raise ModelLoadError(f"{name} holds a model without an input. Begin it with keras.Input(…), and save again.")
    return model


def _tried(keras: Any, place: Path) -> Any:
    """Return the model without its numbers; None where a layer needs them to be built."""
    try:
        with keras.device("meta"):
            return keras.saving.load_model(place, compile=False, safe_mode=True)
    except Exception as error:
        if "meta" in str(error):
            return None
        raise


def _check_extent(name: str, model: Any, size: int) -> None:
    """Refuse a network that is larger than what its file of ``size`` bytes can hold."""
    if model is None:
        return
    weights = sum(_bytes(variable.shape, variable.dtype) for variable in model.variables)
    factor, more = _SLACK
    if weights > factor * size + more:
        raise ModelLoadError(
            f"{name} describes a network of {weights:,} bytes of weights, and is itself {size:,} bytes long: it is "
            "damaged. Copy or save it again."
        )
    for layer in layers_within(model):
        for node in layer._inbound_nodes:
            values = max((_values(tensor.shape) for tensor in node.outputs), default=0)
            if values > _MOST_VALUES:
                raise ModelLoadError(f"{name} cannot be served: its layer {layer.name!r} gives out {values:,} numbers.")


def _values(shape: tuple[int | None, ...]) -> int:
    count = 1
    for side in shape[1:]:
        count *= side or 1
    return count


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    bits = int((re.search(r"\d+", dtype) or ["8"])[0])
    return bits // 8 * _values((None, *shape))


_UNKNOWN = re.compile(r"(?:Unknown layer: |Could not locate (?:class|function) |Unknown [\w ]+: )'([^']+)'")


def _in_words(name: str, said: str) -> ModelLoadError:
    if found := _UNKNOWN.search(said):
        return code_of_their_own(name, found[1])
    reason = next(iter(said.strip().splitlines()), "")[:300].rstrip(".")
    return ModelLoadError(f"{name} cannot be loaded by Keras: {reason}. Save it again with Keras 3, or copy it again.")
