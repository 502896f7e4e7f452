"""Weights from files: safetensors, or PyTorch checkpoints read without running any code of theirs."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["StateDict", "digest", "load_into", "read_state_dict"]

StateDict = dict[str, Tensor]

# How trainers wrap the state dict, and what DataParallel, torch.compile and Lightning put before its keys.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")

# torchvision's published DenseNet files predate a renaming: "norm.1" is "norm1" today.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def read_state_dict(file: Path) -> StateDict:
    """Read a state dict from ``.safetensors``, ``.pth``, ``.pt``, ``.bin`` or ``.ckpt``.

    Checkpoints are read with ``weights_only=True``: no pickled code is run. Wrappers such as ``{"state_dict": …}`` and
    key prefixes such as ``module.`` are taken off.

    Raises:
        ModelLoadError: the file is missing, broken, or holds something else than named tensors.
    """
    if not file.is_file():
        raise ModelLoadError(f"There is no weights file {file}.")
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_checkpoint(file)
    state = _unwrap(content)
    if not state:
        raise ModelLoadError(
            f"The weights file {file.name} holds no state dict. Save one with "
            "safetensors.torch.save_file(model.state_dict(), …) or torch.save(model.state_dict(), …)."
        )
    return {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in _strip_prefixes(state).items()}


def _read_safetensors(file: Path) -> Any:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelLoadError(f"The weights file {file.name} is not a readable safetensors file: {error}.") from error


def _read_checkpoint(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"The weights file {file.name} is damaged or holds more than tensors, and its code is not run. "
            "Save the model's state_dict() instead of the model."
        ) from error
    except Exception as error:  # the unpickler of a damaged file may raise anything
        raise ModelLoadError(f"The weights file {file.name} is not a readable PyTorch checkpoint.") from error


def _unwrap(content: Any) -> StateDict:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            return _unwrap(content[wrapper])
    if not isinstance(content, dict):
        return {}
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _strip_prefixes(state: StateDict) -> StateDict:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _strip_prefixes({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def load_into(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load ``state`` into ``module``; every key must be there, none may be left over.

    Raises:
        ModelLoadError: keys or shapes do not match; the message names some of them and ``origin``.
    """
    # Files carry no module versions, or have lost them with their wrappers, and MNASNet refuses to load without: take
    # them to be the current ones.
    versioned = OrderedDict(state)
    versioned._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    try:
        wrong = module.load_state_dict(versioned, strict=False)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        raise ModelLoadError(f"{origin} does not fit the architecture: {'; '.join(lines[:2])}") from error
    # Old checkpoints lack BatchNorm's counter of batches, which plays no part in answering.
    missing = [key for key in wrong.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or wrong.unexpected_keys:
        differences = _some("it lacks", missing) + _some("it has", wrong.unexpected_keys)
        raise ModelLoadError(
            f"{origin} does not fit the architecture: {differences}"
            "name the architecture that these weights were trained with."
        )


def _some(verb: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return f"{verb} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}; "


def digest(file: Path) -> str:
    """Return the first 12 hex digits of the file's SHA-256."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]
