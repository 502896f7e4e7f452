"""The exposition as Prometheus and its ``promtool check metrics`` would judge it, after traffic of every kind."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from service.metrics import Metrics
from tests.toys import png
from tests.web.application import Exchange, until

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpx
    from prometheus_client import Metric
    from prometheus_client.samples import Sample

    from tests.web.application import Application

EXPLAIN = "/api/v1/explain"
IMAGE = {"Content-Type": "image/png"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Series = tuple[str, frozenset[tuple[str, str]]]


async def traffic(application: Application, client: httpx.AsyncClient) -> None:
    """Answers, refusals, errors, a client that goes away, a deadline that passes."""
    await client.post(EXPLAIN, content=png(), headers=IMAGE)
    await client.post("/api/v1/predict", content=png(), headers=IMAGE)
    await client.post(EXPLAIN, content=b"no picture", headers=IMAGE)
    await client.post(EXPLAIN, content=bytes(200_000), headers=IMAGE)
    await client.get("/static/page/main.js")
    await client.get("/nowhere")
    application.worker.held = True
    leaving = Exchange(EXPLAIN, png(), content_type="image/png")
    task = leaving.start(application)
    await until(lambda: application.worker.running)
    await client.post(EXPLAIN, content=png(), headers={**IMAGE, "X-Request-Timeout-Ms": "250"})  # decoded by then
    leaving.gone.set()
    await task
    application.worker.held = False
    application.worker.finish()


async def scrape(client: httpx.AsyncClient, accept: str = "") -> list[Metric]:
    response = await client.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    if accept:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        return list(read_openmetrics(response.text))  # type: ignore[no-untyped-call]
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return list(parser.text_string_to_metric_families(response.text))


def series(families: Iterable[Metric]) -> dict[Series, float]:
    return {key(sample): sample.value for family in families for sample in family.samples}


def key(sample: Sample) -> Series:
    return sample.name, frozenset(sample.labels.items())


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_every_family_keeps_to_the_conventions(
    application: Application, client: httpx.AsyncClient, accept: str
) -> None:
    await traffic(application, client)
    families = await scrape(client, accept)
    assert {"camserve_requests", "camserve_worker_resident_bytes", "process_resident_memory_bytes"} <= {
        family.name for family in families
    }
    for family in families:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", family.name)
        assert family.name.startswith(("camserve_", "process_"))
        assert family.documentation.strip(), f"{family.name} has no HELP"
        assert family.type in {"counter", "gauge", "histogram"}
        assert not re.search(r"_(counter|gauge|histogram|ms|milliseconds|kb|mb|percent)(_|$)", family.name)
        for sample in family.samples:
            assert not sample.name.endswith("_created"), "a second series beside every one, of no use"
            assert (sample.name == f"{family.name}_total") == (family.type == "counter")
            assert not {"quantile", "job", "instance"} & sample.labels.keys(), "Prometheus sets these itself"


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_no_series_stands_there_twice(application: Application, client: httpx.AsyncClient, accept: str) -> None:
    await traffic(application, client)
    families = await scrape(client, accept)
    names = Counter(family.name for family in families)
    found = Counter(key(sample) for family in families for sample in family.samples)
    assert not [name for name, times in (names + found).items() if times > 1]


async def test_histograms_are_cumulative_and_agree_with_their_count(
    application: Application, client: httpx.AsyncClient
) -> None:
    await traffic(application, client)
    checked = 0
    for family in await scrape(client):
        if family.type != "histogram":
            continue
        for labels, samples in by_labels(family).items():
            bounds = [float(sample.labels["le"]) for sample in samples if "le" in sample.labels]
            counts = [sample.value for sample in samples if "le" in sample.labels]
            (count,) = [sample.value for sample in samples if sample.name.endswith("_count")]
            (total,) = [sample.value for sample in samples if sample.name.endswith("_sum")]
            assert bounds == sorted(set(bounds)), f"{family.name} {labels}"
            assert bounds[-1] == math.inf
            assert counts == sorted(counts)
            assert counts[-1] == count
            assert (total > 0) == (count > 0)
            checked += count > 0
    assert checked >= 6


async def test_times_are_told_apart_from_a_millisecond_to_five_minutes(
    application: Application, client: httpx.AsyncClient
) -> None:
    await traffic(application, client)
    times = [
        family for family in await scrape(client) if family.name.endswith("_seconds") and family.type == "histogram"
    ]
    assert {family.name.removeprefix("camserve_") for family in times} >= {
        "request_seconds",
        "stage_seconds",
        "batch_seconds",
    }
    for family in times:
        for samples in by_labels(family).values():
            bounds = [float(sample.labels["le"]) for sample in samples if "le" in sample.labels][:-1]
            assert (bounds[0], bounds[-1]) == (0.001, 300.0), family.name
            assert all(after <= 5 * before for before, after in itertools.pairwise(bounds)), family.name


async def test_a_request_is_counted_with_the_time_that_it_took(
    application: Application, client: httpx.AsyncClient
) -> None:
    application.worker.held = True
    asking = asyncio.create_task(client.post(EXPLAIN, content=png(), headers=IMAGE))
    await until(lambda: application.worker.running)
    await asyncio.sleep(0.06)
    application.worker.finish()
    await asking
    assert application.metric("camserve_request_seconds_bucket", route=EXPLAIN, le="0.05") == 0
    assert application.metric("camserve_request_seconds_count", route=EXPLAIN) == 1
    assert 0.05 < application.metric("camserve_request_seconds_sum", route=EXPLAIN) < 30


async def test_batches_are_told_apart_by_powers_of_two(client: httpx.AsyncClient) -> None:
    await client.post(EXPLAIN, content=png(), headers=IMAGE)
    (family,) = [family for family in await scrape(client) if family.name == "camserve_batch_size"]
    bounds = [sample.labels["le"] for sample in family.samples if "le" in sample.labels]
    assert bounds == ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "128.0", "+Inf"]


def by_labels(family: Metric) -> dict[frozenset[tuple[str, str]], list[Sample]]:
    groups: dict[frozenset[tuple[str, str]], list[Sample]] = {}
    for sample in family.samples:
        groups.setdefault(frozenset(sample.labels.items() - {("le", sample.labels.get("le", ""))}), []).append(sample)
    return groups


async def test_counters_never_fall_and_no_series_of_theirs_is_lost(
    application: Application, client: httpx.AsyncClient
) -> None:
    await traffic(application, client)
    before = await scrape(client)
    await traffic(application, client)
    after = series(await scrape(client))
    rising = {key(each): each.value for family in before if family.type != "gauge" for each in family.samples}
    assert not {name for name, value in rising.items() if after.get(name, -1.0) < value}


async def test_the_number_of_series_does_not_follow_what_callers_send(
    application: Application, client: httpx.AsyncClient
) -> None:
    async def knock(word: str) -> None:
        await client.get(f"/{word}")
        await client.get(f"/static/{word}")
        await client.get(f"/api/v1/models/{word}")
        await client.post(f"/api/v1/models/{word}/explain", content=png(), headers={**IMAGE, "X-Request-ID": word})
        await client.post(EXPLAIN, params={"layer": word, "target": word}, content=png(), headers=IMAGE)

    await traffic(application, client)
    await knock("first")
    await scrape(client)
    before = series(await scrape(client)).keys()
    for number in range(40):
        await knock(f"random-{number}")
    assert series(await scrape(client)).keys() - before == set()


async def test_what_counts_events_is_there_before_the_first(client: httpx.AsyncClient) -> None:
    found = series(await scrape(client))
    for name, label, values in (
        ("camserve_rejected_total", "code", {"overloaded", "not_ready", "body_too_large", "image_too_large"}),
        ("camserve_cancelled_total", "stage", {"decode", "queue", "compute", "render"}),
        ("camserve_expired_total", "stage", {"decode", "queue", "compute", "render"}),
        ("camserve_worker_restarts_total", "reason", {"exited", "signal", "hung", "start_timeout", "not_started"}),
        ("camserve_retried_total", "reason", {"exited", "signal", "hung", "start_timeout", "not_started"}),
        ("camserve_batch_splits_total", "reason", {"error", "memory"}),
    ):
        for value in values:
            assert found[name, frozenset({(label, value)})] == 0


async def test_pictures_given_up_are_counted_where_they_were(
    application: Application, client: httpx.AsyncClient
) -> None:
    await traffic(application, client)
    for name, stage in (("cancelled", "compute"), ("expired", "queue")):
        counts = {each: application.metric(f"camserve_{name}_total", stage=each) for each in ("queue", "compute")}
        assert counts == {"queue": 0, "compute": 0} | {stage: 1}


async def test_a_picture_that_fails_among_others_is_counted(
    application: Application, client: httpx.AsyncClient
) -> None:
    files = [("image", ("a.png", png())), ("image", ("b.png", b"no picture"))]
    assert (await client.post(EXPLAIN, files=files)).status_code == 200
    assert application.metric("camserve_picture_errors_total", code="invalid_image") == 1


async def test_ready_says_what_readyz_says(application: Application, client: httpx.AsyncClient) -> None:
    for draining in (False, True):
        if draining:
            application.lifecycle.begin_drain()
        await scrape(client)
        assert application.metric("camserve_ready") == (not draining)
        assert ((await client.get("/readyz")).status_code == 200) == (not draining)


def test_what_is_running() -> None:
    families: dict[str, Any] = {
        family.name: family for family in parser.text_string_to_metric_families(Metrics().expose()[0].decode())
    }
    (sample,) = families["camserve_build_info"].samples
    assert sample.value == 1
    assert sample.labels.keys() == {"version", "python", "torch"}
    assert all(re.match(r"\d+\.\d+", value) for value in sample.labels.values())
