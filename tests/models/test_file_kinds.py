from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from service.errors import ModelLoadError
from service.models.checkpoints import read_checkpoint, reason_not_to_read
from service.models.file_kinds import CHECKPOINT, OLD_CHECKPOINT, SAFETENSORS, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def torch_saved(content: object, *, new: bool = True, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    return stream.getvalue()


def zipped(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return stream.getvalue()


def scripted() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out; files of it stay
        torch.jit.save(torch.jit.script(nn.ReLU()), stream)
    return stream.getvalue()


def exported() -> bytes:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(nn.ReLU(), (torch.ones(2),)), stream)
    return stream.getvalue()


def numpy_saved(*, many: bool) -> bytes:
    stream = io.BytesIO()
    if many:
        np.savez(stream, a=np.ones(2))
    else:
        np.save(stream, np.ones(2))
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return stream.getvalue()


OLD = [
    (content, protocol)
    for protocol in (0, 1)
    for content in (
        {"a": torch.ones(2)},
        OrderedDict(a=1),
        {"a": np.ones(3)},
        [1, 2],
        (1, 2),
        {1, 2},
        torch.nn.Linear(2, 2),
    )
]


def test_text_is_no_pickle(tmp_path: Path) -> None:
    for text in ("cat\ndog\nbird\n", "(a list)\n.", "}", "class\nname\n", "cats and dogs."):
        (tmp_path / "weights.pth").write_text(text)
        kind = kind_of(tmp_path / "weights.pth")
        assert kind is not None
        assert kind.title == "a text file", text


@pytest.mark.parametrize("new", [True, False])
def test_tensors_by_protocol_0_are_lost_and_that_is_said(new: bool, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(torch_saved({"a": torch.ones(2)}, protocol=0, new=new))
    with pytest.raises(ModelLoadError, match=r"saved with pickle_protocol=0, by which tensors are lost.*Save it again"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (torch_saved({}, protocol=1), CHECKPOINT),
        (torch_saved({}, new=False, protocol=1), OLD_CHECKPOINT),
        (torch_saved({}), CHECKPOINT),
        (torch_saved({}, protocol=5), CHECKPOINT),
        (torch_saved({}, new=False), OLD_CHECKPOINT),
        (torch_saved({}, new=False, protocol=4), OLD_CHECKPOINT),
        (save({"a": torch.ones(2)}), SAFETENSORS),
    ],
    ids=[
        "zip, protocol 1",
        "before zip, protocol 1",
        "zip",
        "zip, protocol 5",
        "before zip",
        "before zip, protocol 4",
        "safetensors",
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
def test_weights_are_told_whatever_their_name(content: bytes, kind: object, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    assert kind_of(tmp_path / name) is kind


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (scripted, r'TorchScript.*torch\.save\(torch\.jit\.load\("weights\.pth"\)\.state_dict\(\)'),
        (exported, r"an exported program.*Name it alone, without an architecture before it"),
        (lambda: zipped("config.json", "metadata.json", "model.weights.h5"), "a Keras file"),
        (lambda: b"\x89HDF\r\n\x1a\n" + bytes(80), "an HDF5 file, such as Keras writes"),
        (lambda: b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\xff", "an ONNX file"),
        (lambda: b"GGUF\x03\x00\x00\x00" + bytes(80), "a GGUF file"),
        (lambda: b"\x1c\x00\x00\x00TFL3" + bytes(80), "a TensorFlow Lite file"),
        (lambda: numpy_saved(many=True), "a NumPy file"),
        (lambda: numpy_saved(many=False), "a NumPy file"),
        (lambda: zipped("MAR-INF/MANIFEST.json", "weights.pth"), "an archive of TorchServe"),
        (lambda: zipped("a/weights.pth"), "a zip archive. Unpack it"),
        (lambda: zipped("a/weights.pth")[:-30], "cut off or damaged"),
        (lambda: gzip.compress(b"weights"), "a compressed file. Unpack it"),
        (tarred, "a tar archive. Unpack it"),
        (lambda: pickle.dumps({"a": 1}), r'a pickle of .*: torch\.save\(pickle\.load\(open\("weights\.pth", "rb"\)\)'),
        *[(partial(pickle.dumps, content, protocol), "a pickle of Python objects") for content, protocol in OLD],
        (lambda: b"\n<!DOCTYPE html><title>404</title>", "a web page. The download went wrong"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\n", "a pointer that Git LFS left.*git lfs pull"),
        (lambda: b'<?xml version="1.0"?><net name="resnet18">', "an XML file, such as OpenVINO writes"),
        (lambda: b'{"id2label": {}}', "a JSON file"),
        (
            lambda: b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
            "an error that a server sent instead",
        ),
        (lambda: b'{"error":"Repository not found"}', "an error that a server sent instead"),
        (lambda: b"Entry not found", "a text file.*where a download left an error in it"),
        (lambda: bytes(5000), "filled with zeros. The copy or the download broke off"),
        (lambda: b"\x89PNG\r\n\x1a\n" + bytes(30), "a picture. Name the file with the weights"),
        (lambda: b"RIFF\x00\x10\x00\x00WEBPVP8 ", "a picture"),
        (lambda: b"%PDF-1.7\n", "a PDF document"),
        (lambda: b"ftrt" + bytes(30), "a TensorRT engine, whose layers cannot be watched"),
        (lambda: b"", "empty"),
        (lambda: b"\x00\x01\x02nothing known", "neither a safetensors file nor a PyTorch checkpoint"),
    ],
)
def test_what_is_no_weights_is_named_with_the_way_out(content: Callable[[], bytes], words: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content())

    reason = reason_not_to_read(file, kind_of(file))

    assert reason.count("weights.pth") >= 1
    assert re.search(f"weights.pth is {words}", reason), reason
    assert str(tmp_path) not in reason


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"config.json": '{"model_type": "vit"}', "model.safetensors": ""},
            "a folder of Hugging Face.*name it as the architecture, --model",
        ),
        ({"config.json": '{"architecture": "resnet18"}'}, "a folder of timm.*name it as the architecture, --model"),
        ({"saved_model.pb": ""}, "a TensorFlow SavedModel"),
        ({".metadata": "", "__0_0.distcp": ""}, "a folder of a distributed checkpoint"),
        ({"Manifest.json": "{}"}, "a Core ML package"),
        ({"config.json": "[not JSON"}, "a folder. Name a file in it"),
        ({}, "a folder. Name a file in it"),
    ],
    ids=str,
)
def test_folders(files: dict[str, str], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)

    assert re.search(f"model is {words}", reason_not_to_read(folder, kind_of(folder)))


def test_onnx_without_an_exporters_name_is_told_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07:\x10")

    assert "an ONNX file" in reason_not_to_read(tmp_path / "net.onnx", kind_of(tmp_path / "net.onnx"))


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("net.caffemodel", b"\n\x07AlexNet\xa2", "a Caffe file"),
        ("net.prototxt", b'name: "AlexNet"\n', "a Caffe file"),
        ("net.pdparams", pickle.dumps({"a": 1}, 2), "a PaddlePaddle file"),
        ("net.params", b"\x12\x01\x00\x00", "an MXNet file"),
        ("net.t7", b"\x04\x00\x00\x00", "a file of Torch7"),
        ("graph.pb", b"\n\x0b\n\x05input", "a TensorFlow graph"),
    ],
)
def test_what_has_no_mark_of_its_own_is_told_by_its_suffix(
    name: str, content: bytes, title: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)

    assert f"{name} is {title}" in reason_not_to_read(tmp_path / name, kind_of(tmp_path / name))


def test_weights_are_weights_whatever_their_suffix_says(tmp_path: Path) -> None:
    (tmp_path / "net.params").write_bytes(torch_saved({}))

    assert kind_of(tmp_path / "net.params") is CHECKPOINT


def test_a_zip_of_more_records_than_models_have(tmp_path: Path) -> None:
    """Each takes 46 bytes in the file and 700 once it is read: they are counted before."""
    file = tmp_path / "w.pth"
    entry = b"PK\x01\x02" + bytes(42)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 46 * 250_000, 4, 0)
    file.write_bytes(b"PK\x03\x04" + entry * 250_000 + end)

    kind = kind_of(file)

    assert kind is not None
    assert reason_not_to_read(file, kind).startswith("w.pth is a zip of too many records. Save the weights alone")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(ModelLoadError, match="It is a pipe"):
        read_checkpoint(tmp_path / "weights.pth")
