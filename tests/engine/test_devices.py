"""On which workers a model is that names its device; with workers that the tests speak for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError

from service.engine.memory_budget import MemoryBudget
from service.engine.messages import Load, ModelFailed, ModelLoaded, Start
from service.engine.registry import Registry
from service.engine.workers.executor import Executor
from service.metrics import Metrics
from service.models.digests import digest_of_model
from service.models.info import ModelKey
from service.models.sources.source import Downloads
from service.settings import ModelConfig, Settings
from tests.engine.fakes import FakedPool, info, settle, start

if TYPE_CHECKING:
    from pathlib import Path

    from service.engine.messages import FromWorker


def chosen(device: str, *models: str, **changes: Any) -> Settings:
    configs = tuple(ModelConfig.model_validate(model) for model in models)
    return Settings(models=configs, device=device, **changes)


def placed(pool: FakedPool) -> dict[str, list[str]]:
    """By device: the names of what its workers were told to load."""
    told: dict[str, list[str]] = {}
    for worker in pool.workers:
        told.setdefault(worker.snapshot.device, []).extend(key.name for key in worker.loads)
    return told


async def test_a_model_is_held_by_workers_of_the_device_that_it_names() -> None:
    models = ["a=toy", "b=toy,device=cuda:1", "c=toy,device=cpu", "d=toy,device=cuda:1"]
    async for pool in start(chosen("cpu", *models, workers=2)):
        assert placed(pool) == {"cpu": ["a", "c"] * 2, "cuda:1": ["b", "d"] * 2}
        for worker in pool.workers[2:]:
            worker.greet("cuda:1")
            worker.load_done("b", "d")
        assert [pool.status(name).state for name in "abcd"] == ["loading", "ready", "loading", "ready"]
        assert [status.state for status in pool.worker_statuses()] == ["loading", "loading", "ready", "ready"]


async def test_devices_of_the_service_that_are_found_out_later_take_the_models_that_name_them() -> None:
    async for pool in start(chosen("auto", "a=toy", "b=toy,device=cuda:1", "c=toy,device=cuda", "d=toy,device=cpu")):
        assert placed(pool) == {"auto": ["a"]}
        pool.worker.greet("cuda:0", "cuda:1")
        await settle()
        assert placed(pool) == {"cuda:0": ["a", "c"], "cuda:1": ["a", "b"], "cpu": ["d"]}
        pool.workers[0].greet("cuda:0", "cuda:1")
        assert placed(pool)["cuda:0"] == ["a", "c"], "nothing is loaded twice"


async def test_own_workers_that_no_model_is_for_are_no_failure() -> None:
    async for pool in start(chosen("auto", "a=toy,device=cpu")):
        pool.worker.greet("cuda:0")
        await settle()
        pool.workers[1].load_done("a")
        assert [status.state for status in pool.worker_statuses()] == ["ready", "ready"]


async def test_workers_of_another_device_come_and_go_with_the_models_that_name_it() -> None:
    async for pool in start(chosen("cpu", "a=toy")):
        pool.worker.load_done("a")
        pool.load(ModelConfig.model_validate("b=toy,device=cuda:1"))
        await settle()
        first, other = pool.workers
        other.greet("cuda:1")
        other.load_done("b")

        pool.load(ModelConfig.model_validate("b=toy,device=cpu"))
        first.load_done("b")
        other.unload_done()
        await settle()
        assert pool.workers == [first]
        assert other.stopped
        assert pool.status("b").state == "ready"

        pool.load(ModelConfig.model_validate("c=toy,device=cuda:2"))
        await settle()
        assert len({status.number for status in pool.worker_statuses()}) == 2
        assert placed(pool)["cuda:2"] == ["c"]


async def test_what_is_put_out_keeps_the_worker_of_its_device() -> None:
    async for pool in start(chosen("cpu", "a=toy", "b=toy,device=cuda:1")):
        other = pool.workers[1]
        other.load_done("b")
        pool.put_out(other.key("b"))
        other.unload_done()
        pool.wake("b")
        assert [key.name for key in other.loads] == ["b", "b"]


async def test_a_device_whose_workers_keep_dying_fails_its_models_alone() -> None:
    async for pool in start(chosen("cpu", "a=toy", "b=toy,device=cuda:1")):
        pool.workers[0].load_done("a")
        for _ in range(3):
            pool.workers[1].die("killed by SIGSEGV")
            await settle()
        assert pool.status("a").state == "ready"
        assert "keeps dying; last time: killed by SIGSEGV" in str(pool.status("b").reason)


@pytest.mark.parametrize("device", ["auto", "gpu", "cuda:", "cuda:x", "/dev/null", "", "cpu\n"])
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(ValidationError, match="device must be cpu, cuda, "):
        ModelConfig(architecture="toy", device=device)


def test_where_a_model_is_computed_makes_no_other_version_of_it() -> None:
    here, there = ModelConfig(architecture="toy"), ModelConfig(architecture="toy", device="cuda:1")
    assert digest_of_model(here, "0" * 64, []) == digest_of_model(there, "0" * 64, [])


def test_the_memory_of_each_device_is_counted_apart() -> None:
    registry, gone = Registry(), list[ModelKey]()
    for name, device in [("a", "cpu"), ("b", "cuda:0"), ("c", "cuda:0"), ("d", "cpu")]:
        key = registry.add(ModelConfig(name=name, architecture="toy"))
        registry.loaded(0, key, replace(info(name), device=device, digest=name, memory=600))
    budget = MemoryBudget(1300, 1, registry, gone.append, Metrics())
    budget.keep()
    assert gone == []
    budget.keep(replace(info("e"), device="cuda:0", memory=600))
    assert [key.name for key in gone] == ["c"], "of that device, and the last of those that nobody asked for"


def test_a_model_that_workers_are_about_to_drop_is_not_counted_once_more() -> None:
    registry = Registry()
    for name in ("a", "b", "c"):
        registry.loaded(0, registry.add(ModelConfig(name=name, architecture="toy")), replace(info(name), memory=600))
    budget = MemoryBudget(2000, 1, registry, registry.put_out, Metrics())
    for _ in range(2):  # when somebody asks for it, and once more when it has been tried
        budget.keep(replace(info("d"), memory=600))
    assert registry.unloaded_names() == ["c"]


def test_the_process_that_tries_models_takes_any_device(tmp_path: Path) -> None:
    said: list[FromWorker] = []
    executor = Executor(Start("cuda:77", 1, 1, Downloads(tmp_path, allowed=False)), said.append, lambda _code: None)
    named = ["cpu", "cuda:78", *(() if torch.backends.mps.is_available() else ("mps",))]
    for number, device in enumerate(named):
        config = ModelConfig(architecture="shapes", device=device)
        executor._load(Load(ModelKey(config.name, number), config))
    executor.close()
    loaded = next(each for each in said if isinstance(each, ModelLoaded))
    failed, *others = (each for each in said if isinstance(each, ModelFailed))
    assert loaded.info.device == "cpu"
    found = torch.cuda.device_count()
    assert f"The device 'cuda:78' cannot be used; this machine has {found} CUDA devices." in failed.reason
    expected = "The device 'mps' cannot be used; this machine has no GPU of Apple that PyTorch can use."
    assert [each.reason for each in others] == [expected for _ in named[2:]]
