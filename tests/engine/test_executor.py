"""What a worker holds, and lets go of."""

from __future__ import annotations

import gc
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING

from service.engine.messages import Hello, Load, ModelLoaded, ModelProgress, ModelUnloaded, Start, Unload
from service.engine.workers.executor import Executor
from service.models.info import ModelKey
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from tests import user_models

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from torch import nn

    from service.engine.messages import FromWorker


def test_a_model_that_refers_to_itself_is_freed_when_it_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[nn.Module]] = []

    def make() -> nn.Module:
        model = user_models.one_head()
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(user_models, "noted", make, raising=False)
    said: SimpleQueue[FromWorker] = SimpleQueue()
    executor = Executor(Start("cpu", threads=1, concurrency=1, downloads=Downloads(tmp_path)), said.put, die=print)
    key = ModelKey("m", 1)
    gc.disable()
    try:
        executor.hear(Load(key, ModelConfig(name="m", architecture="tests.user_models.noted")))
        assert isinstance(said.get(timeout=60), Hello)
        progress = [said.get(timeout=60) for _ in range(4)]
        assert [(each.fraction, each.stage) for each in progress if isinstance(each, ModelProgress)] == [
            (0.0, "reading"),
            (0.3, "finding_layers"),
            (0.6, "trying_methods"),
            (0.9, "finishing"),
        ]
        assert isinstance(said.get(timeout=60), ModelLoaded)
        assert made[0]() is not None
        executor.hear(Unload(key))
        assert isinstance(said.get(timeout=60), ModelUnloaded)
        assert [module() for module in made] == [None]
    finally:
        gc.enable()
        executor.close()
