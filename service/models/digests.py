"""Digests: of files, of weights, and of a model, which is everything that its answers depend on."""

from __future__ import annotations

import hashlib
import json
from itertools import chain
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from service.settings import ModelConfig

__all__ = ["digest_of_files", "digest_of_model", "digest_of_weights"]

# Names alone, where the files are whose content counts, and where it is computed.
_WITHOUT_EFFECT = {"name", "version", "weights", "labels", "device"}


def digest_of_model(config: ModelConfig, content: str, labels: Sequence[Sequence[str]]) -> str:
    """Return 64 hex digits that differ where weights, configuration or labels do, whatever the model is called.

    Args:
        config: of the model.
        content: digest of its artefact, or of its weights.
        labels: of the classes of each of its heads.
    """
    whole = hashlib.sha256()
    whole.update(config.model_dump_json(exclude=_WITHOUT_EFFECT).encode())
    whole.update(json.dumps(labels).encode())
    whole.update(content.encode())
    return whole.hexdigest()


def digest_of_files(*files: Path) -> str:
    """Return the SHA-256 of a file, in hex; of several, that of theirs."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def digest_of_weights(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers, with their names, types and shapes, in hex."""
    whole = hashlib.sha256()
    for name, value in chain(module.named_parameters(), module.named_buffers()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
