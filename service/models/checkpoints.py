"""Checkpoints as trainers write them, read as data: no code of theirs is run.

A checkpoint of PyTorch is a pickle, in a zip beside the bytes of its tensors or, before version 1.6, in front of them.
``pickles`` reads the pickle; the tensors are put together here. Whatever else is in it, such as the arguments of the
training script or an optimizer, stays inert.
"""

from __future__ import annotations

import io
import math
import zipfile
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from service.errors import ModelLoadError
from service.models.file_kinds import CHECKPOINT, OLD_CHECKPOINT, SAFETENSORS, kind_of
from service.models.pickles import Inert, Named, TextReference, UnreadablePickle, read_pickle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import IO

    from service.models.file_kinds import FileKind

__all__ = ["read_checkpoint", "reason_not_to_read"]


class _NotReadError(Exception):
    """A file is sound, and not read all the same; the message goes on after its name."""


def read_checkpoint(file: Path) -> Any:
    """Read what ``file`` holds: dicts, lists and numbers, tensors, and ``Inert`` for everything else.

    Raises:
        ModelLoadError: it is missing, damaged, or of another kind; the message says which.
    """
    try:
        kind = kind_of(file)
    except (FileNotFoundError, ValueError) as error:  # a path with a null byte
        raise ModelLoadError(f"There is no weights file {file}.") from error
    except OSError as error:
        raise ModelLoadError(f"The weights file {file.name} cannot be read: {error.strerror}.") from error
    read = _READERS.get(kind) if kind else None
    if read is None:
        raise ModelLoadError(reason_not_to_read(file, kind))
    try:
        content = read(file)
    except _NotReadError as error:
        raise ModelLoadError(f"The weights file {file.name} {error}") from error
    except TextReference as error:
        raise ModelLoadError(
            f"The weights file {file.name} was saved with pickle_protocol=0, by which tensors are lost: PyTorch cannot "
            'read it either. Save it again without: torch.save(model.state_dict(), "weights.pth").'
        ) from error
    except (SafetensorError, UnreadablePickle, zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelLoadError(f"The weights file {file.name} is damaged: {error}. Copy or download it again.") from error
    except Exception as error:  # the content of a damaged file may raise anything
        raise ModelLoadError(f"The weights file {file.name} is damaged. Copy or download it again.") from error
    if problem := _what_has_no_end(content):
        raise ModelLoadError(
            f"The weights file {file.name} holds {problem}. Save the weights alone: "
            'torch.save(model.state_dict(), "weights.pth").'
        )
    return content


_DEEPEST = 200  # dicts, lists and tuples within each other: trainers have some ten


def _what_has_no_end(content: Any) -> str | None:
    """Return in words which dict, list or tuple contains itself, or that they lie too deep; each is looked at once."""
    done: set[int] = set()
    open_: dict[int, Iterator[Any]] = {id(content): _parts(content)}
    while open_:
        key, parts = next(reversed(open_.items()))
        part = next((part for part in parts if id(part) not in done and _is_container(part)), None)
        if part is None:
            del open_[key]
            done.add(key)
        elif id(part) in open_:
            return f"a {_kind(part)} that contains itself"
        elif len(open_) >= _DEEPEST:
            return f"dicts, lists or tuples more than {_DEEPEST} within each other"
        else:
            open_[id(part)] = _parts(part)
    return None


def _kind(part: object) -> str:
    return "mapping" if isinstance(part, Inert) else type(part).__name__


def _is_container(part: object) -> bool:
    return isinstance(part, dict | list | tuple | Inert)


def _parts(whole: Any) -> Iterator[Any]:
    """Return what is in a container; of an object what it holds as one, not its attributes: nobody looks there."""
    if isinstance(whole, Inert):
        return chain(whole.pairs.values(), whole.elements)
    if isinstance(whole, dict):
        return iter(whole.values())
    return iter(whole) if isinstance(whole, list | tuple) else iter(())


def reason_not_to_read(file: Path, kind: FileKind | None) -> str:
    """Say what ``file`` is instead of weights, and what to do."""
    if kind is None:
        return (
            f"The weights file {file.name} is neither a safetensors file nor a PyTorch checkpoint, or it is cut off. "
            "Save one with safetensors.torch.save_file(model.state_dict(), …) or torch.save(model.state_dict(), …)."
        )
    return f"{file.name} is {kind.title}. {kind.way_out.format(file=file.name)}"


# -- tensors ----------------------------------------------------------------------------------------------------------

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": torch.uint8,
}


_MOST_AXES = 64

_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _dtype_of(storage: object) -> torch.dtype:
    if not isinstance(storage, Named) or storage.name not in _STORAGES:
        name = storage.name if isinstance(storage, Named) else type(storage).__name__
        if name.startswith("torch.Q"):
            raise _NotReadError(f"holds quantised weights ({name}), which are not served. Save them before.")
        raise UnreadablePickle(f"its tensors are stored as {name}")
    return _STORAGES[storage.name]


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: object
) -> Tensor | Inert:
    if len(size) > _MOST_AXES:
        raise UnreadablePickle(f"it has a tensor of more than {_MOST_AXES} axes")
    if math.prod(size) > storage.numel():  # one number shown as many: what is built to its size would take all memory
        return Inert("torch.Tensor.expand")
    return torch.as_strided(storage, size, stride, offset)  # checks that all of it is within the storage


def _tensor_of_dtype(
    storage: Tensor,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    _requires_grad: bool,
    _hooks: object,
    dtype: Named,
    *_rest: object,
) -> Tensor | Inert:
    return _tensor(storage.view(_DTYPES[dtype.name]), offset, size, stride)


def _tensor_itself(tensor: Tensor, *_rest: object) -> Tensor:
    """Leave out what makes a parameter of a tensor, or brings it back to its device."""
    return tensor


def _pairs(*args: Any) -> dict[Any, Any]:
    """Stand for an ``OrderedDict`` or a ``Counter``, which may be given its pairs."""
    return {key: value for key, value in args[0] if isinstance(key, str)} if args and isinstance(args[0], list) else {}


_REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _tensor_itself,
    "torch._utils._rebuild_parameter_with_state": _tensor_itself,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _tensor_itself,
    "collections.OrderedDict": _pairs,
    "collections.defaultdict": _pairs,
    "_codecs.encode": lambda text, *_: text,  # names that are bytes, as Python 2 wrote them
}


def _rebuild_from_type(function: Named, _type: object, args: tuple[Any, ...], _state: object) -> Any:
    """Make a tensor that had attributes of its own, or was of a subclass, a plain one."""
    return _REBUILD[function.name](*args)


_TABLE: dict[str, Callable[..., Any]] = {**_REBUILD, "torch._tensor._rebuild_from_type_v2": _rebuild_from_type}


# -- containers -------------------------------------------------------------------------------------------------------


def _read_zip(file: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        # PyTorch compresses nothing. A file that unpacks to more than its size is a bomb, or has been packed anew.
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise _NotReadError(
                "was compressed after it was saved. Unpack it, and pack it anew without compression: zip -0."
            )
        if sum(info.file_size for info in members.values()) > file.stat().st_size:
            raise UnreadablePickle("it unpacks to more than its size")
        root = next(name for name in members if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if members.get(f"{root}byteorder") and archive.read(f"{root}byteorder") != b"little":
            raise UnreadablePickle("it was saved by a computer of another byte order")
        stored: dict[str, Tensor] = {}

        def storage(reference: tuple[Any, ...]) -> Tensor:
            _, kind, key, *_ = reference
            _check_key(key)
            if key not in stored:
                stored[key] = _bytes_of(archive, members[f"{root}data/{key}"])
            return stored[key].view(_dtype_of(kind))

        return read_pickle(io.BytesIO(archive.read(f"{root}data.pkl")), _TABLE, storage)


def _check_key(key: object) -> None:
    """Refuse what is no text as the name of a storage: hashing it, or writing it out, may take for ever."""
    if not isinstance(key, str):
        raise UnreadablePickle("it names a storage by what is no text")


def _bytes_of(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    content = bytearray(member.file_size)
    with archive.open(member) as stream:
        _read_into(content, stream)
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _read_into(content: bytearray | memoryview, stream: IO[bytes]) -> None:
    view = memoryview(content)
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]  # both kinds of stream have it
        if not count:
            raise UnreadablePickle("it is cut off")
        view = view[count:]


def _read_old(file: Path) -> Any:
    """Read five pickles (a number, a version, the machine's word sizes, the content, keys), then the keys' bytes."""
    stored: dict[str, bytearray] = {}
    left = file.stat().st_size

    def storage(reference: tuple[Any, ...]) -> Any:
        nonlocal left
        if reference[0] == "module":  # a class of layers, followed by its source code
            return reference[1]
        _, kind, key, _location, count, *view = reference
        _check_key(key)
        dtype = _dtype_of(kind)
        if key not in stored:
            left -= count * dtype.itemsize
            if count < 0 or left < 0:
                raise UnreadablePickle("it is cut off")
            stored[key] = bytearray(count * dtype.itemsize)
        if not stored[key]:
            return torch.empty(0, dtype=dtype)
        whole = torch.frombuffer(stored[key], dtype=dtype)
        if view and view[0]:
            _, begin, length = view[0]
            return whole[begin : begin + length]
        return whole

    with file.open("rb") as stream:
        for _ in range(3):
            read_pickle(stream, {})
        content = read_pickle(stream, _TABLE, storage)
        for key in read_pickle(stream, {}):
            _check_key(key)
            stream.read(8)  # the number of elements once more
            _read_into(stored[key], stream)
    return content


_MOST_HEADER_BYTES = 10_000_000  # of a safetensors file: 100,000 tensors and more, which take seconds and 1 kB each


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as stream:
        if int.from_bytes(stream.read(8), "little") > _MOST_HEADER_BYTES:
            raise UnreadablePickle("it holds too many tensors")
    return load_file(file)


_READERS: dict[FileKind, Callable[[Path], Any]] = {
    SAFETENSORS: _read_safetensors,
    CHECKPOINT: _read_zip,
    OLD_CHECKPOINT: _read_old,
}
