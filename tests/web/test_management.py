"""Models that are created, replaced, put out and removed over HTTP, with a worker that tests speak for."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from pydantic import ValidationError

from service.engine import remembered
from service.engine.messages import ModelFailed
from service.problems import STATUS
from service.settings import ModelConfig, Settings, load_settings
from tests.toys import png
from tests.web.application import PETS, faked, until
from tests.web.test_keys import bearer, key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import httpx

    from service.engine.messages import FromWorker
    from service.models.info import ModelKey
    from tests.web.application import Application

MODELS = "/api/v1/models"
IMAGE = {"Content-Type": "image/png"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
async def application(folder: Path, tmp_path: Path) -> AsyncIterator[Application]:
    allowed: dict[str, Any] = {"management_modules": ("nets",), "model_dirs": (folder,), "data_dir": tmp_path / "data"}
    async with faked(management=True, **allowed) as application:
        yield application


async def put(client: httpx.AsyncClient, name: str = "birds", wait: float = 5, **fields: Any) -> httpx.Response:
    return await client.put(f"{MODELS}/{name}", params={"wait": wait}, json={"architecture": "shapes", **fields})


async def version_of(client: httpx.AsyncClient, path: str = f"{MODELS}/birds") -> str:
    answer = await client.post(f"{path}/predict", content=png(), headers=IMAGE)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"]["version"])


def fails(key: ModelKey, _config: ModelConfig) -> FromWorker:
    return ModelFailed(key, "its file is damaged")


def never(_key: ModelKey, _config: ModelConfig) -> None:
    return None


def problem(response: httpx.Response, code: str) -> str:
    body = response.json()
    assert (body["code"], response.status_code) == (code, STATUS[code]), body
    return str(body["detail"])


# -- create, replace, reload ------------------------------------------------------------------------------------------


async def test_a_model_is_created_and_answers(client: httpx.AsyncClient) -> None:
    created = await put(client, version="one")
    assert (created.status_code, created.json()["state"], created.json()["default"]) == (200, "ready", False)
    assert await version_of(client) == "one"
    listed = (await client.get(MODELS)).json()
    assert [entry["name"] for entry in listed["models"]] == ["pets", "birds"]


async def test_without_waiting_the_state_comes_at_once_and_progress_is_told(
    application: Application, client: httpx.AsyncClient
) -> None:
    application.worker.load_outcome = never
    begun = await put(client, wait=0)
    assert (begun.status_code, begun.json()["state"]) == (202, "loading")
    key = application.worker.loads[-1]
    [waiting] = (await client.get(f"{MODELS}/birds")).json()["versions"]
    assert (waiting["progress"], waiting["stage"]) == (0.0, "waiting")
    application.pool.registry.progressed(0, key, 0.6, "measuring layers")
    [version] = (await client.get(f"{MODELS}/birds")).json()["versions"]
    assert version == {
        "version": None,
        "state": "loading",
        "reason": None,
        "progress": 0.6,
        "stage": "measuring layers",
        "current": True,
        "aliases": [],
    }
    assert (await put(client, wait=0.01)).status_code == 409


async def test_waiting_ends_with_its_time(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.load_outcome = never
    assert (await put(client, wait=0.01)).status_code == 202


async def test_a_replacement_takes_over_and_the_old_version_goes(
    application: Application, client: httpx.AsyncClient
) -> None:
    await put(client, version="one")
    old = application.worker.loads[-1]
    assert (await put(client, version="two")).json()["version"] == "two"
    assert await version_of(client) == "two"
    await until(lambda: application.worker.unloads == [old])
    [version] = (await client.get(f"{MODELS}/birds")).json()["versions"]
    assert (version["version"], version["state"], version["current"]) == ("two", "ready", True)


async def test_a_version_that_cannot_be_loaded_changes_nothing(
    application: Application, client: httpx.AsyncClient
) -> None:
    await put(client, version="one")
    application.worker.load_outcome = fails
    said = problem(await put(client, version="two"), "model_load_failed")
    assert "its file is damaged" in said
    assert "goes on answering" in said
    assert await version_of(client) == "one"
    states = {each["version"]: each["state"] for each in (await client.get(f"{MODELS}/birds")).json()["versions"]}
    assert states == {"one": "ready", "two": "failed"}
    application.worker.load_outcome = application.worker.loaded
    await put(client, version="three")
    assert await version_of(client) == "three"


async def test_a_model_that_cannot_be_loaded_is_there_with_the_reason_and_can_be_replaced_or_removed(
    application: Application, client: httpx.AsyncClient
) -> None:
    application.worker.load_outcome = fails
    problem(await put(client), "model_load_failed")
    assert (await client.get(f"{MODELS}/birds")).json()["reason"] == "its file is damaged"
    for _ in range(2):
        assert problem(await put(client), "model_load_failed") == "its file is damaged", "nothing goes on answering"
    assert (await client.delete(f"{MODELS}/birds")).status_code == 204
    problem(await client.get(f"{MODELS}/birds"), "unknown_model")


async def test_a_model_is_loaded_again(application: Application, client: httpx.AsyncClient) -> None:
    before = len(application.worker.loads)
    response = await client.post(f"{MODELS}/pets/reload", params={"wait": 5})
    assert (response.status_code, len(application.worker.loads)) == (200, before + 1)
    assert (await client.get(f"{MODELS}/pets")).json()["default"] is True


async def test_a_model_is_loaded_again_with_another_default_layer(
    application: Application, client: httpx.AsyncClient
) -> None:
    """All else of its configuration is as it was, and stays on the server."""

    def config() -> ModelConfig:
        return application.explainer.pool.registry.find("pets").config

    before = config()
    response = await client.post(f"{MODELS}/pets/reload", params={"wait": 5, "layer": "conv1"})
    assert response.status_code == 200
    assert config() == before.model_copy(update={"layer": "conv1"})
    await client.post(f"{MODELS}/pets/reload", params={"wait": 5})
    assert config().layer == "conv1", "it stays what it is"


@pytest.mark.parametrize(
    ("layer", "code"), [("conv", "unknown_layer"), ("", "invalid_option"), (301 * "x", "invalid_option")]
)
async def test_a_default_layer_that_there_is_not_changes_nothing(
    application: Application, client: httpx.AsyncClient, layer: str, code: str
) -> None:
    before = len(application.worker.loads)
    said = problem(await client.post(f"{MODELS}/pets/reload", params={"layer": layer}), code)
    assert ("GET /api/v1/models/pets/layers lists them." in said) == (code == "unknown_layer")
    assert len(application.worker.loads) == before


@pytest.mark.parametrize(
    ("verb", "path", "says"),
    [
        ("POST", "models/pets/reload?layr=conv1", "There is no option 'layr'. Did you mean 'layer'?"),
        ("POST", "models/pets/reload?layer=conv1&layer=conv2", "The option 'layer' is given 2 times; it can have one"),
        ("POST", "models/pets/reload?wait=0&wait=1&wait=2", "The option 'wait' is given 3 times; it can have one"),
        ("POST", f"models/pets/reload?{'a&' * 5000}", "The query string has 5001 values"),
        ("PUT", "models/birds?layer=conv1", "There is no option 'layer'."),
        ("POST", "models/pets/unload?wait=5", "There is no option 'wait'."),
        ("DELETE", "models/pets?wait=5", "There is no option 'wait'."),
        ("PUT", "aliases/stable?version=1", "There is no option 'version'."),
        ("DELETE", "aliases/stable?model=pets", "There is no option 'model'."),
    ],
)
async def test_options_that_there_are_not_or_twice_change_nothing(
    application: Application, client: httpx.AsyncClient, verb: str, path: str, says: str
) -> None:
    before = len(application.worker.loads)
    assert says in problem(await client.request(verb, f"/api/v1/{path}", json={}), "invalid_option")
    assert (len(application.worker.loads), application.worker.unloads) == (before, [])


async def test_a_model_is_busy_while_a_version_of_it_is_loaded(
    application: Application, client: httpx.AsyncClient
) -> None:
    application.worker.load_outcome = never
    await put(client, wait=0)
    for path in ("reload", "unload"):
        problem(await client.post(f"{MODELS}/birds/{path}"), "model_busy")
    assert "Wait" in problem(await put(client), "model_busy")
    assert (await client.delete(f"{MODELS}/birds")).status_code == 204


async def test_who_waits_for_a_model_that_somebody_removes_is_told_so(
    application: Application, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "camserve.models")
    application.worker.load_outcome = never
    waiting = asyncio.create_task(put(client, wait=60))
    await until(lambda: application.pool.registry.has("birds"))
    assert (await client.delete(f"{MODELS}/birds")).status_code == 204
    assert "was removed, or replaced" in problem(await waiting, "model_superseded")
    assert "model birds was removed or replaced while somebody waited" in caplog.text


async def test_a_model_that_is_removed_finishes_what_it_began(
    application: Application, client: httpx.AsyncClient
) -> None:
    await put(client)
    application.worker.held = True
    begun = asyncio.create_task(version_of(client))
    await until(lambda: application.worker.running)
    removed = asyncio.create_task(client.delete(f"{MODELS}/birds"))
    await until(lambda: not application.pool.registry.has("birds"))
    problem(await client.get(f"{MODELS}/birds"), "unknown_model")
    assert not removed.done()
    application.worker.finish()
    assert await begun == "1"
    assert (await removed).status_code == 204
    assert application.metric("camserve_batch_size_count", model="birds", op="predict") == 0


async def test_the_default_model_stays(client: httpx.AsyncClient) -> None:
    assert "default" in problem(await client.delete(f"{MODELS}/pets"), "default_model")
    problem(await client.delete(f"{MODELS}/dogs"), "unknown_model")


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"{", "invalid_request", "not JSON"),
        (b"[]", "invalid_request", "no JSON object"),
        (b"", "invalid_request", "not JSON"),
        (b'{"architecture": "shapes", "name": "x"}', "invalid_option", "stands in the path"),
        (b'{"architecture": "shapes", "colour": "red"}', "invalid_option", "colour"),
        (b'{"architecture": "shapes", "size": 1}', "invalid_option", "size"),
        (b"{}", "invalid_option", "architecture"),
        (b'{"architecture": "nets.build", "size": "' + b"9" * 70_000 + b'"}', "body_too_large", "65536"),
        (b'{"architecture": "os.system"}', "source_not_allowed", "management_modules"),
        (b'{"architecture": "shapes", "weights": "/etc/passwd"}', "path_not_allowed", "model_dirs"),
        (b'{"architecture": "shapes", "weights": "https://x.example/a.pth"}', "path_not_allowed", "URLs"),
    ],
)
async def test_what_is_no_configuration_is_refused_in_words(
    application: Application, client: httpx.AsyncClient, body: bytes, code: str, says: str
) -> None:
    before = len(application.worker.loads)
    assert says in problem(await client.put(f"{MODELS}/birds", content=body), code)
    assert len(application.worker.loads) == before


async def test_a_name_has_letters_digits_and_little_else(client: httpx.AsyncClient) -> None:
    assert "letters" in problem(await put(client, "a b"), "invalid_option")


async def test_a_misspelt_key_comes_with_those_that_are_like_it(client: httpx.AsyncClient) -> None:
    refused = await put(client, lables="birds.txt")
    said = problem(refused, "invalid_option")
    assert said == "lables: a model has no such key. Did you mean 'labels'?"
    assert refused.json()["suggestions"] == ["labels"]


async def test_an_allowed_function_is_loaded(application: Application, client: httpx.AsyncClient) -> None:
    assert (await put(client, architecture="nets.build")).status_code == 200


# -- who may ----------------------------------------------------------------------------------------------------------


async def test_without_the_setting_nothing_is_changed() -> None:
    async with faked() as application, application.client() as client:
        for verb, path in (
            ("PUT", f"{MODELS}/birds"),
            ("DELETE", f"{MODELS}/pets"),
            ("POST", f"{MODELS}/pets/reload"),
            ("POST", f"{MODELS}/pets/unload"),
            ("DELETE", "/api/v1/aliases/x"),
        ):
            assert "setting" in problem(await client.request(verb, path, json={}), "management_off")
        body = {"model": "pets", "version": "1"}
        problem(await client.put("/api/v1/aliases/x", json=body), "management_off")


@pytest.mark.parametrize(
    ("management", "scopes", "may"),
    [(True, "infer+manage", "allowed"), (True, "infer", "forbidden"), (False, "infer+manage", "off")],
)
async def test_the_list_says_whether_whoever_asks_may_change_it(management: bool, scopes: str, may: str) -> None:
    keys = (key("asks", scopes=scopes),)
    async with faked(management=management, keys=keys) as application, application.client() as client:
        listed = await client.get(MODELS, headers=bearer("asks"))
        assert listed.json()["management"] == may
        changed = await client.post(f"{MODELS}/pets/reload", headers=bearer("asks"))
        assert (changed.status_code == 202) == (may == "allowed")


async def test_without_keys_everybody_may_who_gets_here() -> None:
    for management, may in ((True, "allowed"), (False, "off")):
        async with faked(management=management) as application, application.client() as client:
            assert (await client.get(MODELS)).json()["management"] == may


async def test_a_version_is_listed_with_its_aliases(client: httpx.AsyncClient) -> None:
    await put(client, version="one")
    for alias in ("stable", "best"):
        await client.put(f"/api/v1/aliases/{alias}", json={"model": "birds", "version": "one"})
    [version] = (await client.get(f"{MODELS}/birds")).json()["versions"]
    assert version["aliases"] == ["best", "stable"]


async def test_pages_of_listed_origins_may_change_models_only_where_models_may_be_changed() -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
    for management, status in ((True, 200), (False, 400)):
        async with (
            faked(management=management, cors_origins=["https://a.example"], keys=(key("asks"),)) as application,
            application.client() as client,
        ):
            assert (await client.options(f"{MODELS}/x", headers=asked)).status_code == status
            assert (await client.get(MODELS, headers=bearer("asks"))).status_code == 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"host": "0.0.0.0", "expose_without_keys": True}, "keys"),
        ({"allowed_hosts": ["*"]}, "allowed_hosts"),
        ({"cors_origins": ["*"]}, "cors_origins"),
    ],
)
def test_strangers_are_never_let_in(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        load_settings(management=True, **options)
    assert Settings(management=True, keys=(key("a"),), **options).management


# -- versions and aliases ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"", "invalid_request", 'Send an object such as {"model": "birds", "version": "2"}.'),
        (b"[]", "invalid_request", "no JSON object"),
        (b"[" * 60_000, "invalid_request", "not JSON"),
        (b'{"model": [' + b"1," * 40_000 + b"1]}", "body_too_large", "What is said of an alias has at most"),
        (b'{"model": "pets"}', "invalid_option", "version: Field required"),
        (b'{"modle": "pets", "version": "1"}', "invalid_option", "an alias has no such key. Did you mean 'model'?"),
    ],
)
async def test_an_alias_that_is_said_badly(client: httpx.AsyncClient, body: bytes, code: str, says: str) -> None:
    assert says in problem(await client.put("/api/v1/aliases/x", content=body), code)


async def test_an_alias_keeps_a_version_and_moves(application: Application, client: httpx.AsyncClient) -> None:
    await put(client, version="one")
    pointed = await client.put("/api/v1/aliases/stable", json={"model": "birds", "version": "one"})
    assert pointed.json() == {"alias": "stable", "model": "birds", "version": "one"}
    await put(client, version="two")
    assert await version_of(client) == "two"
    for path in (f"{MODELS}/stable", f"{MODELS}/birds/versions/one"):
        assert await version_of(client, path) == "one"
    assert await version_of(client, f"{MODELS}/birds/versions/two") == "two"
    assert (await client.get("/api/v1/aliases")).json()["aliases"] == [pointed.json()]
    another = await client.put("/api/v1/aliases/another", json={"model": "stable", "version": "two"})
    assert another.json() == {"alias": "another", "model": "birds", "version": "two"}, "of the model, by any name"
    await client.delete("/api/v1/aliases/another")
    await client.put("/api/v1/aliases/stable", json={"model": "birds", "version": "two"})
    assert await version_of(client, f"{MODELS}/stable") == "two"
    response = await client.post(f"{MODELS}/birds/versions/one/explain", content=png(), headers=IMAGE)
    assert "two" in problem(response, "unknown_version") or "lists them" in response.json()["detail"]
    await until(lambda: len(application.pool.registry.versions("birds")) == 1)
    assert (await client.delete("/api/v1/aliases/stable")).status_code == 204
    problem(await client.post(f"{MODELS}/stable/predict", content=png(), headers=IMAGE), "unknown_model")
    assert await version_of(client) == "two"


async def test_names_are_taken_once(client: httpx.AsyncClient) -> None:
    problem(await client.put("/api/v1/aliases/pets", json={"model": "pets", "version": "1"}), "name_taken")
    await client.put("/api/v1/aliases/stable", json={"model": "pets", "version": "1"})
    problem(await put(client, "stable"), "name_taken")
    problem(await client.put("/api/v1/aliases/s", json={"model": "dogs", "version": "1"}), "unknown_model")
    problem(await client.put("/api/v1/aliases/s", json={"model": "pets", "version": "9"}), "unknown_version")
    problem(await client.delete("/api/v1/aliases/s"), "unknown_alias")


async def test_an_alias_is_not_loaded_again(application: Application, client: httpx.AsyncClient) -> None:
    """It would have the model go back to what the alias keeps."""
    await put(client, version="one")
    await client.put("/api/v1/aliases/stable", json={"model": "birds", "version": "one"})
    await put(client, version="two")
    before = len(application.worker.loads)
    said = problem(await client.post(f"{MODELS}/stable/reload", params={"layer": "conv1"}), "name_taken")
    assert "an alias of model 'birds', and keeps its version. Reload 'birds', or point the alias to another" in said
    assert (len(application.worker.loads), await version_of(client)) == (before, "two")


# -- put out ----------------------------------------------------------------------------------------------------------


async def test_a_model_that_is_put_out_is_described_and_loaded_when_somebody_asks(
    application: Application, client: httpx.AsyncClient
) -> None:
    response = await client.post(f"{MODELS}/pets/unload")
    assert (response.status_code, response.json()["state"]) == (200, "unloaded")
    assert application.pool.registry.held_by(0) == []
    assert (await client.get("/readyz")).status_code == 200
    assert (await client.get(f"{MODELS}/pets/layers")).json()["default"] == "conv2"
    assert (await client.get(f"{MODELS}/pets")).json()["classes"] == 3
    assert await version_of(client, f"{MODELS}/pets") == "1"
    assert (await client.get(f"{MODELS}/pets")).json()["state"] == "ready"
    assert application.metric("camserve_models_put_out_total", reason="asked") == 1


async def test_who_asks_for_it_waits_no_longer_than_their_time(
    application: Application, client: httpx.AsyncClient
) -> None:
    await client.post(f"{MODELS}/pets/unload")
    application.worker.load_outcome = never
    headers = {**IMAGE, "X-Request-Timeout-Ms": "30"}
    response = await client.post(f"{MODELS}/pets/predict", content=png(), headers=headers)
    assert "loaded again" in problem(response, "not_ready")


async def test_one_that_cannot_be_loaded_again_says_why(application: Application, client: httpx.AsyncClient) -> None:
    await client.post(f"{MODELS}/pets/unload")
    application.worker.load_outcome = fails
    response = await client.post(f"{MODELS}/pets/predict", content=png(), headers=IMAGE)
    assert "its file is damaged" in problem(response, "not_ready")


async def test_who_asks_while_the_only_worker_comes_back_waits(
    application: Application, client: httpx.AsyncClient
) -> None:
    application.worker.die("killed by SIGKILL", "signal")
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get(f"{MODELS}/pets")).json()["classes"] == 3
    assert await version_of(client, f"{MODELS}/pets") == "1"
    assert (await client.get("/readyz")).status_code == 200


async def test_beyond_the_budget_the_least_recently_used_model_is_put_out() -> None:
    """Each model takes 400 bytes, of which three fit."""
    models = tuple(ModelConfig(name=name, architecture="shapes") for name in ("pets", "b", "c", "d"))
    async with faked(models=models, management=True, memory_budget=1300) as application, application.client() as client:

        def unloaded() -> set[str]:
            return set(application.pool.registry.unloaded_names())

        await until(lambda: unloaded() == {"d"})
        for name in ("pets", "c", "b"):
            await version_of(client, f"{MODELS}/{name}")
        await version_of(client, f"{MODELS}/d")
        await until(lambda: unloaded() == {"pets"})
        await put(client, "e")
        await until(lambda: unloaded() == {"pets", "c"})
        assert application.metric("camserve_models_put_out_total", reason="budget") == 3
        assert (await client.get("/readyz")).status_code == 200


async def test_a_model_that_answers_is_not_put_out() -> None:
    models = tuple(ModelConfig(name=name, architecture="shapes") for name in ("pets", "b"))
    async with faked(models=models, management=True, memory_budget=1024) as application, application.client() as other:
        await until(lambda: all(status.state == "ready" for status in application.pool.statuses()))
        object.__setattr__(application.explainer.management._budget, "_limit", 500)
        application.worker.held = True
        begun = asyncio.create_task(version_of(other, f"{MODELS}/b"))
        await until(lambda: application.worker.running)
        application.explainer.management._budget.keep()
        assert application.pool.registry.unloaded_names() == ["pets"]
        application.worker.finish()
        assert await begun == "1"


@pytest.mark.parametrize(("text", "size"), [("8GB", 8 * 10**9), ("1.5 MiB", 3 * 2**19), ("4096", 4096), (2048, 2048)])
def test_a_budget_is_written_with_or_without_a_unit(text: Any, size: int) -> None:
    assert load_settings(memory_budget=text).memory_budget == size


@pytest.mark.parametrize("text", ["much", "-1", "8 TB", "1 KB of", "10"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="memory_budget"):
        load_settings(memory_budget=text)


# -- what is remembered -----------------------------------------------------------------------------------------------


async def test_models_made_at_run_time_are_there_after_a_restart_where_there_is_a_folder(
    application: Application, client: httpx.AsyncClient, tmp_path: Path, folder: Path
) -> None:
    await put(client, version="one")
    await client.put("/api/v1/aliases/stable", json={"model": "birds", "version": "one"})
    await put(client, version="two")
    application.worker.load_outcome = fails
    await put(client, "bad")
    file = tmp_path / "data" / "models.json"
    allowed: dict[str, Any] = {"management": True, "model_dirs": (folder,), "data_dir": tmp_path / "data"}
    async with faked(**allowed) as again, again.client() as other:
        await until(partial(_all_ready, again))
        assert [entry["name"] for entry in (await other.get(MODELS)).json()["models"]] == ["pets", "birds"]
        assert await version_of(other) == "two"
        assert await version_of(other, f"{MODELS}/stable") == "one"
        assert (await other.delete(f"{MODELS}/birds")).status_code == 204
    assert json.loads(file.read_text()) == {"models": [], "aliases": {}, "contents": {}}
    async with faked(management=True) as forgetful, forgetful.client() as other:
        assert len((await other.get(MODELS)).json()["models"]) == 1


async def test_files_that_have_changed_while_the_service_was_down_are_said(folder: Path, tmp_path: Path) -> None:
    """An alias and a model whose files hold other weights after a restart than before."""
    allowed: dict[str, Any] = {"management": True, "model_dirs": (folder,), "data_dir": tmp_path / "data"}
    before, after = replace(PETS, content="a" * 64), replace(PETS, content="b" * 64)

    async def warned(client: httpx.AsyncClient) -> list[str]:
        entry = (await client.get(f"{MODELS}/birds")).json()
        return [warning["text"].split()[0] for warning in entry["warnings"] if warning["code"] == "changed_while_away"]

    async with faked(known=before, **allowed) as application, application.client() as client:
        await put(client, version="one")
        await client.put("/api/v1/aliases/stable", json={"model": "birds", "version": "one"})
        assert await warned(client) == []
    async with faked(known=before, **allowed) as same, same.client() as client:
        await until(partial(_all_ready, same))
        assert await warned(client) == []
    for _ in range(2):  # until somebody says that it is meant
        async with faked(known=after, **allowed) as changed, changed.client() as client:
            await until(partial(_all_ready, changed))
            assert sorted(await warned(client)) == ["birds", "stable"]
    async with faked(known=after, **allowed) as changed, changed.client() as client:
        await until(partial(_all_ready, changed))
        await client.put("/api/v1/aliases/stable", json={"model": "birds", "version": "one"})
        assert await warned(client) == ["birds"], "of the alias, at once"
        await put(client, version="two")
        assert await warned(client) == []
    async with faked(known=after, **allowed) as again, again.client() as client:
        await until(partial(_all_ready, again))
        assert await warned(client) == []


async def test_a_model_that_was_ready_when_the_service_ended_is_remembered(folder: Path, tmp_path: Path) -> None:
    """Nobody waited for it, and the disk is slow."""
    async with faked(management=True, model_dirs=(folder,), data_dir=tmp_path / "data") as application:
        with patch("service.engine.remembered.write", _slowly(remembered.write)):
            async with application.client() as client:
                await put(client, wait=0)
                await until(lambda: application.pool.registry.status("birds").state == "ready")
            application.worker.load_outcome = never
            await application.explainer.management.put(ModelConfig(name="late", architecture="shapes"))
            await application.explainer.stop()
    kept = json.loads((tmp_path / "data" / "models.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in kept["models"]] == ["birds"]


async def test_what_is_answered_as_ready_is_remembered_already(
    application: Application, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with patch("service.engine.remembered.write", _slowly(remembered.write)):
        assert (await put(client)).status_code == 200
        file = tmp_path / "data" / "models.json"
        assert "birds" in file.read_text(encoding="utf-8")
        application.worker.known = replace(PETS, content="b" * 64)
        assert (await client.post(f"{MODELS}/birds/reload", params={"wait": 5})).status_code == 200
    assert json.loads(file.read_text(encoding="utf-8"))["contents"] == {"birds": "b" * 64}


def _slowly(write: Callable[..., None]) -> Callable[..., None]:
    def written(*args: Any) -> None:
        time.sleep(0.2)
        write(*args)

    return written


def _all_ready(application: Application) -> bool:
    return all(status.state == "ready" for status in application.pool.statuses())
