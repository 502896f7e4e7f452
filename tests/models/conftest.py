"""A source of toy models beside the real ones, and no downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service.imaging.preprocess import PreprocessSpec
from service.models.loading import load_model
from service.models.sources.source import Downloads, LoadedModel, Source
from service.models.sources.table import SOURCES
from service.settings import ModelConfig
from tests.cores import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import torch

    from service.models.host import ModelHost
    from service.models.info import ModelWarning

    LoadToy = Callable[..., ModelHost]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """These models are small: on a busy machine, threads that wait for each other cost more than they save."""
    with threads(1):
        yield


@pytest.fixture
def offline(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "cache", allowed=False)


@pytest.fixture
def load_toy(monkeypatch: pytest.MonkeyPatch, offline: Downloads) -> LoadToy:
    """Loads a module as if a source had given it: ``load_toy(module, spec, labels, **configuration)``.

    ``said`` is what else the source says of it.
    """

    def load(
        module: torch.nn.Module,
        spec: PreprocessSpec | None = None,
        labels: tuple[str, ...] | None = None,
        warnings: tuple[ModelWarning, ...] = (),
        configured_labels: Path | dict[str, Path] | None = None,
        said: Mapping[str, Any] | None = None,
        **configuration: Any,
    ) -> ModelHost:
        loaded = LoadedModel(
            module, spec or PreprocessSpec(height=8, width=8), labels, "toy-1", warnings, **(said or {})
        )
        source = Source("Toys", lambda _config, _downloads: loaded, lambda name: name == "toy")
        monkeypatch.setitem(SOURCES, "toys", source)
        return load_model(ModelConfig(architecture="toy", labels=configured_labels, **configuration), "cpu", offline)

    return load
