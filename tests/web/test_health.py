from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.engine.messages import Progress
from service.imaging.preprocess import PreprocessSpec
from service.models.info import Head
from tests.toys import png
from tests.web.application import PETS, faked, until

if TYPE_CHECKING:
    import httpx

    from tests.web.application import Application

IMAGE = {"Content-Type": "image/png"}
LARGE = png(np.zeros((200, 200, 3), np.uint8))


async def test_alive_whatever_the_workers_do(application: Application, client: httpx.AsyncClient) -> None:
    application.pool.supervisor.slots.clear()
    application.lifecycle.end()
    response = await client.get("/livez")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"])
async def test_head_is_answered_as_get_is(application: Application, client: httpx.AsyncClient, path: str) -> None:
    def told(response: httpx.Response) -> tuple[int, str, str]:
        return response.status_code, response.headers["Content-Type"], response.headers["Content-Length"]

    assert told(await client.head(path)) == told(await client.get(path))
    application.lifecycle.end()
    if path == "/readyz":
        assert (await client.head(path)).status_code == 503


async def test_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json() == {"name": "camserve", "version": __version__, "api": "v1"}


async def test_ready_with_a_loaded_model(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "models": {"pets": "ready"},
        "workers": [
            {
                "pid": 4242,
                "device": "cpu",
                "state": "ready",
                "models": ["pets"],
                "batches": 0,
                "progress": {},
                "deaths": 0,
                "last_exit": None,
            }
        ],
    }


async def test_readyz_tells_of_a_worker_that_works_in_the_place_of_a_dead_one(
    application: Application, client: httpx.AsyncClient
) -> None:
    application.worker.die("killed by SIGKILL", "signal")
    await until(lambda: application.metric("camserve_worker_restarts_total", reason="signal"))
    await until(lambda: application.explainer.models()[0].state == "ready")
    application.worker.held = True
    asking = asyncio.create_task(client.post("/api/v1/explain", content=png(), headers=IMAGE))
    await until(lambda: application.worker.running)
    batch = application.worker.running[0].batch
    application.worker.say(Progress(batch, 0.5))
    (worker,) = (await client.get("/readyz")).json()["workers"]
    assert (worker["deaths"], worker["last_exit"]) == (1, "killed by SIGKILL")
    assert (worker["batches"], worker["progress"]) == (1, {str(batch): 0.5})
    application.worker.finish()
    await asking
    (worker,) = (await client.get("/readyz")).json()["workers"]
    assert (worker["batches"], worker["progress"]) == (0, {})


async def test_a_model_is_described_as_it_is() -> None:
    known = replace(
        PETS,
        preprocess=PreprocessSpec("squash", 48, 32),
        multi_label=True,
        heads={"coarse": Head(PETS.labels), "fine": Head(tuple("abcdefg"))},
        default_head="coarse",
        dtype="bfloat16",
        device="cuda:1",
    )
    async with faked(known=known) as application, application.client() as client:
        entry = (await client.get("/api/v1/models/pets")).json()
        layers = (await client.get("/api/v1/models/pets/layers")).json()
        assert entry["input"] == layers["input"] == {"height": 48, "width": 32}
        assert (entry["multi_label"], entry["heads"], entry["default_head"]) == (
            True,
            {"coarse": 3, "fine": 7},
            "coarse",
        )
        assert (entry["dtype"], entry["device"]) == ("bfloat16", "cuda:1")
        classes = (await client.get("/api/v1/models/pets/classes", params={"head": "fine"})).json()
        assert (classes["total"], classes["classes"][6]["label"]) == (7, "g")


@pytest.mark.parametrize("why", ["loading", "failed", "no worker", "draining"])
async def test_not_ready(application: Application, client: httpx.AsyncClient, why: str) -> None:
    status, state = {
        "loading": ("loading", "loading"),
        "failed": ("unavailable", "failed"),
        "no worker": ("loading", "loading"),
        "draining": ("draining", "ready"),
    }[why]
    if why != "draining":
        application.worker.lose("pets", "its file is missing" if why == "failed" else None)
    if why == "no worker":
        application.pool.supervisor.slots.clear()
    if why == "draining":
        application.lifecycle.end()

    response = await client.get("/readyz")
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert response.json()["status"] == status
    assert response.json()["models"] == {"pets": state}

    refused = await client.post("/api/v1/explain", content=png(), headers=IMAGE)
    assert refused.status_code == 503
    assert refused.json()["code"] == "not_ready"


async def test_a_failed_model_says_why(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.lose("pets", "its file is missing")
    entry = (await client.get("/api/v1/models/pets")).json()
    assert (entry["state"], entry["reason"], entry["input"]) == ("failed", "its file is missing", None)
    refused = await client.post("/api/v1/predict", content=png(), headers=IMAGE)
    assert "its file is missing" in refused.json()["detail"]


async def test_metrics_are_in_the_prometheus_format_and_count(
    application: Application, client: httpx.AsyncClient
) -> None:
    for _ in range(3):
        assert (await client.post("/api/v1/explain", content=png(), headers=IMAGE)).status_code == 200
    assert (await client.post("/api/v1/models/pets/predict", content=png(), headers=IMAGE)).status_code == 200
    assert (await client.post("/api/v1/explain", content=LARGE, headers=IMAGE)).status_code == 413
    assert (await client.get("/api/v1/models/cats")).status_code == 404
    assert (await client.get("/nowhere")).status_code == 404

    response = await client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert {family.name for family in application.pool._metrics.registry.collect()} <= families.keys()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }

    def count(route: str, status: str) -> float:
        return samples["camserve_requests_total", ("route", route), ("status", status)]

    assert count("/api/v1/explain", "200") == 3
    assert count("/api/v1/explain", "413") == 1
    assert count("/api/v1/models/{model}/predict", "200") == 1
    assert count("/api/v1/models/{model}", "404") == 1, "a label per route, not per path that somebody tried"
    assert count("unknown", "404") == 1
    assert samples["camserve_request_seconds_count", ("route", "/api/v1/explain")] == 4
    assert samples["camserve_rejected_total", ("code", "image_too_large")] == 1
    assert samples["camserve_batch_size_sum", ("model", "pets"), ("op", "explain")] == 3
    assert samples["camserve_batch_size_sum", ("model", "pets"), ("op", "predict")] == 1
    assert samples["camserve_batch_seconds_sum", ("model", "pets"), ("op", "explain")] == pytest.approx(0.003)
    assert samples["camserve_stage_seconds_count", ("stage", "decode")] == 4
    assert samples["camserve_stage_seconds_count", ("stage", "queue")] == 4
    assert samples["camserve_workers_ready",] == 1
    assert samples["camserve_queue_depth",] == 0
    assert samples["camserve_in_flight",] == 0
