"""Programs of ``torch.export`` (``.pt2``), made safe before torch reads them.

``torch.export.load`` runs what a file says in more ways than one: it unpickles the example inputs, and weights that are
marked so; it evaluates the expressions of sizes, writes names of the graph into Python code, and calls operators by
whatever path of attributes they are given. Here every member is read as data. What is needed is compared with what a
graph of operators may contain and written to a new archive, in memory; everything else, pickles above all, is left out.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Program", "read_program"]

_MOST_GRAPH_BYTES = 100_000_000  # of JSON; a large transformer has 5 MB
_DEEPEST = 60  # objects and lists within each other; a graph inside another adds 7
_MODEL = "models/model.json"
_EXPORT_AGAIN = "Export it again with a current torch: torch.export.save(torch.export.export(…), …)."


@dataclass(frozen=True)
class Program:
    """A program that may be given to ``torch.export.load``.

    Attributes:
        archive: the file, with nothing in it that is run.
        batch: the size of its batches, or None where it takes any.
        channels: of its input.
        height: of its input; of the example where it takes any.
        width: likewise.
        fixed: whether it takes no other height and width.
        training: what in it shows that it was exported in training mode; None where nothing does.
    """

    archive: io.BytesIO
    batch: int | None
    channels: int
    height: int
    width: int
    fixed: bool
    training: str | None


class _UnsafeProgram(ValueError):
    """The file holds something that no exported classifier needs."""


def read_program(file: Path) -> Program:
    """Read ``file``, which is an exported program by its members' names.

    Raises:
        ModelLoadError: it is damaged, of an old version, holds what is not run, or is no classifier of pictures.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(_Members(archive, file))
    except _UnsafeProgram as error:
        raise ModelLoadError(f"{file.name} {error}") from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ModelLoadError(f"{file.name} is damaged: {error}. Copy or download it again.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelLoadError(f"{file.name} is no exported program that this torch reads. {_EXPORT_AGAIN}") from error


class _Members:
    """The members of an archive by their names below its one folder."""

    def __init__(self, archive: zipfile.ZipFile, file: Path) -> None:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise _UnsafeProgram("has two members of one name. " + _EXPORT_AGAIN)
        # PyTorch compresses nothing. A file that unpacks to more than its size is a bomb, or has been packed anew.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise _UnsafeProgram("was compressed after it was exported. " + _EXPORT_AGAIN)
        if sum(member.file_size for member in members) > file.stat().st_size:
            raise _UnsafeProgram("unpacks to more than its size. " + _EXPORT_AGAIN)
        if "serialized_exported_program.json" in names:
            raise _UnsafeProgram("was exported by a torch before 2.8, with pickled weights. " + _EXPORT_AGAIN)
        self._archive = archive
        self.sizes = {member.filename.partition("/")[2]: member.file_size for member in members}
        self._root = names[0].partition("/")[0]

    def bytes(self, name: str) -> bytes:
        return self._archive.read(f"{self._root}/{name}")

    def json(self, name: str) -> Any:
        if self.sizes[name] > _MOST_GRAPH_BYTES:
            raise _UnsafeProgram(f"has {self.sizes[name]:,} bytes of {name}, where {_MOST_GRAPH_BYTES:,} are allowed.")
        content = json.loads(self.bytes(name))
        _check(content)
        return content


def _read(members: _Members) -> Program:
    if "archive_format" not in members.sizes:  # only what is inside a member that is itself an archive was found
        raise zipfile.BadZipFile("its table of contents is cut off")
    programs = [name for name in members.sizes if name.startswith("models/")]
    if programs != [_MODEL]:
        compiled = any(name.startswith("data/aotinductor/") for name in members.sizes)
        what = "is compiled (AOTInductor)" if compiled else f"holds {len(programs)} programs"
        raise _UnsafeProgram(f"{what}, where one exported program is needed. {_EXPORT_AGAIN}")
    program = members.json(_MODEL)
    graph = program["graph_module"]["graph"]
    sizes, fixed = _input_sizes(graph, program["graph_module"]["signature"])
    batch_symbol = _symbol(sizes[0])
    payloads = {
        "weights": members.json("data/weights/model_weights_config.json"),
        "constants": members.json("data/constants/model_constants_config.json"),
    }
    kept = {
        _MODEL: _as_json(_cleaned(program, batch_symbol)),
        "data/sample_inputs/model.pt": b"",
        "archive_format": b"pt2",
        "archive_version": members.bytes("archive_version"),
        "byteorder": members.bytes("byteorder") if "byteorder" in members.sizes else b"little",
        ".data/version": b"6",
    }
    for folder, payload in payloads.items():
        _on_cpu(payload)
        kept[f"data/{folder}/model_{folder}_config.json"] = _as_json(payload)
    if kept["byteorder"] != b"little":
        raise _UnsafeProgram("was exported by a computer of another byte order. " + _EXPORT_AGAIN)
    files = [
        f"data/{folder}/{path}" for folder, payload in payloads.items() for path in _paths(payload, folder, members)
    ]
    return Program(
        archive=_archive(kept, files, members),
        batch=None if batch_symbol else _hint(sizes[0]),
        channels=_hint(sizes[1]),
        height=_hint(sizes[2]),
        width=_hint(sizes[3]),
        fixed=fixed,
        training=_training(graph),
    )


def _archive(kept: Mapping[str, bytes], files: list[str], members: _Members) -> io.BytesIO:
    """Write an archive of what was checked: torch then reads nothing else, whatever it makes of odd archives."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in kept.items():
            archive.writestr(f"model/{name}", content)
        for name in dict.fromkeys(files):
            archive.writestr(f"model/{name}", members.bytes(name))
    made.seek(0)
    return made


def _as_json(content: object) -> bytes:
    return json.dumps(content).encode()


# -- what may stand in a graph ----------------------------------------------------------------------------------------

_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_PATH = r"[A-Za-z0-9_.@]*"
_IN_MODULE = rf"{_PATH},{_PATH},[A-Za-z0-9_.<>]*"  # a key, a path, and a class, which may be local to a function
_SYMBOL = r"Symbol\('[a-z]+\d+'(?:, [a-z]+=(?:True|False))*\)"
_NUMBER = r"-?\d{1,15}"
_EXPRESSION = (
    rf"(?:{_SYMBOL}|Integer\({_NUMBER}\)|Rational\({_NUMBER}, {_NUMBER}\)"
    r"|Float\('[\d.e+-]{1,30}', precision=\d{1,3}\)"
    rf"|Pow\({_SYMBOL}, Integer\(-?\d\)\)|(?:Add|Mul|Max|Min|FloorDiv|Mod|PythonMod|CleanDiv|CeilDiv|CeilToInt"
    r"|FloorToInt|TruncToInt|ToFloat|IntTrueDiv|FloatTrueDiv|Equality|Unequality|StrictLessThan|LessThan"
    r"|StrictGreaterThan|GreaterThan|Not|And|Or)\(|, |\)){1,200}"
)

_NO_NUMBER = "-?Infinity|NaN"  # what JSON has no numbers for: attention that is written out masks by them

# What text may be, by the key it stands under. Names are written into Python code, sizes evaluated.
_TEXTS = {
    "name": f"(?:{_WORD})?",
    "as_name": _WORD,
    "user_input_name": _WORD,
    "forward_arg_names": _WORD,
    "parameter_name": _PATH,
    "buffer_name": _PATH,
    "tensor_constant_name": _PATH,
    "fqn": _PATH,
    "path_name": r"(?:weight|tensor)_\d+",
    "expr_str": _EXPRESSION,
    "type": r"[a-z]+",
    "as_float": _NO_NUMBER,
    "as_floats": _NO_NUMBER,
    "as_string": r"[A-Za-z0-9_ ,.>+*-]{0,500}",
    "verifiers": r"[A-Z]+",
    "nn_module_stack": rf"{_IN_MODULE}(?:;{_IN_MODULE})*",
}
# What is thrown away, and may be anything.
_NOT_KEPT = {
    "guards_code",
    "stack_trace",
    "torch_fn",
    "source_fn_stack",
    "from_node",
    "custom",
    "in_spec",
    "out_spec",
    "torch_version",
}
_OPERATORS = {"target", "as_operator"}
_OF_OBJECTS = {"as_custom_obj", "custom_obj", "class_fqn"}


def _check(content: object) -> None:
    """Compare every text of a file with what may stand in its place.

    Raises:
        _UnsafeProgram: it would be run, or belongs to something that is not served.
    """
    patterns = {key: re.compile(pattern) for key, pattern in _TEXTS.items()}
    for key, text in _texts(content):
        if key in _NOT_KEPT:
            continue
        if key in _OF_OBJECTS:
            raise _UnsafeProgram("holds a pickled object, which is not run. Keep Python objects out of forward().")
        if key in _OPERATORS:
            _check_operator(text)
        elif key not in patterns or not patterns[key].fullmatch(text):
            raise _UnsafeProgram(f"has {_short(text)} as {key}, which no exported classifier has: it is not run.")


def _texts(content: object) -> Iterator[tuple[str, str]]:
    """Return every text with the key of the object that it stands in, and every key under the key ``fqn``."""
    left = [("", content, 0)]
    while left:
        key, part, depth = left.pop()
        if depth > _DEEPEST:
            raise _UnsafeProgram(f"holds graphs more than {_DEEPEST} deep.")
        if isinstance(part, str):
            yield key, part
        elif isinstance(part, list):
            left.extend((key, each, depth + 1) for each in part)
        elif isinstance(part, dict):
            yield from (("fqn", name) for name in part)
            left.extend((name, each, depth + 1) for name, each in part.items())
        elif isinstance(part, int) and abs(part) >= 2**63:
            raise _UnsafeProgram(
                f"has a number of {part.bit_length()} bits as {key}, which no exported classifier has."
            )


_PYTHON_OPERATORS = re.compile(
    r"_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(?:ceil|floor|trunc|sqrt)|torch\.sym_(?:int|float|max|min|ite|not|sqrt|sum)"
    r"|torch\.ops\.higher_order\.wrap_with_(?:set_grad_enabled|autocast)"
)
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims)\.(\w+)\.(\w+)")
# Internal ones trust what they are given. These are what models are made of.
_INTERNAL = re.compile(
    r"__\w+__|_to_copy|_unsafe_view|_reshape_alias|_log_softmax|_softmax|_adaptive_avg_pool2d|_native_batch_norm_legit\w*"
    r"|_scaled_dot_product_\w+|_upsample_\w+_aa|_assert_\w+|_prelu_kernel|_weight_norm\w*|_fused_rms_norm|_conj|_euclidean_dist"
)
_BEYOND_TENSORS = {"from_file", "resize_", "resize_as_", "set_", "set_data", "record_stream", "item"}
_ARGUMENT = re.compile(
    r"(?:Optional\[|List\[|\])*(?:Tensor|int|float|bool|number|Scalar|SymInt|str|Device|Layout|MemoryFormat|ScalarType"
    r"|Generator|complex|Dimname)\]*"
)


@cache
def _check_operator(name: str) -> None:
    """Refuse what is no operator on tensors: by its path of attributes, anything in torch could be called."""
    if _PYTHON_OPERATORS.fullmatch(name):
        return
    found = _OPERATOR.fullmatch(name)
    if found is None:
        raise _UnsafeProgram(f"calls {_short(name)}, which is no operator of torch: it is not run.")
    namespace, operator, overload = found.groups()
    known = getattr(getattr(getattr(torch.ops, namespace), operator, None), overload, None)
    if known is None:
        raise _UnsafeProgram(f"calls {name}, which this torch ({torch.__version__}) does not know. {_EXPORT_AGAIN}")
    internal = operator.startswith("_") and not _INTERNAL.fullmatch(operator)
    arguments = [str(argument.type) for argument in known._schema.arguments]
    if internal or operator in _BEYOND_TENSORS or not all(map(_ARGUMENT.fullmatch, arguments)):
        raise _UnsafeProgram(f"calls {name}, which no classifier needs: it is not run.")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


# -- what is kept -----------------------------------------------------------------------------------------------------


def _cleaned(program: dict[str, Any], batch_symbol: str | None) -> dict[str, Any]:
    """Keep what a graph needs, on the CPU: the network goes to its device afterwards.

    A batch may be of any size: the exporter's bounds for it are a promise, and rows are tried when a model is loaded.
    """
    whole = program["graph_module"]
    for graph in _graphs(whole["graph"]):
        for node in graph["nodes"]:
            stack = node["metadata"].get("nn_module_stack")
            node["metadata"] = {"nn_module_stack": stack} if stack else {}
    _on_cpu(whole)
    for entry in whole["module_call_graph"]:
        entry["signature"] = _signature(entry["signature"]) if entry["fqn"] == "" else None
    ranges = dict(program["range_constraints"])
    if batch_symbol is not None:
        ranges[batch_symbol] = {"min_val": 0, "max_val": None}
    kept = {name: whole[name] for name in ("graph", "signature", "module_call_graph")}
    return {
        "graph_module": {**kept, "metadata": {}, "treespec_namedtuple_fields": {}},
        "opset_version": program["opset_version"],
        "range_constraints": ranges,
        "schema_version": program["schema_version"],
        "verifiers": program["verifiers"],
        "torch_version": torch.__version__,
        "guards_code": [],
    }


def _graphs(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a graph, and those inside it: of what is computed under ``torch.no_grad()``, for one."""
    left = [graph]
    while left:
        graph = left.pop()
        yield graph
        arguments = [given["arg"] for node in graph["nodes"] for given in node["inputs"]]
        left.extend(argument["as_graph"]["graph"] for argument in arguments if "as_graph" in argument)


def _on_cpu(content: object) -> None:
    left = [content]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            for key in {"device", "as_device"} & set(part):
                part[key] = {"type": "cpu", "index": None}
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)


_TAKES_A_PICTURE = json.dumps(
    [
        1,
        {
            "type": "builtins.tuple",
            "context": "null",
            "children_spec": [
                {
                    "type": "builtins.tuple",
                    "context": "null",
                    "children_spec": [{"type": None, "context": None, "children_spec": []}],
                },
                {"type": "builtins.dict", "context": "[]", "children_spec": []},
            ],
        },
    ]
)


def _signature(signature: dict[str, Any]) -> dict[str, Any]:
    """Let the picture come as the one argument, and what goes out be tuples and dicts, whatever classes these were."""
    protocol, shape = json.loads(signature["out_spec"])
    if protocol != 1:
        raise _UnsafeProgram(f"describes its outputs in a way ({protocol}) that is not known here. {_EXPORT_AGAIN}")
    return {
        "inputs": [],
        "outputs": [],
        "in_spec": _TAKES_A_PICTURE,
        "out_spec": json.dumps([1, _plain(shape)]),
        "forward_arg_names": None,
    }


def _plain(shape: dict[str, Any]) -> dict[str, Any]:
    children = [_plain(child) for child in shape["children_spec"]]
    if shape["type"] is None:
        return {"type": None, "context": None, "children_spec": []}
    keys = json.loads(shape["context"]) if isinstance(shape["context"], str) else None
    if isinstance(keys, list) and len(keys) == len(children) and all(isinstance(key, str) for key in keys):
        return {"type": "builtins.dict", "context": json.dumps(keys), "children_spec": children}
    return {"type": "builtins.tuple", "context": "null", "children_spec": children}


def _paths(payload: dict[str, Any], folder: str, members: _Members) -> Iterator[str]:
    """Return the files of weights.

    Raises:
        _UnsafeProgram: they are pickled, missing, or shorter than what they stand for.
    """
    for name, entry in payload["config"].items():
        if entry["use_pickle"]:
            raise _UnsafeProgram(f"holds pickled objects ({name}), which are not run. {_EXPORT_AGAIN}")
        path, described = entry["path_name"], entry["tensor_meta"]
        length = members.sizes.get(f"data/{folder}/{path}")
        if length is None:
            raise _UnsafeProgram(f"lacks the weights {name}. Copy or download it again.")
        if math.prod(size["as_int"] for size in described["sizes"]) > length:  # a number takes a byte at least
            raise _UnsafeProgram(f"has fewer bytes of {name} than its shape says. Copy or download it again.")
        yield path


# -- what it says of its input ----------------------------------------------------------------------------------------


def _input_sizes(graph: dict[str, Any], signature: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Return the four sizes of the picture, and whether height and width are fixed."""
    specs = signature["input_specs"]
    inputs = [spec["user_input"]["arg"] for spec in specs if "user_input" in spec]
    if len(inputs) != 1 or any("constant_input" in spec for spec in specs) or "as_tensor" not in inputs[0]:
        raise _UnsafeProgram(
            f"takes {len(inputs)} inputs, where one picture is needed. Export a module whose forward() takes a picture."
        )
    described = graph["tensor_values"][inputs[0]["as_tensor"]["name"]]
    sizes = described["sizes"]
    if len(sizes) != 4:
        raise _UnsafeProgram(f"takes an input of {len(sizes)} axes, where pictures (N, C, H, W) have 4.")
    return sizes, all("as_int" in size for size in sizes[2:])


def _hint(size: dict[str, Any]) -> int:
    found = size["as_int"] if "as_int" in size else size["as_expr"]["hint"]["as_int"]
    if not isinstance(found, int):
        raise _UnsafeProgram("does not say the size of its input. " + _EXPORT_AGAIN)
    return found


def _symbol(size: dict[str, Any]) -> str | None:
    """Return the symbol that a size is, such as ``s77``; None for a number."""
    if "as_int" in size:
        return None
    found = re.match(r"Symbol\('(\w+)'", size["as_expr"]["expr_str"])
    if found is None:
        raise _UnsafeProgram("takes batches of some sizes alone. Export it with dynamic_shapes=({0: Dim('batch')},).")
    return found[1]


def _training(graph: dict[str, Any]) -> str | None:
    """Name an operator that is in training mode, which ``eval()`` does not change any more."""
    for node in (node for each in _graphs(graph) for node in each["nodes"]):
        given = {argument["name"]: argument["arg"] for argument in node["inputs"]}
        operator = node["target"].split(".")[-2]
        modes = [given.get(name, {}).get("as_bool") for name in ("training", "train")]
        if True not in modes:
            continue
        if "batch_norm" in operator:
            return "batch normalisation"
        if "dropout" in operator and given.get("p", {}).get("as_float") != 0:
            return "dropout"
    return None
