"""Models published on the hub of Hugging Face: fetched to the cache, or taken from there where downloads are off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import ModelLoadError, first_line
from service.models.sources.libraries import library

if TYPE_CHECKING:
    from service.models.sources.source import Downloads

__all__ = ["published_folder"]

# What describes a model, and weights that cannot run code; no code, and no other framework's files.
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
_OLDER_WEIGHTS = ("pytorch_model.bin",)
_STALL_S = 30.0


def published_folder(repository: str, downloads: Downloads, instead: str) -> Path:
    """Return a folder with a published model's description and weights.

    Args:
        repository: such as ``timm/resnet18.a1_in1k``.
        downloads: where it is kept, and whether it may be fetched.
        instead: a sentence with the way out, where it cannot be had.

    Raises:
        ModelLoadError: it cannot be had.
    """
    folder = _snapshot(repository, (*_DESCRIPTIONS, *_SAFE_WEIGHTS), downloads, instead)
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(repository, (*_DESCRIPTIONS, *_OLDER_WEIGHTS), downloads, instead)
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelLoadError(f"{repository} has no weights of PyTorch, or they are not in the cache. {instead}")
    return folder


def _snapshot(repository: str, files: tuple[str, ...], downloads: Downloads, instead: str) -> Path:
    hub = library("huggingface_hub", "hf")
    errors = library("huggingface_hub.errors", "hf")
    try:
        found = hub.snapshot_download(
            repository,
            cache_dir=downloads.cache_dir / "hub",
            allow_patterns=list(files),
            local_files_only=not downloads.allowed,
            etag_timeout=_STALL_S,
        )
    except errors.HFValidationError as error:
        raise ModelLoadError(
            f"{repository!r} is no name of a model on the hub, such as timm/resnet18.a1_in1k."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        why = "and the hub cannot be reached" if downloads.allowed else "and downloads are off"
        raise ModelLoadError(f"{repository} is not in {downloads.cache_dir / 'hub'}, {why}. {instead}") from error
    except errors.GatedRepoError as error:
        raise ModelLoadError(f"{repository} asks for an account that may read it. {instead}") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelLoadError(f"There is no {repository} on the hub, or it is not public. {instead}") from error
    except Exception as error:  # whatever the network does
        raise ModelLoadError(f"{repository} cannot be fetched: {first_line(error)}. {instead}") from error
    return Path(found)
