"""Which files are a model's, and that a mark of them differs when one changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.engine.file_marks import files_of, mark
from service.settings import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path


def graph_with_weights_in(name: str) -> bytes:
    """The bytes of an ONNX tensor whose values are in another file, as protobuf writes them."""
    value = name.encode()
    length = bytes([len(value)]) if len(value) < 128 else bytes([len(value) & 0x7F | 0x80, len(value) >> 7])
    return b"\x08\x0aabc\x6a\x15\x0a\x08location\x12" + length + value + b"\x70\x01"


@pytest.mark.parametrize("name", ["weights.bin", "daten/größe.data", "w" * 140])
def test_the_files_that_hold_the_weights_of_a_graph_are_of_the_model(tmp_path: Path, name: str) -> None:
    graph, beside = tmp_path / "net.onnx", tmp_path / name
    graph.write_bytes(graph_with_weights_in(name) * 2)
    beside.parent.mkdir(exist_ok=True)
    beside.write_bytes(b"1")
    config = ModelConfig(name="net", architecture=str(graph))
    assert files_of(config) == [graph, beside]
    before = mark(files_of(config))
    beside.write_bytes(b"12")
    assert mark(files_of(config)) != before


@pytest.mark.parametrize("content", [b"", b"no graph", graph_with_weights_in("../secret"), graph_with_weights_in("/x")])
def test_what_names_nothing_beside_it_is_one_file(tmp_path: Path, content: bytes) -> None:
    graph = tmp_path / "net.onnx"
    graph.write_bytes(content)
    assert files_of(ModelConfig(name="net", architecture=str(graph))) == [graph]


def test_arguments_of_functions_are_files_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"1")
    arguments = {"path": str(tmp_path / "a.bin"), "nested": [{"other": "x" * 9999, "nul": "\0"}], "number": 7}
    config = ModelConfig(name="net", architecture="nets.build", factory_args=arguments)
    assert files_of(config) == [tmp_path / "a.bin"]
