"""Evaluations over HTTP: taken, followed, read, deleted; and whose they are."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.jobs.material import PICTURES
from service.settings import KeyConfig
from service.web.keys import digest_of
from service.wire_evaluation import Evaluation, EvaluationList
from tests.jobs.asking import ROUTE, ended, folders, image, post
from tests.jobs.computed import RESULTS
from tests.web.application import PETS, Exchange, faked, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.jobs.computed import Held
    from tests.web.application import Application


async def test_from_the_pictures_to_the_report(held: Held, application: Application, client: httpx.AsyncClient) -> None:
    taken = await post(client, image("cats/a.png"), image("b.png"), data={"seed": 7, "purpose": ["class"]})
    assert taken.status_code == 202, taken.text
    url = taken.headers["location"]
    about = Evaluation.model_validate(taken.json())
    assert (about.images, about.kept, about.model, about.state) == (2, False, "pets", "queued")
    assert "ends with the service" in about.note
    assert (await client.get(f"{url}/report")).json()["code"] == "evaluation_not_done"

    await held.begun()
    order = held.orders[0]
    assert (order.seed, order.purposes, order.methods) == (7, ("class",), ("gradcam",))
    held.tells(1)
    held.tells(4)
    about = Evaluation.model_validate((await client.get(url)).json())
    assert (about.state, about.progress, about.stage, about.result) == ("running", 0.4, "explaining", None)
    assert about.eta_s is not None
    held.tells(5, total=100)
    assert (await client.get(url)).json()["progress"] == 0.4  # never back, though the estimate has grown
    assert application.metric("camserve_evaluations_open", state="running") == 0
    await client.get("/metrics")
    assert application.metric("camserve_evaluations_open", state="running") == 1

    held.finishes()
    about = await ended(client, url)
    assert (about.state, about.progress) == ("done", 1.0)
    assert (await client.get(url)).json()["result"] == RESULTS
    report = await client.get(f"{url}/report")
    assert report.headers["content-type"].startswith("text/html")
    policy = report.headers["content-security-policy"]
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert application.metric("camserve_evaluations_total", state="done") == 1
    await until(lambda: not (order.folder / PICTURES).exists())  # nobody needs them any more

    assert (await client.delete(url)).status_code == 204
    assert (await client.get(url)).json()["code"] == "unknown_evaluation"
    assert folders(application) == []


class TestFollowed:
    async def events(self, client: httpx.AsyncClient, url: str) -> list[tuple[str, dict[str, Any]]]:
        text = (await client.get(f"{url}/events")).text
        parts = [part.split("\n") for part in text.strip().split("\n\n") if not part.startswith(":")]
        return [(part[0].removeprefix("event: "), json.loads(part[1].removeprefix("data: "))) for part in parts]

    async def followed(self, application: Application, url: str) -> None:
        """Wait until somebody has begun to follow it."""
        job = application.state["evaluations"]._jobs[url.rsplit("/", 1)[1]]
        await until(lambda: job.readers)

    async def test_until_it_is_done(self, held: Held, application: Application, client: httpx.AsyncClient) -> None:
        url = (await post(client)).headers["location"]
        await held.begun()
        following = asyncio.create_task(self.events(client, url))
        await self.followed(application, url)
        for done in (1, 4, 9):
            held.tells(done)
            await asyncio.sleep(0.05)
        held.finishes()
        events = await following
        assert [name for name, _ in events[-2:]] == ["progress", "done"]
        assert [event["progress"] for name, event in events if name == "progress"][-1] == 0.9
        assert events[-1][1]["state"] == "done"

    async def test_one_that_is_over(self, held: Held, client: httpx.AsyncClient) -> None:
        url = (await post(client)).headers["location"]
        await held.begun()
        held.fails("no such luck")
        await ended(client, url)
        ((name, event),) = await self.events(client, url)
        assert (name, event["state"], event["reason"]) == ("done", "failed", "no such luck")

    async def test_a_deleted_one_ends(self, held: Held, application: Application, client: httpx.AsyncClient) -> None:
        url = (await post(client)).headers["location"]
        await held.begun()
        following = asyncio.create_task(self.events(client, url))
        await self.followed(application, url)
        await client.delete(url)
        assert (await following)[-1][1]["state"] == "cancelled"

    async def test_whoever_leaves_costs_nothing(
        self, held: Held, application: Application, client: httpx.AsyncClient
    ) -> None:
        url = (await post(client)).headers["location"]
        await held.begun()
        job = application.state["evaluations"]._jobs[url.rsplit("/", 1)[1]]
        followers = [asyncio.create_task(client.get(f"{url}/events")) for _ in range(8)]
        await until(lambda: job.readers == 8)
        refused = await client.get(f"{url}/events")
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        await until(lambda: job.readers == 0)

    async def test_the_end_of_the_service_is_not_waited_for(
        self, held: Held, application: Application, client: httpx.AsyncClient
    ) -> None:
        url = (await post(client)).headers["location"]
        await held.begun()
        following = asyncio.create_task(client.get(f"{url}/events"))
        await self.followed(application, url)
        await application.lifecycle.drain()
        assert (await following).status_code == 200


class TestNotTaken:
    """What nobody would hear of."""

    @pytest.fixture
    async def looked_at(
        self, held: Held, application: Application, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[Exchange, asyncio.Task[None], asyncio.Event]:
        """A request whose pictures are looked at until the event is set."""
        looking, seen = asyncio.Event(), asyncio.Event()

        async def look(*arguments: Any) -> int:
            looking.set()
            await seen.wait()
            return await held._look(*arguments)

        monkeypatch.setattr("service.jobs.sent.run", look)
        asked = httpx.Request("POST", "http://camserve.test", files=[image()])
        exchange = Exchange(ROUTE, asked.read(), content_type=asked.headers["content-type"], host="camserve.test")
        task = exchange.start(application)
        await looking.wait()
        return exchange, task, seen

    async def test_by_whoever_has_gone(self, held: Held, application: Application, looked_at: Any) -> None:
        exchange, task, _ = looked_at
        exchange.gone.set()
        await task
        assert folders(application) == []
        assert application.state["evaluations"]._jobs == {}
        assert held.orders == []

    async def test_while_the_service_ends_that_keeps_nothing(self, application: Application, looked_at: Any) -> None:
        exchange, task, seen = looked_at
        application.lifecycle.state = "closed"
        seen.set()
        await task
        assert exchange.status == 503
        assert b"keeps no evaluations" in exchange.sent[1]["body"]
        assert folders(application) == []


class TestInTurn:
    async def test_one_at_a_time_and_deleted_ones_make_room(
        self, held: Held, application: Application, client: httpx.AsyncClient
    ) -> None:
        first, second = [(await post(client)).headers["location"] for _ in range(2)]
        await held.begun()
        listed = EvaluationList.model_validate((await client.get(ROUTE)).json()).evaluations
        assert [each.state for each in listed] == ["running", "queued"]
        full = await post(client)
        assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (
            429,
            "too_many_evaluations",
            "60",
        )
        await client.delete(first)
        assert held.ended == [first.rsplit("/", 1)[1]]  # its process is gone before the answer
        await held.begun()
        assert (await client.get(second)).json()["state"] == "running"
        assert application.metric("camserve_evaluations_total", state="cancelled") == 1
        assert (await post(client)).status_code == 202

    async def test_a_process_that_ends_is_started_again(
        self, held: Held, application: Application, client: httpx.AsyncClient
    ) -> None:
        url = (await post(client)).headers["location"]
        for restart in range(4):  # as often as something was found
            await held.begun()
            held.tells(restart + 1)
            held.exits(-9)
        await held.begun()
        assert (await client.get(url)).json()["restarts"] == 4
        assert application.metric("camserve_evaluation_restarts_total") == 4
        held.finishes()
        assert (await ended(client, url)).state == "done"

    async def test_and_given_up_where_nothing_comes_of_it(self, held: Held, client: httpx.AsyncClient) -> None:
        url = (await post(client)).headers["location"]
        for _ in range(3):
            await held.begun()
            held.exits(-9)
        about = await ended(client, url)
        assert about.state == "failed"
        assert about.reason == (
            "Its process was killed by SIGKILL 3 times without having found anything more. Too little memory, most "
            "likely. The log here has more."
        )
        refused = await client.get(f"{url}/report")
        assert (refused.status_code, refused.json()["code"]) == (409, "evaluation_not_done")

    async def test_our_own_fault_fails_it_and_the_next_one_runs(
        self, held: Held, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(*_: object) -> None:
            raise RuntimeError("not meant for anybody's eyes")

        with monkeypatch.context() as patch:
            patch.setattr("service.jobs.computing.Computing.compute", broken)
            about = await ended(client, (await post(client)).headers["location"])
        assert (about.state, about.reason) == ("failed", "Something went wrong here; the log has the reason.")
        await post(client)
        await held.begun()


class TestKeys:
    @asynccontextmanager
    async def keyed(self, **options: Any) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, dict[str, str]]]]:
        scopes: dict[str, Any] = {"ann": {"infer"}, "bob": {"infer"}, "boss": {"infer", "manage"}}
        limits: dict[str, Any] = {"bob": 10.0}
        keys = tuple(
            KeyConfig(name=name, sha256=digest_of(name), scopes=scopes[name], cost_per_minute=limits.get(name))
            for name in scopes
        )
        async with faked(keys=keys, **options) as application, application.client() as client:
            yield client, {name: {"Authorization": f"Bearer {name}"} for name in scopes}

    async def test_an_evaluation_is_its_keys(self, held: Held) -> None:
        async with self.keyed() as (client, headers):
            assert (await post(client)).status_code == 401
            url = (await post(client, headers=headers["ann"])).headers["location"]
            await held.begun()
            held.finishes()
            for path in (url, f"{url}/events", f"{url}/report"):
                assert (await client.get(path, headers=headers["bob"])).json()["code"] == "unknown_evaluation"
            assert (await client.delete(url, headers=headers["bob"])).status_code == 404
            assert (await client.get(ROUTE, headers=headers["bob"])).json() == {"evaluations": []}
            for name in ("ann", "boss"):
                assert (await client.get(url, headers=headers[name])).status_code == 200
                assert len((await client.get(ROUTE, headers=headers[name])).json()["evaluations"]) == 1
            assert (await client.delete(url, headers=headers["boss"])).status_code == 204

    async def test_keys_take_turns(self, held: Held) -> None:
        async with self.keyed(max_evaluations=8) as (client, headers):
            names = ("ann", "ann", "ann", "boss", "boss")
            urls = [(await post(client, headers=headers[name])).headers["location"] for name in names]
            begun = []
            for _ in names:
                await held.begun()
                listed = (await client.get(ROUTE, headers=headers["boss"])).json()["evaluations"]
                (running,) = [each["id"] for each in listed if each["state"] == "running"]
                begun.append([url.rsplit("/", 1)[1] for url in urls].index(running))
                held.finishes()
                await ended(client, urls[begun[-1]], headers["boss"])
        assert begun == [0, 3, 1, 4, 2]

    async def test_what_cannot_be_written_down_is_not_charged(self, held: Held) -> None:
        async with self.keyed() as (client, headers):
            boss = (await post(client, headers=headers["boss"])).headers["location"]
            state = client._transport.app.state  # type: ignore[attr-defined]
            rows = state["evaluations"]._store._rows
            await held.begun()
            rows.execute("PRAGMA query_only = ON")
            assert (await post(client, headers=headers["bob"])).status_code == 503
            rows.execute("PRAGMA query_only = OFF")
            await client.delete(boss, headers=headers["boss"])
            assert (await post(client, headers=headers["bob"])).status_code == 202
            assert (await post(client, headers=headers["bob"])).status_code == 429

    async def test_one_of_several_has_half_of_the_places(self, held: Held) -> None:
        async with self.keyed(max_evaluations=3) as (client, headers):
            urls = [(await post(client, headers=headers["ann"])).headers["location"] for _ in range(2)]
            refused = await post(client, headers=headers["ann"])
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_evaluations")
            assert refused.json()["detail"].startswith("2 evaluations of your API key wait or run, and more may not.")
            assert (await post(client, headers=headers["boss"])).status_code == 202
            await client.delete(urls[0], headers=headers["ann"])
            assert (await post(client, headers=headers["ann"])).status_code == 202
            assert held.orders != []

    @pytest.mark.usefixtures("held")
    async def test_it_is_charged_when_it_is_asked_for(self) -> None:
        async with self.keyed() as (client, headers):
            assert (await post(client, headers=headers["bob"])).status_code == 202
            refused = await post(client, headers=headers["bob"])
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await post(client, headers=headers["ann"])).status_code == 202


class TestKept:
    async def test_a_restart_goes_on_with_it(self, held: Held, tmp_path: Path) -> None:
        async with faked(data_dir=tmp_path) as application, application.client() as client:
            first = (await post(client)).headers["location"]
            await held.begun()
            held.finishes()
            await ended(client, first)
            urls = [(await post(client)).headers["location"] for _ in range(2)]
            assert (await client.get(urls[0])).json()["kept"]
            await held.begun()
        assert len(held.ended) == 2
        async with faked(data_dir=tmp_path) as application, application.client() as client:
            await held.begun()
            assert held.orders[-1].folder.name == urls[0].rsplit("/", 1)[1]
            states = [each["state"] for each in (await client.get(ROUTE)).json()["evaluations"]]
            assert states == ["done", "running", "queued"]
            assert (await client.get(first)).json()["result"] == RESULTS
            held.finishes()
            await held.begun()
            held.finishes()
            assert [(await ended(client, url)).state for url in urls] == ["done", "done"]

    async def test_without_a_folder_nothing_is_left(self, held: Held) -> None:
        async with faked() as application, application.client() as client:
            await post(client)
            await held.begun()
            root = application.state["evaluations"]._store.root
            assert root.is_dir()
        assert not root.exists()

    async def test_another_model_by_then(self, held: Held, tmp_path: Path) -> None:
        async with faked(data_dir=tmp_path) as application, application.client() as client:
            url = (await post(client)).headers["location"]
            await held.begun()
        other = replace(PETS, digest="another")
        async with faked(known=other, data_dir=tmp_path) as application, application.client() as client:
            about = await ended(client, url)
        assert about.state == "failed"
        assert about.reason is not None
        assert "another version has taken its place" in about.reason

    async def test_what_has_expired_is_forgotten(self, held: Held) -> None:
        async with faked(evaluation_ttl_s=1e-9) as application, application.client() as client:
            url = (await post(client)).headers["location"]
            await held.begun()
            held.finishes()
            await ended(client, url)
            evaluations = application.state["evaluations"]
            await evaluations._forget_expired()
            assert (await client.get(url)).status_code == 404
            assert folders(application) == []

    @pytest.mark.usefixtures("held")
    async def test_another_process_has_the_folder(self, tmp_path: Path) -> None:
        async with faked(data_dir=tmp_path) as application, application.client() as client:
            await post(client)
            async with faked(data_dir=tmp_path) as second, second.client() as other:
                refused = await post(other)
                assert (await other.get(ROUTE)).status_code == 503  # and not: there are none
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
