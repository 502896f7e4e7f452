"""ONNX files, converted to torch by onnx2torch: every operator becomes a module whose output can be watched."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from service.errors import ModelLoadError, first_line, kind_and_line
from service.models.digests import digest_of_files
from service.models.file_kinds import ONNX, kind_of
from service.models.info import ModelWarning
from service.models.sources.graph_inputs import UnusableGraph, graph_input
from service.models.sources.libraries import library
from service.models.sources.source import Downloads, LoadedModel, refuse_weights

if TYPE_CHECKING:
    from torch import fx

    from service.imaging.preprocess import PreprocessSpec
    from service.settings import ModelConfig

__all__ = ["load", "reads"]

log = logging.getLogger("camserve.models")

_FREE_SIZE = "dynamic axes for height and width"
_USUAL = 224  # of an input whose size is free
_TOLERANCE = 1e-3  # of the largest output: what rounding leaves is a thousand times smaller, a wrong operator larger
_FLOAT, _UINT8 = 1, 2  # of ONNX's data types


def reads(path: Path) -> bool:
    """Return whether it is an ONNX file."""
    return path.is_file() and kind_of(path) is ONNX


def load(config: ModelConfig, _downloads: Downloads) -> LoadedModel:
    """Load the graph at ``config.architecture``.

    A closing softmax or sigmoid is taken off, since the gradient of a probability vanishes where the model is sure.
    What was converted is compared with what onnxruntime computes, where that is installed.

    Raises:
        ModelLoadError: a library is missing, the file is damaged, or something of it cannot be converted or batched.
    """
    file = Path(config.architecture)
    refuse_weights(config)
    library("onnx", "onnx")
    library("onnx2torch", "onnx")
    onnx_graphs = library("service.models.sources.onnx_graphs", "onnx")
    try:
        model = onnx_graphs.read_graph(file)
        taken_in = _Input.of(model.graph)
        original = model.SerializeToString()
        if found := onnx_graphs.training_node(model.graph):
            raise UnusableGraph(f"was exported in training mode ({found}). Export it from model.eval()")
        activation = onnx_graphs.closing_activation(model.graph)
        module = _converted(onnx_graphs.prepare(model))
    except UnusableGraph as error:
        raise ModelLoadError(f"{file.name} {error}.") from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{file.name} cannot be read: {error}.") from error
    size = taken_in.channels, taken_in.height or _USUAL, taken_in.width or _USUAL
    spec, assumed = graph_input(config, file, size, fixed=taken_in.height is not None, how_to_free=_FREE_SIZE)
    if taken_in.last:
        _take_channels_last(module)
    _check_batches(module, file, taken_in, spec)
    checked = _compared(module, original, file, taken_in, spec, activation)
    digest = digest_of_files(file, *onnx_graphs.files_beside(file))
    hidden = frozenset(name for name, _ in module.named_modules() if name == "initializers")
    return LoadedModel(
        module, spec, None, digest[:12], (*assumed, *checked), hidden=hidden, activation=activation, digest=digest
    )


@dataclass(frozen=True)
class _Input:
    """The input of a graph; sizes are None where any will do.

    Attributes:
        name: in the graph.
        batch: the size of its batches.
        channels: of its pictures.
        height: of its pictures.
        width: likewise.
        last: whether channels come last, as in TensorFlow.
        dtype: of ONNX's data types.
    """

    name: str
    batch: int | None
    channels: int
    height: int | None
    width: int | None
    last: bool
    dtype: int

    @classmethod
    def of(cls, graph: Any) -> _Input:
        """Read it of a graph.

        Raises:
            ValueError: it is no picture; the message is a clause.
        """
        weights = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        if len(inputs) != 1:
            raise UnusableGraph(f"takes {len(inputs)} inputs, where one picture is needed")
        tensor = inputs[0].type.tensor_type
        sizes = [axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
        if len(sizes) != 4 or any(size is not None and not 0 < size < 2**16 for size in sizes):
            raise UnusableGraph(f"takes an input of shape {sizes}, where pictures (N, C, H, W) have 4 axes")
        if tensor.elem_type not in {_FLOAT, _UINT8}:
            raise UnusableGraph(
                "computes in another type than float32. Export it in float32; the option precision changes it"
            )
        batch, *rest = sizes
        last = rest[2] in {1, 3} and rest[0] not in {1, 3}
        channels, height, width = (rest[2], rest[0], rest[1]) if last else rest
        if channels is None:
            raise UnusableGraph("does not say how many channels it takes. Export it with a fixed number of them")
        return cls(inputs[0].name, batch, channels, height, width, last, tensor.elem_type)


def _converted(model: Any) -> fx.GraphModule:
    """Convert a prepared graph.

    Raises:
        UnusableGraph: an operator of it is not known, or used in a way that is not.
    """
    onnx2torch = library("onnx2torch", "onnx")
    library("service.models.sources.onnx_operators", "onnx")  # further operators
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: fx.GraphModule = onnx2torch.convert(model)
    except NotImplementedError as error:
        raise UnusableGraph(f"cannot be converted to torch: {error}") from error
    except Exception as error:  # whatever a graph makes of the converter
        log.info("an ONNX graph could not be converted", exc_info=error)
        raise UnusableGraph(f"cannot be converted to torch: {kind_and_line(error)}") from error
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):  # taken from inferred shapes, where sizes that depend on others are missing
            part.normalized_shape = tuple(part.weight.shape)
    return module


def _take_channels_last(module: fx.GraphModule) -> None:
    """Bring (N, C, H, W) to the (N, H, W, C) that the graph takes."""
    taken = next(node for node in module.graph.nodes if node.op == "placeholder")
    with module.graph.inserting_after(taken):
        turned = module.graph.call_method("permute", (taken, 0, 2, 3, 1))
    taken.replace_all_uses_with(turned, delete_user_cb=lambda user: user is not turned)
    module.recompile()


def _check_batches(module: nn.Module, file: Path, taken_in: _Input, spec: PreprocessSpec) -> None:
    """Refuse a graph in which the size of a batch is written down.

    Raises:
        ModelLoadError: three pictures give no three rows.
    """
    try:
        with torch.inference_mode():
            outputs = module.eval()(_noise(spec, 3))
    except Exception as error:  # whatever the shapes of a graph lead to
        reason = first_line(error)
        if taken_in.batch is None:
            raise ModelLoadError(
                f"{file.name} cannot compute pictures of {spec.height}×{spec.width}: {reason}"
            ) from error
        outputs = None
    rows = {len(each) for each in _tensors(outputs)}
    if rows != {3}:
        batch = f"batches of {taken_in.batch}" if taken_in.batch else "one batch size"
        raise ModelLoadError(
            f"{file.name} was exported for {batch}. Export it again with a free batch: torch.onnx.export(…, "
            "dynamic_shapes=({0: torch.export.Dim('batch')},)), or a first axis of None in TensorFlow."
        )


def _compared(
    module: nn.Module, original: bytes, file: Path, taken_in: _Input, spec: PreprocessSpec, activation: str | None
) -> tuple[ModelWarning, ...]:
    """Compare what was converted with what onnxruntime computes; warn where it is not installed.

    Raises:
        ModelLoadError: they differ.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        text = (
            f"{file.name} was converted from ONNX, and not compared with the original, since onnxruntime is not "
            "installed: pip install onnxruntime."
        )
        return (ModelWarning("conversion_unchecked", text),)
    inputs = _noise(spec, taken_in.batch or 2)
    with torch.inference_mode():
        found = _tensors(module.eval()(inputs))
    found = [_activated(each.float(), activation) for each in found]
    pixels = inputs.permute(0, 2, 3, 1) if taken_in.last else inputs
    fed = pixels.numpy().astype("uint8") if taken_in.dtype == _UINT8 else pixels.numpy()
    try:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(original, options, providers=["CPUExecutionProvider"])
        expected = [torch.from_numpy(each).float() for each in session.run(None, {taken_in.name: fed})]
    except Exception as error:  # its own classes
        raise ModelLoadError(f"{file.name} cannot be computed by onnxruntime: {first_line(error)}") from error
    apart = [
        float((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
        for mine, theirs in _pairs(found, expected)
    ]
    if len(found) != len(expected) or not all(each <= _TOLERANCE for each in apart):
        raise ModelLoadError(
            f"{file.name} computes something else after its conversion to torch than in onnxruntime (apart by "
            f"{max(apart, default=1):.2g} of the largest output): one of its operators is converted wrongly. Serve the "
            "network that it was exported from, or its torch.export program (.pt2)."
        )
    return ()


def _pairs(found: list[Tensor], expected: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(mine, theirs) for mine, theirs in zip(found, expected, strict=False) if mine.shape == theirs.shape]


def _noise(spec: PreprocessSpec, count: int) -> Tensor:
    """Return normalised noise, (count, C, H, W)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    size = (count, spec.channels, spec.height, spec.width)
    pixels = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0)).float()
    return (pixels * spec.scale - mean) / std


def _activated(outputs: Tensor, activation: str | None) -> Tensor:
    if activation == "softmax":
        return outputs.softmax(-1)
    return outputs.sigmoid() if activation == "sigmoid" else outputs


def _tensors(outputs: object) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [each for each in outputs if isinstance(each, Tensor)] if isinstance(outputs, list | tuple) else []
