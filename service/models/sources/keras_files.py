"""Files of Keras, read as data: what network one describes, and why it is not loaded.

A ``.keras`` file is a zip of a description (``config.json``) and weights in HDF5; a ``.h5`` file is HDF5 with the
description as an attribute. The description names classes and functions. Keras itself builds the network later, in
safe mode; before, everything that it names is held against what a network needs.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.errors import ModelLoadError
from service.models.file_kinds import HDF5, KERAS, SAVED_MODEL, kind_of
from service.models.sources.libraries import library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["KerasFile", "code_of_their_own", "read_keras_file", "reads"]

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MOST_CONFIG_BYTES = 50_000_000  # EfficientNetV2L has 2 MB
_MOST_OBJECTS = 1_000_000  # that the description names: EfficientNetV2L has 20,000
_MOST_STORED = 100_000  # groups and arrays of an HDF5 file


@dataclass(frozen=True)
class KerasFile:
    """A file of Keras 3 that describes a network and holds nothing to run.

    Attributes:
        path: of the file.
        config: the description.
        suffix: by which Keras knows the format, whatever the file is called: ``.keras`` or ``.h5``.
    """

    path: Path
    config: dict[str, Any]
    suffix: str

    def placed_in(self, folder: Path) -> Path:
        """Return a path in ``folder`` by which Keras finds the file, under a name that tells its format.

        A file whose description Keras would stumble over is copied, with a description that is changed: PyTorch names
        no parameter with a dot, as layers may have in their names; and what a part was trained with may be code. The
        weights do not depend on either.
        """
        place = folder / f"model{self.suffix}"
        plain = _plain(self.config)
        if plain == self.config:
            place.symlink_to(self.path.resolve())
        elif self.suffix == ".keras":
            with zipfile.ZipFile(self.path) as old, zipfile.ZipFile(place, "w") as new:
                with old.open(_WEIGHTS) as source, new.open(_WEIGHTS, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
                new.writestr(_CONFIG, json.dumps(plain))
        else:
            shutil.copyfile(self.path, place)
            with library("h5py", "keras").File(place, "r+") as file:
                file.attrs["model_config"] = json.dumps(plain)
        return place


def reads(artefact: Path) -> bool:
    """Return whether Keras, or TensorFlow in its name, wrote it; of HDF5, whoever did."""
    try:
        return kind_of(artefact) in {KERAS, HDF5, SAVED_MODEL}
    except OSError:
        return False


def read_keras_file(path: Path) -> KerasFile:
    """Read what network a file describes, and make sure that it can be loaded without running anything of it.

    Raises:
        ModelLoadError: it cannot; the message says what to do.
    """
    kind = kind_of(path)
    if kind is SAVED_MODEL:
        raise ModelLoadError(
            f"{path.name} is a TensorFlow SavedModel, which has no layers to watch. Save the model as .keras, or "
            "convert it with tf2onnx."
        )
    read = _read_zip if kind is KERAS else _read_hdf5
    try:
        config, version = read(path)
    except ModelLoadError:
        raise
    except Exception as error:  # the content of a damaged file may raise anything
        raise ModelLoadError(f"{path.name} is cut off or damaged. Copy or save it again.") from error
    if version.startswith(("1.", "2.")):
        raise ModelLoadError(
            f"{path.name} was saved by Keras 2, which Keras 3 cannot read. Rebuild the model in Keras 3, load its "
            "weights, save as .keras; or export it to ONNX."
        )
    _check(path.name, config, legacy=kind is not KERAS)
    return KerasFile(path, config, ".keras" if kind is KERAS else ".h5")


def _read_zip(path: Path) -> tuple[dict[str, Any], str]:
    """Return the description and the version of Keras that wrote it."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        # Keras compresses nothing. What unpacks to more than its size is a bomb, or has been packed anew.
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise _packed(path)
        if sum(info.file_size for info in members.values()) > path.stat().st_size:
            raise _packed(path)
        if _CONFIG not in members:
            raise _weights_alone(path)
        if _WEIGHTS not in members:
            raise ModelLoadError(f"{path.name} holds a model without weights. Save it with model.save('m.keras').")
        _check_size(path, members[_CONFIG].file_size)
        config = json.loads(archive.read(_CONFIG))
        metadata = json.loads(archive.read(_METADATA)) if _METADATA in members else {}
    weights = members[_WEIGHTS]
    with _Stored(path, weights) as stream, library("h5py", "keras").File(stream, "r") as file:
        _check_stored(path, file, weights.file_size)
    return config, str(metadata.get("keras_version", ""))


class _Stored(io.RawIOBase):
    """A member of a zip that is not compressed. ``zipfile`` reads all from its beginning to go back in one."""

    def __init__(self, path: Path, member: zipfile.ZipInfo) -> None:
        self._file = path.open("rb")
        self._file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", self._file.read(4))
        self._start, self._size, self._at = member.header_offset + 30 + name + extra, member.file_size, 0

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        content = self._file.read(min(len(buffer), self._size - self._at))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(
            0, min(self._size, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        )
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def _read_hdf5(path: Path) -> tuple[dict[str, Any], str]:
    """Return the description and the version of Keras that wrote it."""
    with library("h5py", "keras").File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise _weights_alone(path)
        _check_size(path, len(config))
        _check_stored(path, file, path.stat().st_size)
        version = file.attrs.get("keras_version", b"2.")  # Keras 2 began without
    version = version.decode() if isinstance(version, bytes) else str(version)
    return json.loads(config), version


def _weights_alone(path: Path) -> ModelLoadError:
    return ModelLoadError(f"{path.name} holds weights without a model. Save with model.save('m.keras').")


def _packed(path: Path) -> ModelLoadError:
    return ModelLoadError(
        f"{path.name} unpacks to more than its size: it was compressed after Keras saved it, or damaged. Unpack it, or "
        "save it again."
    )


def _check_size(path: Path, size: int) -> None:
    if size > _MOST_CONFIG_BYTES:
        raise ModelLoadError(f"{path.name} describes its model in {size:,} bytes, which is no image classifier.")


def _check_stored(path: Path, file: Any, size: int) -> None:
    """Refuse weights that unpack to more than their bytes, or that lie elsewhere; they are not read yet."""
    h5py = library("h5py", "keras")
    count = total = 0
    groups = [file]
    while groups:
        group = groups.pop()
        for name in group:
            count += 1
            if count > _MOST_STORED:
                raise ModelLoadError(f"{path.name} holds more than {_MOST_STORED:,} arrays of weights.")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ModelLoadError(f"{path.name} refers to weights outside of it. Save it again with model.save.")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif item.is_virtual or item.external:
                raise ModelLoadError(f"{path.name} refers to weights outside of it. Save it again with model.save.")
            else:
                total += (item.size or 0) * item.dtype.itemsize
            if total > size:
                raise _packed(path)


# -- what it names ----------------------------------------------------------------------------------------------------

# Of ``keras``: what networks are made of. No other module of Keras is looked into, and none of any other package.
_PARTS = {"activations", "constraints", "dtype_policies", "initializers", "layers", "models", "ops", "quantizers"}
_PARTS |= {"random", "regularizers"}
_PLAIN = {"__keras_tensor__", "__tensor__", "__numpy__", "__ellipsis__", "__slice__", "__bytes__"}
# What holds code, or reads other files.
_CODE = {"Lambda": "a Lambda", "__lambda__": "a lambda", "TorchModuleWrapper": "a TorchModuleWrapper"}
_CODE |= {"TFSMLayer": "a TFSMLayer", "JaxLayer": "a JaxLayer", "FlaxLayer": "a FlaxLayer"}
_READING = {"StringLookup", "IntegerLookup", "IndexLookup", "TextVectorization", "FeatureSpace"}


def _check(name: str, config: object, *, legacy: bool) -> None:
    """Refuse a description that names anything else than what networks are made of.

    A ``legacy`` one names classes without their modules, and means those of Keras.

    Raises:
        ModelLoadError: it does; the message says what.
    """
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        raise ModelLoadError(f"{name} does not describe a model. Save with model.save('m.keras').")
    for count, described in enumerate(_described(config)):
        if count > _MOST_OBJECTS:
            raise ModelLoadError(f"{name} describes more than {_MOST_OBJECTS:,} parts, which is no image classifier.")
        _check_class(name, described, legacy=legacy)


def _check_class(name: str, described: dict[str, Any], *, legacy: bool) -> None:
    kind, module = described["class_name"], described.get("module")
    if not isinstance(kind, str) or not isinstance(module, str | None):
        raise ModelLoadError(f"{name} is damaged: it names a class by what is no text. Save it again.")
    of_applications = kind != "function" and str(module).startswith("keras.src.applications.")  # ConvNeXt's LayerScale
    if kind == "function" and isinstance(described.get("config"), str):
        kind = described["config"]
    if kind in _CODE:
        raise ModelLoadError(
            f"{name} holds {_CODE[kind]} (Python code), which is not run. Replace it by a layer such as Rescaling and "
            "save again."
        )
    if kind in _READING:
        raise ModelLoadError(f"{name} holds a {kind}, which reads words; a picture has none. Take it out, save again.")
    known = legacy if module is None else _is_part(module) or of_applications
    if kind not in _PLAIN and not (known and kind.isidentifier()):
        raise code_of_their_own(name, kind)


def code_of_their_own(name: str, kind: str) -> ModelLoadError:
    """Return the error for a file that holds a class or function which is not Keras'."""
    return ModelLoadError(
        f"{name} holds {kind[:100]!r} (Python code), which is not run. Replace it by layers of Keras and save again, "
        "or export the model to ONNX."
    )


def _is_part(module: str) -> bool:
    """Whether a module is one of Keras' that networks are made of."""
    if module in {"builtins", "keras"}:
        return True
    inside = module.removeprefix("keras.src.") if module.startswith("keras.src.") else module.removeprefix("keras.")
    return inside != module and inside.partition(".")[0] in _PARTS


def _described(config: Any) -> Iterator[dict[str, Any]]:
    """Yield everything that names a class, at any depth, but for what is only of use to training."""
    waiting: list[Any] = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                yield part
            waiting.extend(value for key, value in part.items() if key != "compile_config")
        elif isinstance(part, list):
            waiting.extend(part)


# -- what is left out and renamed -------------------------------------------------------------------------------------


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return the description without what models within the model were trained with, and no layer named with a dot."""
    layers = [row["config"] for row in _described(config) if isinstance(row.get("config"), dict)]
    names = {row["name"] for row in layers if "layers" not in row and isinstance(row.get("name"), str)}
    new: dict[str, str] = {}
    for name in sorted(name for name in names if "." in name):
        new[name] = name.replace(".", "_")
        while new[name] in names:
            new[name] += "_"
        names.add(new[name])
    parts = {key: _replaced(value, new) for key, value in config.items() if key != "compile_config"}
    return parts | {key: value for key, value in config.items() if key == "compile_config"}


def _replaced(part: Any, new: dict[str, str]) -> Any:
    if isinstance(part, dict):
        return {key: _replaced(value, new) for key, value in part.items() if key != "compile_config"}
    if isinstance(part, list):
        return [_replaced(value, new) for value in part]
    return new.get(part, part) if isinstance(part, str) else part
