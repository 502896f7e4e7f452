"""What a source gives, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from service.imaging.preprocess import PreprocessSpec
    from service.models.info import ModelWarning
    from service.settings import ModelConfig

__all__ = ["Downloads", "LoadedModel", "Source", "refuse_options"]


@dataclass(frozen=True)
class Downloads:
    """Where weights may be fetched from, and where they are kept.

    Attributes:
        cache_dir: folder for fetched files.
        allowed: whether anything may be fetched at all.
        mirror: base URL in place of the source's own site, or None.
    """

    cache_dir: Path
    allowed: bool = True
    mirror: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model as its source gives it, before the configuration's overrides.

    ``labels`` is None where the source does not know them; ``module`` maps (N, 3, H, W) to logits (N, classes).
    ``warnings`` say what the source had to assume.
    """

    module: nn.Module
    preprocess: PreprocessSpec
    labels: tuple[str, ...] | None
    version: str
    warnings: tuple[ModelWarning, ...] = ()


@dataclass(frozen=True)
class Source:
    """One row of the table: which architectures it lists, whether it has a given one, and how to load it.

    ``load`` raises ``ModelLoadError`` with a sentence that says what to do.
    """

    title: str
    architectures: Callable[[], Sequence[str]]
    has: Callable[[str], bool]
    load: Callable[[ModelConfig, Downloads], LoadedModel]


def refuse_options(config: ModelConfig, *names: str) -> None:
    """Refuse options that would be ignored.

    Raises:
        ModelLoadError: ``config`` sets one of them.
    """
    for name in names:
        if getattr(config, name) is not None:
            raise ModelLoadError(
                f"The option {name} means nothing for {config.architecture} as it is loaded; leave it out."
            )
