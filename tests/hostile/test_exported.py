"""Doctored programs of torch.export run nothing, cost no more than their size, and end in words."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from service.errors import ModelLoadError
from service.models.sources.exported import load
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Members = dict[str, bytes]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


@pytest.fixture(scope="module")
def members() -> Members:
    """What a sound program holds, by the names below its folder."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    content = io.BytesIO()
    torch.export.save(export(net.eval(), (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: Dim("n")},)), content)
    with zipfile.ZipFile(content) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(members: Members, file: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"net/{name}", content)
    return file


def loaded(file: Path) -> nn.Module:
    return load(ModelConfig(architecture=str(file)), None).module  # type: ignore[arg-type]


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def trap(folder: Path) -> bytes:
    content = io.BytesIO()
    torch.save((Trap(folder),), content)
    return content.getvalue()


def test_the_trap_works_where_torch_itself_reads_the_file(members: Members, tmp_path: Path) -> None:
    """Otherwise the tests below could not fail."""
    file = written({**members, "data/sample_inputs/model.pt": trap(tmp_path / "sprung")}, tmp_path / "net.pt2")
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch makes of the rest
        torch.export.load(file)
    assert (tmp_path / "sprung").exists()


def test_example_inputs_are_not_unpickled(members: Members, tmp_path: Path) -> None:
    file = written({**members, "data/sample_inputs/model.pt": trap(tmp_path / "sprung")}, tmp_path / "net.pt2")

    assert loaded(file)(torch.randn(3, 3, 16, 16)).shape == (3, 3)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("config", [WEIGHTS, CONSTANTS])
def test_pickled_weights_are_not_unpickled(config: str, members: Members, tmp_path: Path) -> None:
    folder, prefix = ("weights", "weight") if config == WEIGHTS else ("constants", "tensor")
    entry = {"path_name": f"{prefix}_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    described = json.loads(members[config])
    described["config"]["0.weight"] = entry
    doctored = {f"data/{folder}/{prefix}_0": trap(tmp_path / "sprung"), config: json.dumps(described).encode()}

    refused(written({**members, **doctored}, tmp_path / "net.pt2"), r"holds pickled objects \(0\.weight\)")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("prefix", ["custom_obj_0", "opaque_obj_0"])
def test_objects_are_not_unpickled(prefix: str, members: Members, tmp_path: Path) -> None:
    entry = {"path_name": prefix, "is_param": False, "use_pickle": True, "tensor_meta": None}
    doctored = {
        f"data/constants/{prefix}": pickle.dumps(Trap(tmp_path / "sprung")),
        CONSTANTS: json.dumps({"config": {"thing": entry}}).encode(),
    }

    refused(written({**members, **doctored}, tmp_path / "net.pt2"), "as path_name, which no exported classifier has")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["data/weights/model.pt", "data/constants/model.pt"])
def test_weights_of_an_older_form_are_not_unpickled(name: str, members: Members, tmp_path: Path) -> None:
    file = written({**members, name: trap(tmp_path / "sprung")}, tmp_path / "net.pt2")

    loaded(file)  # torch would have taken it instead of the others; it is left out

    assert not (tmp_path / "sprung").exists()


def test_a_file_before_2_8_is_refused(members: Members, tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("state_dict", "constants", "example_inputs"):
            archive.writestr(f"serialized_{name}.pt", trap(tmp_path / "sprung"))
        archive.writestr("serialized_exported_program.json", members[GRAPH])
        archive.writestr("version", "8.1")

    refused(file, "exported by a torch before 2.8, with pickled weights. Export it again with a current torch")
    assert not (tmp_path / "sprung").exists()


def refused(file: Path, match: str) -> None:
    with pytest.raises(ModelLoadError, match=match):
        loaded(file)


# -- what a graph would run -------------------------------------------------------------------------------------------


def node(graph: dict[str, Any], place: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = graph["graph_module"]["graph"]["nodes"][place]
    return found


def _calls(target: str) -> Callable[[dict[str, Any], str], None]:
    def doctor(graph: dict[str, Any], _folder: str) -> None:
        node(graph)["target"] = target

    return doctor


def _evaluates(graph: dict[str, Any], folder: str) -> None:
    sizes = next(iter(graph["graph_module"]["graph"]["tensor_values"].values()))["sizes"]
    expression = f"__import__('os').mkdir('{folder}')"
    sizes[0] = {"as_expr": {"expr_str": expression, "hint": {"as_int": 2}}}


def _names(graph: dict[str, Any], folder: str) -> None:
    """An input whose name ends the line in the Python code that torch writes."""
    evil = f"x = __import__('os').mkdir('{folder}')"
    text = json.dumps(graph).replace('"name": "input"', f'"name": "{evil}"')
    graph.update(json.loads(text))
    graph["graph_module"]["graph"]["inputs"][-1]["as_tensor"]["name"] = evil


def _stacks(graph: dict[str, Any], folder: str) -> None:
    evil = f"a').__class__(__import__('os').mkdir('{folder}'"
    node(graph)["metadata"]["nn_module_stack"] = f"L__self__,,torch.nn.Module;x,{evil},torch.nn.Conv2d"


def _guards(graph: dict[str, Any], folder: str) -> None:
    graph["guards_code"] = [f"__import__('os').mkdir('{folder}')"]


def _imports(graph: dict[str, Any], folder: str) -> None:
    """A tree of outputs whose default factory is imported."""
    factory = {"default_factory_module": "antigravity", "default_factory_name": folder, "dict_context": ["a"]}
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    tree = {"type": "collections.defaultdict", "context": factory, "children_spec": [leaf]}
    graph["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, tree])


@pytest.mark.parametrize(
    ("doctor", "match"),
    [
        (_calls("torch.os.mkdir"), "calls 'torch.os.mkdir', which is no operator of torch: it is not run"),
        (_calls("torch.load"), "calls 'torch.load'"),
        (_calls("_operator.methodcaller"), "calls '_operator.methodcaller'"),
        (_calls("torch.ops.load_library"), "calls 'torch.ops.load_library'"),
        (_calls("torch.ops.aten.save.default"), "calls torch.ops.aten.save.default"),
        (
            _calls("torch.ops.aten.from_file.default"),
            "calls torch.ops.aten.from_file.default, which no classifier needs",
        ),
        (_calls("torch.ops.aten.no_such_thing.default"), "which this torch .* does not know"),
        (_calls("#anything:else"), "calls '#anything:else'"),
        (_evaluates, "as expr_str, which no exported classifier has: it is not run"),
        (_names, "as name, which no exported classifier has"),
        (_stacks, "as nn_module_stack, which no exported classifier has"),
    ],
)
def test_a_graph_runs_nothing_but_operators(
    doctor: Callable[[dict[str, Any], str], None], match: str, members: Members, tmp_path: Path
) -> None:
    graph = json.loads(members[GRAPH])
    doctor(graph, str(tmp_path / "sprung"))

    refused(written({**members, GRAPH: json.dumps(graph).encode()}, tmp_path / "net.pt2"), match)
    assert not (tmp_path / "sprung").exists()


def test_what_is_left_out_runs_nothing(members: Members, tmp_path: Path) -> None:
    """Guards are code, and a tree of outputs may name a module to import."""
    graph = json.loads(members[GRAPH])
    _imports(graph, "geohash")
    _guards(graph, str(tmp_path / "sprung"))
    file = written({**members, GRAPH: json.dumps(graph).encode()}, tmp_path / "net.pt2")

    assert loaded(file)(torch.randn(2, 3, 16, 16))[0].shape == (2, 3)
    assert "antigravity" not in sys.modules
    assert not (tmp_path / "sprung").exists()


def test_of_two_members_of_one_name_none_is_taken(members: Members, tmp_path: Path) -> None:
    """Which one counts, readers of zips do not agree on."""
    file = written(members, tmp_path / "net.pt2")
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(f"net/{GRAPH}", b"{}")

    refused(file, "has two members of one name")


# -- damage and bombs -------------------------------------------------------------------------------------------------


def test_bombs(members: Members, tmp_path: Path) -> None:
    refused(written(members, tmp_path / "a.pt2", zipfile.ZIP_DEFLATED), "was compressed after it was exported")
    deep = b"[" * 100_000 + b"]" * 100_000
    refused(written({**members, GRAPH: deep}, tmp_path / "b.pt2"), "is no exported program")
    nested: Any = "x"
    for _ in range(100):
        nested = {"as_graph": nested}
    refused(written({**members, GRAPH: json.dumps(nested).encode()}, tmp_path / "c.pt2"), "graphs more than 60 deep")


def test_a_weight_of_no_bytes_is_not_made_to_its_shape(members: Members, tmp_path: Path) -> None:
    described = json.loads(members[WEIGHTS])
    described["config"]["0.weight"]["tensor_meta"]["sizes"] = [{"as_int": 2**40}]
    doctored = {WEIGHTS: json.dumps(described).encode(), "data/weights/weight_0": b""}

    refused(written({**members, **doctored}, tmp_path / "net.pt2"), "has fewer bytes of 0.weight than its shape says")


def test_numbers_beyond_all_measure(members: Members, tmp_path: Path) -> None:
    graph = json.loads(members[GRAPH])
    graph["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_int": 2**70}

    refused(written({**members, GRAPH: json.dumps(graph).encode()}, tmp_path / "net.pt2"), "a number of 71 bits")


@pytest.mark.parametrize("left", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off(left: float, members: Members, tmp_path: Path) -> None:
    file = written(members, tmp_path / "net.pt2")
    content = file.read_bytes()
    file.write_bytes(content[: int(left * len(content))])

    refused(file, "is damaged: .* Copy or download it again")


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, CONSTANTS, "data/weights/weight_0", "archive_version"])
def test_a_file_that_lacks_a_member(name: str, members: Members, tmp_path: Path) -> None:
    refused(written({key: value for key, value in members.items() if key != name}, tmp_path / "net.pt2"), "net.pt2 ")


def test_a_graph_that_does_not_fit_together(members: Members, tmp_path: Path) -> None:
    graph = json.loads(members[GRAPH])
    del graph["graph_module"]["graph"]["nodes"][0]

    refused(
        written({**members, GRAPH: json.dumps(graph).encode()}, tmp_path / "net.pt2"), "cannot be loaded by this torch"
    )
