"""The libraries of the sources that are extras: imported while a model of theirs is loaded, and not before."""

from __future__ import annotations

import importlib
from typing import Any

from service.errors import ModelLoadError
from service.models import torchvision_adapter  # noqa: F401 - most of them import torchvision, which may need its help

__all__ = ["library"]


def library(name: str, extra: str) -> Any:
    """Import a module of a library that the package does not bring along.

    Args:
        name: of the module, such as ``timm`` or ``timm.data``.
        extra: of this package, that installs it.

    Raises:
        ModelLoadError: it is not installed, or does not work; the message says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top = name.partition(".")[0]
        if error.name != top:
            raise ModelLoadError(f"{top} does not work here: {error}. Install what it needs.") from error
        raise ModelLoadError(f"{top} is not installed: pip install 'camserve[{extra}]'.") from error
    except Exception as error:  # whatever a broken installation raises
        raise ModelLoadError(f"{name} does not work here: {type(error).__name__}: {error}.") from error
