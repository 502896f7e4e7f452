"""The digest of a model: of everything that its answers depend on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from service.models.sources.source import LoadedModel
    from service.settings import ModelConfig

__all__ = ["digest_of"]

# Names alone, and where the files are whose content counts.
_WITHOUT_EFFECT = {"name", "version", "weights", "labels"}


def digest_of(config: ModelConfig, loaded: LoadedModel, labels: Sequence[Sequence[str]]) -> str:
    """Return 64 hex digits that differ where weights, configuration or labels do, whatever the model is called.

    Args:
        config: of the model.
        loaded: what its source gave.
        labels: of the classes of each of its heads.
    """
    whole = hashlib.sha256()
    whole.update(config.model_dump_json(exclude=_WITHOUT_EFFECT).encode())
    whole.update(json.dumps(labels).encode())
    whole.update((loaded.digest or _digest_of_weights(loaded.module)).encode())
    return whole.hexdigest()


def _digest_of_weights(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers, with their names and shapes."""
    whole = hashlib.sha256()
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        whole.update(content.numpy().data)
    return whole.hexdigest()
