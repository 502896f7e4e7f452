"""A folder that is watched: what its files mean, and what is done when they come, change and go."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

import service.demo
from service.engine.management import Management
from service.engine.messages import ModelFailed
from service.engine.remembered import Remembered
from service.engine.watched_folder import read_folder
from service.metrics import Metrics
from service.settings import ModelConfig, Settings
from tests.engine.fakes import FakedPool, FakeLauncher, FakeWorker, settings, settle
from tests.web.application import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.engine.messages import FromWorker
    from service.models.info import ModelKey

SHAPES = Path(service.demo.__file__).parent / "shapes.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "watched").mkdir()
    return tmp_path / "watched"


def found(folder: Path, **changes: Any) -> dict[str, ModelConfig | str | None]:
    """What the folder holds: configurations, and problems in words."""
    models = read_folder(folder, Settings(**changes))
    return {name: each.problem or each.config for name, each in models.items()}


def write(folder: Path, **files: str) -> None:
    """Write files; ``__`` in a name is a dot."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


def config_of(folder: Path, name: str, **changes: Any) -> ModelConfig:
    config = found(folder, **changes)[name]
    assert isinstance(config, ModelConfig), config
    return config


def problem_of(folder: Path, name: str, **changes: Any) -> str:
    problem = found(folder, **changes)[name]
    assert isinstance(problem, str), problem
    return problem


# -- what files mean --------------------------------------------------------------------------------------------------


def test_a_file_or_folder_is_a_model_by_its_name(folder: Path) -> None:
    write(folder, birds__onnx="x", food__v2__keras="x", README__md="x", birds__txt="crow\nowl", notes__txt="x")
    (folder / "vit").mkdir()
    write(folder / "vit", config__json="{}")
    (folder / "empty").mkdir()
    models = found(folder)
    assert set(models) == {"birds", "food.v2", "vit"}
    assert config_of(folder, "birds").architecture == str(folder / "birds.onnx")
    assert config_of(folder, "birds").labels == folder / "birds.txt"
    assert config_of(folder, "vit").architecture == str(folder / "vit")


def test_a_toml_gives_the_keys_of_the_artefact_beside_it(folder: Path) -> None:
    shutil.copy(SHAPES, folder / "birds.safetensors")
    write(
        folder,
        birds__toml='\ufeffarchitecture = "resnet18"\nsize = 96\nlabels = "mine.csv"',
        birds__txt="a",
        mine__csv="a",
    )
    config = config_of(folder, "birds")
    assert (config.architecture, config.weights) == ("resnet18", str(folder / "birds.safetensors"))
    assert (config.size, config.labels) == (96, folder / "mine.csv")


def test_a_toml_alone_names_its_files_which_are_no_models_then(folder: Path) -> None:
    shutil.copy(SHAPES, folder / "run-12.safetensors")
    write(folder, birds__toml='architecture = "resnet18"\nweights = "run-12.safetensors"')
    assert set(found(folder)) == {"birds"}
    assert config_of(folder, "birds").weights == str(folder / "run-12.safetensors")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"m__toml": "size = "}, "m.toml cannot be read"),
        ({"m__toml": "size = 96"}, "no architecture in it"),
        ({"m__toml": 'architecture = "resnet18"\nname = "other"'}, "leave name out of m.toml"),
        ({"m__toml": 'architecture = "resnet18"\nsize = 1'}, "m.toml is not right: size: "),
        ({"m__toml": 'architecture = "resnet18"\ncolour = 1'}, "m.toml is not right: colour: "),
        ({"m__onnx": "x", "m__keras": "x"}, "m.keras and m.onnx are both called 'm'"),
        ({"m__toml": "a = " + "[" * 20_000}, "nested too deeply"),
        ({"m__toml": "[" + ".".join("a" * 20_000) + "]"}, "nested too deeply"),
        ({"m__toml": "#" * 1_000_001}, "m.toml has more than 1 MB"),
        ({"m__toml": 'architecture = "os.system"'}, "management_modules"),
        ({"m__toml": 'architecture = "resnet18"\nweights = "/etc/passwd"'}, "model_dirs"),
    ],
)
def test_what_cannot_be_a_model_says_why(folder: Path, files: dict[str, str], says: str) -> None:
    write(folder, **files)
    assert says in problem_of(folder, "m")


@pytest.mark.parametrize("name", ["m.onnx", "m.toml", "m.txt", "m.pth"])
def test_pipes_are_not_opened(folder: Path, name: str) -> None:
    os.mkfifo(folder / name)
    write(folder, shapes__toml='architecture = "shapes"')
    assert set(found(folder)) == {"shapes"}


@pytest.mark.parametrize(
    "keys", ['architecture = "pipe.onnx"', 'architecture = "resnet18"\nweights = "pipe.onnx"\nlabels = "pipe.onnx"']
)
def test_pipes_that_a_toml_names_are_refused(folder: Path, keys: str) -> None:
    os.mkfifo(folder / "pipe.onnx")
    write(folder, m__toml=keys)
    assert "is a pipe" in problem_of(folder, "m")


def test_weights_without_a_network_say_what_to_write_beside_them(folder: Path) -> None:
    shutil.copy(SHAPES, folder / "birds.safetensors")
    assert 'Write into birds.toml, beside it, what they are of: architecture = "resnet18"' in problem_of(
        folder, "birds"
    )


def test_code_is_that_of_listed_modules_and_links_lead_into_listed_folders(folder: Path, tmp_path: Path) -> None:
    write(folder, m__toml='architecture = "nets.build"')
    assert config_of(folder, "m", management_modules=("nets",)).architecture == "nets.build"
    (tmp_path / "runs").mkdir()
    write(tmp_path / "runs", a__onnx="x")
    (folder / "latest.onnx").symlink_to(tmp_path / "runs" / "a.onnx")
    assert "model_dirs" in problem_of(folder, "latest")
    assert config_of(folder, "latest", model_dirs=(tmp_path / "runs",)).architecture == str(tmp_path / "runs/a.onnx")


@pytest.mark.parametrize("name", [".birds.onnx.Xy12", "birds.onnx.part", "birds.onnx.tmp", "birds.onnx~"])
def test_what_others_have_not_finished_is_left_alone(folder: Path, name: str) -> None:
    (folder / name).write_text("x")
    assert found(folder) == {}


def test_whatever_changes_in_its_files_the_mark_does(folder: Path, tmp_path: Path) -> None:
    (folder / "vit").mkdir()
    write(folder / "vit", config__json="{}")
    write(folder, net__onnx="x", net__toml="size = 96", net__txt="a", big__keras="x")
    (tmp_path / "two.onnx").write_text("x")
    (tmp_path / "one.onnx").write_text("x")
    (folder / "link.onnx").symlink_to(tmp_path / "one.onnx")

    def changed(change: Any) -> set[str]:
        before = {name: each.mark for name, each in read_folder(folder, Settings(model_dirs=(tmp_path,))).items()}
        change()
        after = {name: each.mark for name, each in read_folder(folder, Settings(model_dirs=(tmp_path,))).items()}
        return {name for name in before if before[name] != after.get(name)}

    def replace_link() -> None:
        (tmp_path / "new").symlink_to(tmp_path / "two.onnx")
        (tmp_path / "new").rename(folder / "link.onnx")

    assert changed(lambda: None) == set()
    assert changed(lambda: write(folder / "vit", weights__bin="x")) == {"vit"}
    assert changed(lambda: write(folder, net__onnx="xx")) == {"net"}
    assert changed(lambda: write(folder, net__toml="size = 64")) == {"net"}
    assert changed(lambda: write(folder, net__txt="a\nb")) == {"net"}
    assert changed(lambda: write(folder, net__onnx__data="x")) == {"net"}
    assert changed(lambda: os.utime(folder / "big.keras", (1, 1))) == {"big"}
    assert changed(replace_link) == {"link"}


def test_a_folder_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="there is no folder"):
        Settings(watch=tmp_path / "absent")
    assert Settings(watch=tmp_path).watch == tmp_path


# -- what is done -----------------------------------------------------------------------------------------------------


class Watched:
    """A pool whose folder is watched, often; workers load what they are told to, or say why not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bad: set[str] = set()
        self.silent: set[str] = set()
        chosen = settings(names=("m",), watch=folder)

        class Loading(FakeWorker):
            async def start(worker) -> None:  # noqa: N805
                await super().start()
                worker.greet()

            def load(worker, key: ModelKey, config: ModelConfig) -> None:  # noqa: N805
                super().load(key, config)
                if key.name not in self.silent:
                    asyncio.get_running_loop().call_soon(self._answer, worker, key)

            def unload(worker, key: ModelKey) -> None:  # noqa: N805
                super().unload(key)
                asyncio.get_running_loop().call_soon(worker.unload_done)

        self.pool = FakedPool(chosen, FakeLauncher(Loading))
        self.management = Management(chosen, Metrics(), self.pool, Remembered(chosen.models))

    def _answer(self, worker: FakeWorker, key: ModelKey) -> None:
        if key.name in self.bad:
            said: FromWorker = ModelFailed(key, "its file is damaged")
            worker.say(said)
        else:
            worker.load_done(key.name)

    def states(self, name: str) -> list[str]:
        return [version.state for version in self.pool.registry.versions(name)]

    def loads(self, name: str) -> int:
        return len([key for key in self.pool.worker.loads if key.name == name])


@pytest.fixture
async def watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr("service.engine.watch._EVERY_S", 0.02)
    write(folder, birds__onnx="x")
    made = Watched(folder)
    await made.pool.start()
    made.management.start()
    await settle()
    yield made
    await made.management.stop()
    await made.pool.stop()


async def test_what_lies_there_is_loaded_at_the_start_with_all_the_rest(watched: Watched) -> None:
    assert [key.name for key in watched.pool.worker.loads] == ["m", "birds"]
    assert watched.pool.status().config.name == "m", "the default model is that of the settings"
    await asyncio.sleep(0.2)
    assert watched.loads("birds") == 1, "and not again"


async def test_what_comes_is_loaded_what_changes_is_replaced_what_goes_is_gone(watched: Watched) -> None:
    write(watched.folder, fish__onnx="x")
    await until(lambda: watched.states("fish") == ["ready"])
    before = watched.pool.ready_info("fish").revision
    write(watched.folder, fish__onnx="changed")
    await until(lambda: watched.loads("fish") == 2)
    await until(lambda: watched.states("fish") == ["ready"])
    assert watched.pool.ready_info("fish").revision > before
    (watched.folder / "fish.onnx").unlink()
    await until(lambda: not watched.pool.registry.has("fish"))
    await until(lambda: watched.states("fish") == [])
    write(watched.folder, fish__onnx="x")
    await until(lambda: watched.states("fish") == ["ready"])


async def test_a_file_that_is_still_being_written_is_waited_for(watched: Watched) -> None:
    with (watched.folder / "fish.onnx").open("w") as stream:
        for _ in range(20):
            stream.write("x")
            stream.flush()
            await asyncio.sleep(0.02)
            assert watched.loads("fish") == 0
    await until(lambda: watched.states("fish") == ["ready"])
    assert watched.loads("fish") == 1


async def test_a_bad_file_leaves_the_version_before_it_and_says_why(watched: Watched) -> None:
    await until(lambda: watched.states("birds") == ["ready"])
    watched.bad.add("birds")
    write(watched.folder, birds__onnx="damaged")
    await until(lambda: watched.states("birds") == ["ready", "failed"])
    write(watched.folder, birds__toml="size = ")
    await until(lambda: "birds.toml cannot be read" in str(watched.pool.registry.versions("birds")[-1].reason))
    assert watched.states("birds") == ["ready", "failed"]
    assert watched.pool.ready_info("birds").revision == 2
    await asyncio.sleep(0.2)
    assert watched.loads("birds") == 2, "it is not tried for ever"
    watched.bad.clear()
    (watched.folder / "birds.toml").unlink()
    await until(lambda: watched.states("birds") == ["ready"])


async def test_a_new_model_that_is_bad_is_there_with_the_reason_and_goes_with_its_file(watched: Watched) -> None:
    write(watched.folder, fish__toml="size = 96")
    await until(lambda: watched.states("fish") == ["failed"])
    assert "no architecture" in str(watched.pool.status("fish").reason)
    assert watched.loads("fish") == 0
    watched.pool.worker.die()
    await settle()
    assert watched.loads("fish") == 0, "nor by a worker that comes later"
    (watched.folder / "fish.toml").unlink()
    await until(lambda: not watched.pool.registry.has("fish"))


async def test_what_changes_while_it_is_loaded_is_loaded_once_more(watched: Watched) -> None:
    watched.silent.add("fish")
    write(watched.folder, fish__onnx="x")
    await until(lambda: watched.loads("fish") == 1)
    write(watched.folder, fish__onnx="changed")
    await asyncio.sleep(0.2)
    assert watched.loads("fish") == 1
    watched.silent.clear()
    watched.pool.worker.load_done("fish")
    await until(lambda: watched.loads("fish") == 2)


async def test_a_model_of_the_settings_is_replaced_and_comes_back_as_they_say(watched: Watched) -> None:
    write(watched.folder, m__onnx="x")
    await until(lambda: watched.pool.status("m").config.architecture.endswith("m.onnx"))
    await until(lambda: watched.states("m") == ["ready"])
    (watched.folder / "m.onnx").unlink()
    await until(lambda: watched.pool.status("m").config.architecture == "toy")
    assert watched.pool.status().config.name == "m"


async def test_a_folder_that_cannot_be_read_for_a_while_changes_nothing(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    away = watched.folder.with_name("away")
    watched.folder.rename(away)
    await until(lambda: "cannot be read" in caplog.text)
    await asyncio.sleep(0.2)
    assert watched.states("birds") == ["ready"]
    assert caplog.text.count("cannot be read, its models stay as they are") == 1
    away.rename(watched.folder)
    await asyncio.sleep(0.2)
    assert (watched.states("birds"), watched.loads("birds")) == (["ready"], 1)


async def test_one_that_somebody_else_has_replaced_or_removed_since_is_left_alone(watched: Watched) -> None:
    await until(lambda: watched.states("birds") == ["ready"])
    watched.pool.load(ModelConfig(name="birds", architecture="toy"))
    await until(lambda: watched.pool.status("birds").config.architecture == "toy")
    await until(lambda: watched.states("birds") == ["ready"])
    (watched.folder / "birds.onnx").unlink()
    await asyncio.sleep(0.2)
    assert watched.states("birds") == ["ready"]


async def test_what_is_no_name_of_a_model_is_said_once(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    (watched.folder / "a b.onnx").write_text("x")
    await until(lambda: "'a b' in the watched folder cannot be loaded: A model's name may hold" in caplog.text)
    await asyncio.sleep(0.2)
    assert caplog.text.count("'a b'") == 1
    (watched.folder / "a b.onnx").unlink()
    await asyncio.sleep(0.2)
    assert watched.pool.statuses()[-1].config.name == "birds"


async def test_the_name_of_an_alias_is_not_taken(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    await until(lambda: watched.states("birds") == ["ready"])
    watched.pool.registry.point("fish", "birds", "1")
    write(watched.folder, fish__onnx="x")
    await until(lambda: "cannot be served: 'fish' is an alias" in caplog.text)
    assert not watched.pool.registry.has("fish")
