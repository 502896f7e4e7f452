"""What a worker holds, and lets go of, and what does not end it."""

from __future__ import annotations

import gc
import sys
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.cam.targets import Targets
from service.engine.messages import (
    Hello,
    Lane,
    Load,
    ModelComputes,
    ModelFailed,
    ModelLoaded,
    ModelProgress,
    ModelUnloaded,
    Ran,
    Run,
    Start,
    Unload,
)
from service.engine.workers.executor import Executor
from service.errors import InternalError
from service.models.host import ModelHost
from service.models.info import Computing, ModelKey
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from tests import user_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from service.engine.messages import FromWorker


def _next(said: SimpleQueue[FromWorker]) -> FromWorker:
    """What it says next, but for what it says of itself."""
    while isinstance(message := said.get(timeout=60), Hello | ModelProgress | ModelComputes):
        pass
    return message


def test_a_model_that_refers_to_itself_is_freed_when_it_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[nn.Module]] = []
    littered: list[weakref.ref[nn.Module]] = []

    def make() -> nn.Module:
        model, other = user_models.one_head(), user_models.one_head()
        other.__dict__["itself"] = other
        made.append(weakref.ref(model))
        littered.append(weakref.ref(other))
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
        told = [(each.fraction, each.stage) for each in progress if isinstance(each, ModelProgress)]
        assert told == sorted(told)
        assert [stage for _, stage in told] == ["reading weights", "checking", "measuring layers", "warming"]
        assert isinstance(said.get(timeout=60), ModelLoaded)
        assert made[0]() is not None
        assert littered[0]() is None  # what loading made and left goes at once
        executor.hear(Unload(key))
        assert isinstance(_next(said), ModelUnloaded)
        assert [module() for module in made] == [None]
    finally:
        gc.enable()
        executor.close()


@pytest.mark.parametrize("expendable", [True, False])
def test_a_model_answers_before_it_is_found_out_how_batches_are_computed(
    expendable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: SimpleQueue[FromWorker | str] = SimpleQueue()
    monkeypatch.setattr(ModelHost, "compute_in_parts", lambda self: said.put(self.info.name))
    start = Start("cpu", threads=1, concurrency=1, downloads=Downloads(tmp_path), expendable=expendable)
    executor = Executor(start, said.put, die=print)
    for name in ("first", "second", "gone"):
        config = ModelConfig(name=name, architecture="tests.user_models.one_head")
        executor.hear(Load(ModelKey(name, 1), config))
    executor.hear(Unload(ModelKey("gone", 1)))
    told = [said.get(timeout=60) for _ in range(1 + 3 * 5 + 1 + 4 * (not expendable))]
    executor.close()
    kinds = [each if isinstance(each, str) else type(each) for each in told if not isinstance(each, ModelProgress)]
    assert kinds == [
        Hello,
        *[ModelLoaded] * 3,
        ModelUnloaded,
        *([] if expendable else ["first", ModelComputes, "second", ModelComputes]),
    ]


def test_what_a_model_raises_while_that_is_found_out_ends_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: SimpleQueue[FromWorker | int | str] = SimpleQueue()

    def interrupt(_self: ModelHost) -> None:
        said.put("interrupted")
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelHost, "compute_in_parts", interrupt)
    executor = Executor(Start("cpu", threads=1, concurrency=1, downloads=Downloads(tmp_path)), said.put, die=said.put)
    for name in ("first", "second"):
        executor.hear(Load(ModelKey(name, 1), ModelConfig(name=name, architecture="tests.user_models.one_head")))
    told = [said.get(timeout=60) for _ in range(1 + 2 * 5 + 4)]
    executor.close()
    assert told.count("interrupted") == 2
    computes = [each.computing for each in told if isinstance(each, ModelComputes)]
    assert [each.whole for each in computes] == [
        "Finding out whether parts are quicker failed; the log has the reason."
    ] * 2
    assert sum(isinstance(each, ModelLoaded) for each in told) == 2
    assert not any(isinstance(each, int) for each in told)


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [sys.exit, _interrupt], ids=["exit", "interrupt"])
def test_code_that_ends_the_process_ends_a_request_or_a_load_and_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]
) -> None:
    on: list[bool] = []

    def make() -> nn.Module:
        model = user_models.one_head()
        model.register_forward_hook(lambda *_: end() if on else None)
        return model

    monkeypatch.setattr(user_models, "ends", make, raising=False)
    monkeypatch.setattr(user_models, "ends_at_once", end, raising=False)
    said: SimpleQueue[FromWorker] = SimpleQueue()
    died: list[int] = []
    executor = Executor(Start("cpu", threads=1, concurrency=1, downloads=Downloads(tmp_path)), said.put, died.append)
    key, bad = ModelKey("m", 1), ModelKey("bad", 2)
    pixels = np.zeros((1, 32, 32, 3), np.uint8)

    executor.hear(Load(key, ModelConfig(name="m", architecture="tests.user_models.ends", size=32)))
    assert isinstance(_next(said), ModelLoaded)
    executor.hear(Load(bad, ModelConfig(name="bad", architecture="tests.user_models.ends_at_once")))
    assert isinstance(_next(said), ModelFailed)
    for ends in (True, False):
        on[:] = [True] if ends else []
        executor.hear(Run(1, Lane(key, "predict"), pixels, (Targets((0,)),), ("",)))
        ran = _next(said)
        assert isinstance(ran, Ran)
        assert isinstance(ran.outcomes[0], InternalError) == ends
    executor.close()
    assert died == []


def test_it_is_told_once_that_a_models_code_does_something_else_than_when_it_was_loaded(tmp_path: Path) -> None:
    said: SimpleQueue[FromWorker] = SimpleQueue()
    executor = Executor(Start("cpu", threads=1, concurrency=1, downloads=Downloads(tmp_path)), said.put, die=print)
    key = ModelKey("m", 1)
    executor.hear(Load(key, ModelConfig(name="m", architecture="tests.user_models.otherwise_when_bright", size=32)))
    loaded = _next(said)
    assert isinstance(loaded, ModelLoaded)
    assert loaded.info.computing.folded
    assert isinstance(said.get(timeout=60), ModelComputes)

    def compute(brightness: int) -> None:
        pixels = np.full((1, 32, 32, 3), brightness, np.uint8)
        executor.hear(Run(1, Lane(key, "predict"), pixels, (Targets((0,)),), ("",)))
        assert isinstance(said.get(timeout=60), Ran)

    compute(0)
    compute(255)
    why = "Its code did something else for a picture than when it was loaded."
    assert said.get(timeout=60) == ModelComputes(key, Computing(unfolded=why, whole="There is one thread."))
    compute(255)
    executor.hear(Unload(key))
    assert isinstance(said.get(timeout=60), ModelUnloaded)
    executor.close()
