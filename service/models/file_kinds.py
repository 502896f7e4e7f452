"""What a file is, told by its content, and what to do with one that holds no weights that can be read.

Suffixes lie: a ``.pth`` may be TorchScript, a web page, or a pointer that Git LFS left.
"""

from __future__ import annotations

import errno
import io
import json
import pickletools
import re
import stat
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = [
    "CHECKPOINT",
    "EXPORTED",
    "HDF5",
    "HUGGING_FACE",
    "KERAS",
    "OLD_CHECKPOINT",
    "ONNX",
    "SAFETENSORS",
    "SAVED_MODEL",
    "TIMM",
    "TORCHSCRIPT",
    "FileKind",
    "kind_of",
]

_SAVE = 'torch.save(model.state_dict(), "weights.pth")'
_HEAD_BYTES = 4096
_TAIL_BYTES = 66_000  # of a zip: a comment of 64 KiB, and the records before it
_MOST_DIRECTORY_BYTES = 10_000_000  # of its table of contents: 100,000 records, a hundred times what models have


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        title: what it is, with its article.
        way_out: a sentence on how to come from one to weights; ``{file}`` in it stands for its name. Empty for weights.
    """

    title: str
    way_out: str = ""


SAFETENSORS = FileKind("a safetensors file")
CHECKPOINT = FileKind("a PyTorch checkpoint")
OLD_CHECKPOINT = FileKind("a PyTorch checkpoint from before version 1.6")

TORCHSCRIPT = FileKind(
    "TorchScript, whose layers cannot be watched",
    'Take its weights, with torch: torch.save(torch.jit.load("{file}").state_dict(), "weights.pth").',
)
EXPORTED = FileKind(
    "an exported program (torch.export): a network with its weights",
    "Name it alone, without an architecture before it: camserve serve --model net=./{file}.",
)
ONNX = FileKind(
    "an ONNX file: a network with its weights",
    "Name it alone, without an architecture before it: camserve serve --model net=./{file}.",
)
_KERAS_ALONE = "It holds a model of its own: name it in place of the architecture, --model NAME={file}."
KERAS = FileKind("a Keras file", _KERAS_ALONE)
HDF5 = FileKind("an HDF5 file, such as Keras writes", _KERAS_ALONE.replace("It holds", "It may hold"))
SAVED_MODEL = FileKind(
    "a TensorFlow SavedModel, which has no layers to watch", "Save the model as .keras, or convert it with tf2onnx."
)
_TFLITE = FileKind("a TensorFlow Lite file", "TensorFlow models are not served; serve a PyTorch model.")
_TENSORFLOW = FileKind("a TensorFlow checkpoint", "TensorFlow models are not served; serve a PyTorch model.")
_GGUF = FileKind("a GGUF file", "GGUF holds language models; name a file with the weights of an image classifier.")
HUGGING_FACE = FileKind(
    "a folder of Hugging Face",
    "It has its network and its weights: name it as the architecture, --model ./{file}.",
)
TIMM = FileKind(
    "a folder of timm",
    "It has its network and its weights: name it as the architecture, --model ./{file}.",
)
_SHARDED = FileKind("a folder of a distributed checkpoint", "Merge it with torch.distributed.checkpoint.format_utils.")
_FOLDER = FileKind("a folder", "Name a file in it.")
_NUMPY = FileKind("a NumPy file", f"Save the weights with torch: {_SAVE}.")
_TORCHSERVE = FileKind("an archive of TorchServe", "It is a zip: unpack it and name the weights file inside.")
_CORE_ML = FileKind("a Core ML package", f"Save the weights of the PyTorch model that it came from: {_SAVE}.")
_BROKEN_ZIP = FileKind("cut off or damaged", "Copy or download it again.")
_CROWDED_ZIP = FileKind("a zip of too many records", "Save the weights alone: " + _SAVE + ".")
_ZIP = FileKind("a zip archive", "Unpack it and name the weights file inside.")
_PACKED = FileKind("a compressed file", "Unpack it and name what was inside.")
_TAR = FileKind("a tar archive", "Unpack it and name the weights file inside.")
_PICKLE = FileKind(
    "a pickle of Python objects, whose code is not run",
    f"Save the weights with torch: {_SAVE}. If you trust it, and it holds weights, that converts it: "
    'torch.save(pickle.load(open("{file}", "rb")), "weights.pth").',
)
_WEB_PAGE = FileKind("a web page", "The download went wrong: fetch the file itself instead of the page about it.")
_LFS = FileKind("a pointer that Git LFS left in place of the file", "Fetch the file: git lfs pull.")
_XML = FileKind("an XML file, such as OpenVINO writes", f"Save the weights of the PyTorch model: {_SAVE}.")
_JSON = FileKind("a JSON file", "Name the file with the weights.")
_ERROR_ANSWER = FileKind("an error that a server sent instead of the file", "Look at what it says, and fetch it again.")
_PICTURE = FileKind("a picture", "Name the file with the weights.")
_PDF = FileKind("a PDF document", "Name the file with the weights.")
_MATLAB = FileKind("a MATLAB file", f"Save the weights with torch: {_SAVE}.")
_TEXT = FileKind("a text file", "Name the file with the weights; where a download left an error in it, fetch it again.")
_ZEROS = FileKind("filled with zeros", "The copy or the download broke off: fetch it again.")
_CAFFE = FileKind("a Caffe file", "Caffe models are not served; serve a PyTorch model.")
_PADDLE = FileKind("a PaddlePaddle file", "PaddlePaddle models are not served; serve a PyTorch model.")
_MXNET = FileKind("an MXNet file", "MXNet models are not served; serve a PyTorch model.")
_TORCH7 = FileKind("a file of Torch7 (Lua)", "Torch7 models are not served; serve a PyTorch model.")
_TENSORRT = FileKind(
    "a TensorRT engine, whose layers cannot be watched",
    f"Save the weights of the PyTorch model that it came from: {_SAVE}.",
)
_FROZEN_GRAPH = FileKind("a TensorFlow graph", "TensorFlow models are not served; serve a PyTorch model.")
_EMPTY = FileKind("empty", "The copy or the download went wrong: fetch it again.")


def kind_of(file: Path) -> FileKind | None:
    """Tell what ``file``, which exists, is; None for what is not known.

    Raises:
        OSError: it cannot be read, or is a pipe, a socket or a device, which might never end.
    """
    mode = file.stat().st_mode
    if stat.S_ISDIR(mode):
        return _folder_kind(file)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "It is a pipe, a socket or a device, and no file", str(file))
    with file.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(file)
    found = next((kind for is_it, kind in _BY_HEAD if is_it(head)), None)
    if found in {None, _PICKLE, _TEXT}:  # which say little: the suffix may say more
        return _BY_SUFFIX.get(file.suffix.lower(), found)
    return found


def _begins(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(beginnings)


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _is_old_checkpoint(head: bytes) -> bool:
    # A pickled number of PyTorch's comes first: as bytes, or with pickle_protocol=0 or 1 as text.
    return bytes.fromhex("6cfc9c46f9206aa85019") in head[:32] or head.startswith(b"L119547037146038801333356L\n.")


def _is_json(head: bytes) -> bool:
    return re.match(rb'\s*(\{\s*["}]|\[)', head) is not None


def _is_onnx(head: bytes) -> bool:
    """Protobuf has no magic: the first field is a small version number, the second the exporter's name."""
    return re.match(rb"\x08[\x01-\x1f]\x12.[A-Za-z][\w .+-]*", head, re.DOTALL) is not None


# With protocols 0 and 1 a pickle has no head of its own: a dict, list, set or tuple, or a class by its module and name.
_OLD_PICKLE = re.compile(rb"\([dl]p\d+\n|[}\])]q\x00|c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n(p\d+\n|q[\x00-\xff]|\()")


def _is_old_pickle(head: bytes) -> bool:
    return _OLD_PICKLE.match(head) is not None or _is_whole_pickle(head)


def _is_whole_pickle(head: bytes) -> bool:
    """Return whether it is a container as protocols 0 and 1 write it, from its first operation to its last."""
    if not head.startswith((b"(", b"}", b"]", b")")) or not head.endswith(b"."):
        return False
    try:
        *_, (last, _, place) = pickletools.genops(head)
    except Exception:  # noqa: BLE001  # text is no operation, and its arguments may raise anything
        return False
    return last.name == "STOP" and place == len(head) - 1


_BY_HEAD: tuple[tuple[Callable[[bytes], bool], FileKind], ...] = (
    (lambda head: not head, _EMPTY),
    (_is_safetensors, SAFETENSORS),
    (_is_old_checkpoint, OLD_CHECKPOINT),
    (_begins(b"\x89HDF\r\n\x1a\n"), HDF5),
    (_begins(b"GGUF"), _GGUF),
    (lambda head: head[4:8] == b"TFL3", _TFLITE),
    (_begins(b"\x93NUMPY"), _NUMPY),
    (_begins(b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\x28\xb5\x2f\xfd"), _PACKED),
    (lambda head: head[257:262] == b"ustar", _TAR),
    (_begins(b"version https://git-lfs"), _LFS),
    (lambda head: re.match(rb"\s*<(!doctype|html)", head, re.IGNORECASE) is not None, _WEB_PAGE),
    (lambda head: re.match(rb"\s*(<\?xml[^>]*>\s*)?<Error>", head) is not None, _ERROR_ANSWER),
    (lambda head: re.match(rb"\s*<\?xml", head) is not None, _XML),
    (_begins(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*"), _PICTURE),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _PICTURE),
    (_begins(b"%PDF-"), _PDF),
    (_begins(b"MATLAB 5.0"), _MATLAB),
    (_begins(b"ftrt"), _TENSORRT),
    (_begins(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), _PICKLE),
    (_is_old_pickle, _PICKLE),
    (_is_onnx, ONNX),
    (lambda head: re.match(rb'\s*\{\s*"(error|message|detail)"', head) is not None, _ERROR_ANSWER),
    (_is_json, _JSON),
    (lambda head: not head.strip(b"\0"), _ZEROS),
    (lambda head: re.fullmatch(rb"[\t\n\r\x20-\x7e]+", head) is not None, _TEXT),
)

_BY_SUFFIX = {
    ".onnx": ONNX,
    ".caffemodel": _CAFFE,
    ".prototxt": _CAFFE,
    ".pdparams": _PADDLE,
    ".pdmodel": _PADDLE,
    ".pdiparams": _PADDLE,
    ".params": _MXNET,
    ".t7": _TORCH7,
    ".engine": _TENSORRT,
    ".trt": _TENSORRT,
    ".pb": _FROZEN_GRAPH,
}


def _zip_kind(file: Path) -> FileKind:
    """Tell apart what is a zip inside."""
    if _directory_bytes(file) > _MOST_DIRECTORY_BYTES:
        return _CROWDED_ZIP
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError):
        return _BROKEN_ZIP
    # PyTorch's have one folder, named after the file, around everything.
    inside = {name.partition("/")[2] for name in names}
    if {"archive_format", "archive_version"} & inside or "serialized_exported_program.json" in names:
        return EXPORTED
    if "data.pkl" in inside:
        code = any(name.startswith(("code/", "bytecode.pkl")) for name in inside)
        return TORCHSCRIPT if code else CHECKPOINT
    for telling, kind in _BY_MEMBER:
        if telling.issubset(names):
            return kind
    return _NUMPY if names and all(name.endswith(".npy") for name in names) else _ZIP


def _directory_bytes(file: Path) -> int:
    """Return how long a zip says that its table of contents is.

    ``zipfile`` makes an object of 700 bytes for each of its entries, which are 46 bytes and more.
    """
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - _TAIL_BYTES))
        tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        return 0
    length = int.from_bytes(tail[at + 12 : at + 16], "little")
    if at >= 76 and tail[at - 20 : at - 16] == b"PK\x06\x07":  # the record of a large zip, which counts then
        length = max(length, int.from_bytes(tail[at - 36 : at - 28], "little"))
    return length


_BY_MEMBER = (
    ({"config.json", "model.weights.h5"}, KERAS),
    ({"model.weights.h5"}, KERAS),
    ({"MAR-INF/MANIFEST.json"}, _TORCHSERVE),
)


def _folder_kind(folder: Path) -> FileKind:
    config = _config(folder / "config.json")
    if "model_type" in config:
        return HUGGING_FACE
    if "architecture" in config:
        return TIMM
    for name, kind in _BY_FILE.items():
        if (folder / name).is_file():
            return kind
    return _FOLDER


_BY_FILE = {
    "saved_model.pb": SAVED_MODEL,
    ".metadata": _SHARDED,
    "checkpoint": _TENSORFLOW,
    "Manifest.json": _CORE_ML,
}


def _config(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
