"""ONNX graphs, read within bounds and prepared for onnx2torch.

onnx2torch knows operators up to opset 17 and stumbles over what exporters write today. What they changed since is
written here in the older way where that means the same, and refused where it does not. Its networks are Python code
that torch.fx writes with the nodes' names in it: names are reduced to letters, digits and ``/_:-``.
"""

from __future__ import annotations

import mmap
import re
from typing import TYPE_CHECKING, Any, Literal

import onnx
from onnx import numpy_helper

from service.models.sources.graph_inputs import UnusableGraph

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["closing_activation", "files_beside", "prepare", "read_graph", "training_node"]

_OPSET = 17  # the last that onnx2torch knows
_MOST_RECORDS = 200_000  # nodes and weights; a large Swin has 5,000
_MOST_IN_A_RECORD = 1_000
_MOST_NODE_BYTES = 32_000_000  # beside the weights; a large Swin has 2 MB. Each two of them may become an object


def read_graph(file: Path) -> ModelProto:
    """Read a file and what lies beside it.

    Raises:
        UnusableGraph: it is damaged or too large, or names files elsewhere.
        OSError: it cannot be read.
    """
    _check_records(file)
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # the C++ parser's own classes
        raise UnusableGraph("is cut off or damaged: copy or download it again") from error
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, file.parent)
    try:
        onnx.load_external_data_for_model(model, str(file.parent))
    except Exception as error:
        raise UnusableGraph(f"has weights in files beside it that cannot be read: {error}") from error
    return model


def files_beside(file: Path) -> list[Path]:
    """Return the files that hold weights of a graph that was read, in order."""
    model = onnx.load(file, load_external_data=False)
    external = (tensor for tensor in _tensors(model.graph) if tensor.data_location == onnx.TensorProto.EXTERNAL)
    names = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    return [file.parent / name for name in sorted(names)]


def _check_external(tensor: TensorProto, folder: Path) -> None:
    """Refuse files that are not plain ones beside the model, and parts that are not in them."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    location = told.get("location", "")
    beside = folder / location
    if not location or not beside.resolve().is_relative_to(folder.resolve()) or beside.is_symlink():
        raise UnusableGraph(f"names weights in {location!r}, which is not beside it: they are not read")
    if not beside.is_file():
        raise UnusableGraph(f"has weights in the file {location}, which is not there: keep both together")
    numbers = [told.get("offset", "0"), told.get("length", "0")]
    if not all(re.fullmatch(r"\d{1,15}", number) for number in numbers):
        raise UnusableGraph(f"does not say where in {location} its weights are")
    if sum(map(int, numbers)) > beside.stat().st_size:
        raise UnusableGraph(f"has weights beyond the end of {location}: copy or download it again")


# -- the size of a file -----------------------------------------------------------------------------------------------


def _check_records(file: Path) -> None:
    """Count what a file holds before it is parsed: each of its records, of two bytes and more, becomes an object."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        count = node_bytes = 0
        for field, begin, end in _records(content, 0, len(content)):
            count += 1
            if field != 7:  # the graph
                node_bytes += end - begin
                continue
            for part, first, last in _records(content, begin, end):
                count += 1
                if part == 5:  # a weight
                    inside = sum(1 for _ in _records(content, first, last))
                    if inside > _MOST_IN_A_RECORD:
                        raise UnusableGraph(f"has a tensor of {inside} parts, which no exporter writes")
                else:
                    node_bytes += last - first
        if count > _MOST_RECORDS or node_bytes > _MOST_NODE_BYTES:
            raise UnusableGraph(
                f"has a graph of {count:,} parts and {node_bytes:,} bytes beside its weights; "
                f"{_MOST_RECORDS:,} and {_MOST_NODE_BYTES:,} are allowed"
            )


def _records(content: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Return field number, beginning and end of each record of a protobuf message."""
    cut_off = UnusableGraph("is cut off or damaged: copy or download it again")
    while begin < end:
        tag, begin = _number(content, begin, end)
        match tag & 7:
            case 0:
                _, after = _number(content, begin, end)
            case 1:
                after = begin + 8
            case 2:
                length, begin = _number(content, begin, end)
                after = begin + length
            case 5:
                after = begin + 4
            case _:
                raise cut_off
        if after > end:
            raise cut_off
        yield tag >> 3, begin, after
        begin = after


def _number(content: mmap.mmap, begin: int, end: int) -> tuple[int, int]:
    number = 0
    for place in range(10):
        if begin + place >= end:
            break
        byte = content[begin + place]
        number |= (byte & 127) << (7 * place)
        if byte < 128:
            return number, begin + place + 1
    raise UnusableGraph("is cut off or damaged: copy or download it again")


# -- what is written in another way -----------------------------------------------------------------------------------


def prepare(model: ModelProto) -> ModelProto:
    """Return ``model`` brought to opset 17 as onnx2torch reads it.

    Raises:
        UnusableGraph: it uses what cannot be written so; the message names the operator.
    """
    if model.functions:
        raise UnusableGraph("holds functions of its own: inline them with onnx.inliner.inline_local_functions(model)")
    _check_domains(model.graph)
    version = next((row.version for row in model.opset_import if row.domain in {"", "ai.onnx"}), 0)
    # While its operators are those of its own opset: later ones are unknown to an earlier.
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    _fold_identities(graph)
    constants = _constants(graph)
    for node in graph.node:
        node.domain = ""
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None:
            rewrite(node, constants)
    _rename(graph)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", min(version, _OPSET)))
    return model


def _check_domains(graph: GraphProto) -> None:
    foreign = {f"{node.domain}.{node.op_type}" for node in graph.node if node.domain not in {"", "ai.onnx"}}
    if foreign:
        raise UnusableGraph(f"uses operators that are not ONNX's own ({', '.join(sorted(foreign)[:5])})")
    nested = {node.op_type for node in graph.node for part in node.attribute if part.HasField("g") or part.graphs}
    if nested:
        raise UnusableGraph(f"uses {', '.join(sorted(nested))}, whose graphs inside the graph are not converted")


def _fold_identities(graph: GraphProto) -> None:
    """Let nodes read an initializer by its own name, where exporters have shared one by Identity nodes."""
    weights = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    sources: dict[str, str] = {}
    kept = []
    for node in graph.node:
        source = sources.get(node.input[0], node.input[0]) if node.op_type == "Identity" and node.input else ""
        if source in weights and node.output[0] not in outputs:
            sources[node.output[0]] = source
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = sources.get(name, name)


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        values = [part.t for part in node.attribute if part.name == "value"]
        if node.op_type == "Constant" and values:
            found[node.output[0]] = values[0]
    return found


def _reduce(node: NodeProto, constants: dict[str, TensorProto]) -> None:
    """Opset 18 gives the axes as an input."""
    everything = _take(node, "noop_with_empty_axes")
    axes = node.input[1] if len(node.input) > 1 else ""
    if not axes:
        if everything:
            raise UnusableGraph(f"uses {node.op_type} without axes as no operation, which is not converted")
        return
    if axes not in constants:
        raise UnusableGraph(f"computes the axes of {node.op_type}, which is not converted")
    values = numpy_helper.to_array(constants[axes]).flatten().tolist()
    del node.input[1:]
    node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in values]))


def _reshape(node: NodeProto, constants: dict[str, TensorProto]) -> None:
    if not _take(node, "allowzero"):
        return
    shape = constants.get(node.input[1])
    if shape is not None and 0 in numpy_helper.to_array(shape):
        raise UnusableGraph("uses Reshape with allowzero and a size of 0, which is not converted")


def _split(node: NodeProto, _constants: dict[str, TensorProto]) -> None:
    _take(node, "num_outputs")


def _pad(node: NodeProto, _constants: dict[str, TensorProto]) -> None:
    if len(node.input) > 3 and node.input[3]:
        raise UnusableGraph("uses Pad with axes, which is not converted")
    _refuse_modes(node, mode={b"wrap"})


def _resize(node: NodeProto, _constants: dict[str, TensorProto]) -> None:
    if _take(node, "antialias"):
        raise UnusableGraph("uses Resize with antialias, which is not converted")
    _refuse_modes(node, coordinate_transformation_mode={b"tf_crop_and_resize", b"half_pixel_symmetric"})


def _pool(node: NodeProto, _constants: dict[str, TensorProto]) -> None:
    """Opset 19 has dilations for averages too."""
    if node.op_type == "AveragePool" and any(step != 1 for step in _take(node, "dilations") or []):
        raise UnusableGraph("uses AveragePool with dilations, which is not converted")


def _refuse_modes(node: NodeProto, **modes: set[bytes]) -> None:
    for part in node.attribute:
        if part.s in modes.get(part.name, set()):
            raise UnusableGraph(f"uses {node.op_type} with {part.name}={part.s.decode()}, which is not converted")


def _take(node: NodeProto, name: str) -> Any:
    """Take an attribute off a node, and return its value; None where it has none of that name."""
    for place, part in enumerate(node.attribute):
        if part.name == name:
            value = onnx.helper.get_attribute_value(part)
            del node.attribute[place]
            return value
    return None


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

_REWRITES = {
    **{f"Reduce{name}": _reduce for name in _REDUCTIONS},
    "Reshape": _reshape,
    "Split": _split,
    "Pad": _pad,
    "Resize": _resize,
    "AveragePool": _pool,
}


def _rename(graph: GraphProto) -> None:
    """Give nodes names that are no code, each its own."""
    taken: set[str] = set()
    for node in graph.node:
        name = re.sub(r"[^A-Za-z0-9_/:-]", "_", node.name.replace(".", "/")).strip("/") or node.op_type
        while name in taken or name == "initializers":
            stem, _, number = name.rpartition("_")
            name = f"{stem}_{int(number) + 1}" if stem and number.isdecimal() and len(number) < 9 else f"{name}_1"
        taken.add(name)
        node.name = name


# -- what it computes -------------------------------------------------------------------------------------------------


def closing_activation(graph: GraphProto) -> Literal["softmax", "sigmoid"] | None:
    """Take a closing softmax or sigmoid off a graph of one output, and name it; None where there is none."""
    if len(graph.output) != 1:
        return None
    name, found = graph.output[0].name, None
    taken: list[NodeProto] = []
    while found is None:
        last = next((node for node in graph.node if name in node.output), None)
        read_elsewhere = sum(name in node.input for node in graph.node) != bool(taken)
        if last is None or last.op_type not in {"Identity", "Softmax", "Sigmoid"} or read_elsewhere:
            return None
        taken.append(last)
        name = last.input[0]
        if last.op_type != "Identity":
            found = last
    if found.op_type == "Softmax" and not _over_classes(found, graph.output[0]):
        return None
    graph.output[0].name = name
    for node in taken:
        graph.node.remove(node)
    return "softmax" if found.op_type == "Softmax" else "sigmoid"


def _over_classes(softmax: NodeProto, output: onnx.ValueInfoProto) -> bool:
    axis = next((part.i for part in softmax.attribute if part.name == "axis"), None)
    return axis in {None, 1, -1} and len(output.type.tensor_type.shape.dim) == 2


def training_node(graph: GraphProto) -> str | None:
    """Name an operator in training mode; None where there is none."""
    constants = _constants(graph)
    for node in graph.node:
        modes = {part.name: part.i for part in node.attribute}
        if node.op_type == "BatchNormalization" and modes.get("training_mode"):
            return str(node.op_type)
        active = constants.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
        if active is not None and numpy_helper.to_array(active).any():
            return str(node.op_type)
    return None


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for part in node.attribute:
            if part.HasField("t"):
                yield part.t
            yield from part.tensors
            for inner in [part.g] * part.HasField("g") + list(part.graphs):
                yield from _tensors(inner)
