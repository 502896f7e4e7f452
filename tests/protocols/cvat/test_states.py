"""CVAT's functions whatever state models are in, and who may ask: with a worker that is held by hand."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.cam.raw_map import RawMap
from service.engine.messages import RowAnswer
from service.engine.versions import ModelStatus
from service.protocols.cvat.functions import listed as listed_functions
from service.settings import KeyConfig, ModelConfig
from service.web.app import PROTOCOLS
from service.web.keys import digest_of
from tests.protocols.cvat.calls import PREFIX, call, called, read_functions
from tests.toys import png
from tests.web.application import PETS, Exchange, faked, until

if TYPE_CHECKING:
    import httpx

    from tests.web.application import Application

KEYS = (KeyConfig(name="asks", sha256=digest_of("asks")),)
ROOT = ("/api/functions", "/api/functions/pets-tag", "/api/function_invocations")


async def listed(client: httpx.AsyncClient) -> Any:
    response = await client.get(f"{PREFIX}/api/functions")
    assert response.status_code == 200
    return response.json()


# -- states -----------------------------------------------------------------------------------------------------------


async def test_the_list_is_valid_while_models_load_and_fail() -> None:
    models = tuple(ModelConfig(name=name, architecture="shapes") for name in ("pets", "slow", "broken"))
    async with faked(models=models) as application, application.client() as client:
        worker = application.worker
        read_functions(await listed(client))
        worker.lose("broken", "its file is damaged")
        await until(lambda: application.explainer.model("broken").state == "failed")
        functions = await listed(client)
        names = read_functions(functions)
        assert names["pets-mask"] == ["cat", "dog", "owl"]
        assert functions["broken-mask"]["status"]["state"] == "error"
        assert "its file is damaged" in functions["broken-mask"]["spec"]["description"]
        response = await call(client, "broken-mask", png())
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        assert [each["label"] for each in await called(client, "pets-tag", png())] == ["dog"], "the others go on"


def test_a_model_that_loads_is_listed_without_labels() -> None:
    functions = listed_functions([ModelStatus(ModelConfig(name="pets", architecture="shapes"), "loading")])
    assert read_functions(functions)["pets-mask"] == []
    assert functions["pets-mask"]["status"]["state"] == "building"


async def test_a_label_that_is_there_twice_is_listed_once() -> None:
    twice = replace(PETS, labels=("crane", "crane", "owl"))
    async with faked(known=twice) as application, application.client() as client:
        assert read_functions(await listed(client))["pets-tag"] == ["crane", "owl"]
        assert [each["label"] for each in await called(client, "pets-tag", png())] == ["crane"]


async def test_of_a_multi_label_model_all_classes_above_a_half_are_named() -> None:
    several = replace(PETS, multi_label=True, activation="sigmoid")
    async with faked(known=several) as application, application.client() as client:
        application.worker.outcome = lambda *_: RowAnswer(np.array([-2, 3, 2], np.float32), ())
        assert [each["label"] for each in await called(client, "pets-tag", png())] == ["dog", "owl"]
        assert [each["label"] for each in await called(client, "pets-tag", png(), threshold=0.1)] == [
            "dog",
            "owl",
            "cat",
        ]


async def test_a_model_with_two_classes_can_be_clicked() -> None:
    async with faked(known=replace(PETS, labels=("cat", "dog"))) as application, application.client() as client:
        application.worker.outcome = _two
        answer = await called(client, "pets-click", png(), pos_points=[[0, 0]], neg_points=[])
        assert set(answer) == {"mask"}


def _two(lane: Any, question: Any) -> RowAnswer:
    values = np.ones((4, 4), np.float32)
    values[0, 0] = 2
    targets = question.resolve([1, 0])
    maps = tuple(RawMap(lane.layers[0], lane.methods[0], target, values, zero_gradient=False) for target in targets)
    return RowAnswer(np.array([1, 3], np.float32), maps)


async def test_the_time_that_cvat_waits_is_the_deadline() -> None:
    async with faked() as application, application.client() as client:
        application.worker.held = True
        response = await client.post(
            f"{PREFIX}/api/function_invocations",
            json={"image": _b64(png())},
            headers={"x-nuclio-function-name": "pets-tag", "X-Nuclio-Invoke-Timeout": "1s"},
        )
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        application.worker.finish()


async def test_a_caller_who_goes_away_is_not_computed_for() -> None:
    async with faked() as application:
        application.worker.held = True
        body = b'{"image":"' + _b64(png()).encode() + b'"}'
        exchange = Exchange(f"{PREFIX}/api/function_invocations", body, x_nuclio_function_name="pets-tag")
        exchange.scope["headers"].append((b"host", b"camserve.test"))
        task = exchange.start(application)
        await until(lambda: application.worker.running)
        exchange.gone.set()
        await asyncio.wait_for(task, 60)
        assert application.metric("camserve_in_flight") == 0


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# -- who may ask ------------------------------------------------------------------------------------------------------


async def test_where_there_are_keys_one_is_needed() -> None:
    async with faked(keys=KEYS) as application, application.client() as client:
        for response in (await client.get(f"{PREFIX}/api/functions"), await call(client, "pets-tag", png())):
            assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
        client.headers["Authorization"] = "Bearer asks"
        assert "pets-tag" in await listed(client)
        assert await called(client, "pets-tag", png())


async def asked(application: Application, path: str, address: str | None = "127.0.0.1", **headers: str) -> Exchange:
    """One request from an address, as a server tells of it."""
    body = b'{"image":"' + _b64(png()).encode() + b'"}' if path.endswith("invocations") else b""
    sent: dict[str, Any] = {"host": "camserve.test", "x_nuclio_function_name": "pets-tag", **headers}
    exchange = Exchange(path, body, **sent)
    exchange.scope["method"] = "POST" if body else "GET"
    exchange.scope["client"] = None if address is None else (address, 4242)
    await exchange.start(application)
    return exchange


@pytest.mark.parametrize("path", ROOT)
async def test_at_the_root_there_is_nothing_unless_it_is_on(path: str) -> None:
    async with faked() as application:
        assert (await asked(application, path)).status == 404


@pytest.mark.parametrize("keys", [(), KEYS], ids=["no keys", "keys"])
@pytest.mark.parametrize("path", ROOT)
async def test_at_the_root_listed_addresses_need_no_key(path: str, keys: tuple[KeyConfig, ...]) -> None:
    async with faked(cvat_root=True, cvat_allow="10.1.0.0/16 ::1", keys=keys) as application:
        for address, status in {
            "10.1.2.3": 200,
            "::ffff:10.1.2.3": 200,
            "::1": 200,
            "10.2.0.1": 403,
            "127.0.0.1": 403,
            "::2": 403,
            "a path": 403,
            None: 403,
        }.items():
            exchange = await asked(application, path, address)
            assert exchange.status == status, address
            if status == 403:
                assert b'"address_not_allowed"' in exchange.sent[-1]["body"]
        assert application.metric("camserve_rejected_total", code="address_not_allowed") == 5


@pytest.mark.parametrize("header", ["forwarded", "via", "x_forwarded_for", "x_real_ip", "origin"])
async def test_what_came_through_a_proxy_or_from_a_page_is_refused(header: str) -> None:
    async with faked(cvat_root=True) as application:
        assert (await asked(application, ROOT[0])).status == 200
        refused = await asked(application, ROOT[0], **{header: "http://camserve.test"})
        assert refused.status == 403
        assert b'"address_not_allowed"' in refused.sent[-1]["body"]


async def test_a_key_opens_the_root_to_nobody_else_and_the_root_opens_nothing_else() -> None:
    async with faked(cvat_root=True, keys=KEYS) as application:
        refused = await asked(application, ROOT[0], "192.0.2.1", authorization="Bearer asks")
        assert refused.status == 403
        for path in (f"{PREFIX}/api/functions", "/api/v1/models", "/metrics", "/api/functionsx", "/api"):
            assert (await asked(application, path)).status == 401, path
        nothing = await asked(application, "/api/functions/pets-tag/more")
        assert nothing.status == 404
        assert b'"error"' in nothing.sent[-1]["body"], "in the words of the protocol"


def test_the_row_is_one_of_the_table() -> None:
    assert "cvat" in {row.name for row in PROTOCOLS}
