"""The service's way from its start to its end, without HTTP and without workers."""

from __future__ import annotations

import asyncio
import logging

import pytest

from service.engine.lifecycle import Lifecycle
from service.engine.pool import Pool
from service.errors import NotReady
from service.metrics import Metrics
from tests.engine.fakes import settings


def serving(delay_s: float = 0.0, timeout_s: float = 30.0) -> Lifecycle:
    lifecycle = Lifecycle(delay_s, timeout_s)
    lifecycle.start()
    return lifecycle


async def turn() -> None:
    """Let tasks run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_states_follow_each_other_and_requests_are_waited_for() -> None:
    lifecycle = Lifecycle(timeout_s=30)
    seen = [lifecycle.state]
    lifecycle.start()
    seen.append(lifecycle.state)
    lifecycle.begin_drain()
    seen.append(lifecycle.state)
    with lifecycle.request(), lifecycle.request():
        drained = asyncio.create_task(lifecycle.drain())
        await turn()
        seen.append(lifecycle.state)
        assert not drained.done()
    await drained
    seen.append(lifecycle.state)
    assert seen == ["starting", "serving", "draining", "closed", "over"]


async def test_it_does_not_wait_while_one_of_two_is_inside() -> None:
    lifecycle = serving()
    first, second = lifecycle.request(), lifecycle.request()
    first.__enter__()
    second.__enter__()
    drained = asyncio.create_task(lifecycle.drain())
    await turn()
    first.__exit__(None, None, None)
    await turn()
    assert (lifecycle.inside, lifecycle.closed, lifecycle.over) == (1, True, False)
    second.__exit__(None, None, None)
    await drained


async def test_requests_are_taken_during_the_delay() -> None:
    lifecycle = serving(delay_s=0.5)
    drained = asyncio.create_task(lifecycle.drain())
    await turn()
    assert (lifecycle.draining, lifecycle.closed) == (True, False)
    await drained
    assert lifecycle.over


async def test_a_second_call_waits_for_the_first() -> None:
    lifecycle = serving(delay_s=0.5)
    closed = []
    lifecycle.when_closed(lambda: closed.append(lifecycle.state))
    first = asyncio.create_task(lifecycle.drain())
    await turn()
    second = asyncio.create_task(lifecycle.drain(delay_s=0))
    await turn()
    assert not lifecycle.closed, "the delay of the first holds"
    await asyncio.gather(first, second)
    await lifecycle.drain()
    assert closed == ["closed"]


async def test_a_caller_that_gives_up_does_not_stop_it() -> None:
    lifecycle = serving()
    with lifecycle.request():
        impatient = asyncio.create_task(lifecycle.drain())
        await turn()
        impatient.cancel()
        await turn()
        assert impatient.cancelled()
    await lifecycle.drain()
    assert lifecycle.over


async def test_requests_that_take_too_long_are_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    lifecycle = serving(timeout_s=0.02)
    with lifecycle.request():
        await lifecycle.drain()
        assert (lifecycle.over, lifecycle.inside) == (True, 1)
    assert "1 requests are cut off after 0.02 s" in caplog.messages


async def test_nothing_leads_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lifecycle = serving(delay_s=0.02)
    drained = asyncio.create_task(lifecycle.drain())
    await turn()
    lifecycle.end()
    lifecycle.begin_drain()
    assert lifecycle.over
    await drained
    assert lifecycle.over


async def test_an_application_can_be_started_again() -> None:
    lifecycle = serving()
    await lifecycle.drain()
    lifecycle.start()
    assert (lifecycle.state, lifecycle.draining) == ("serving", False)
    with lifecycle.request():
        drained = asyncio.create_task(lifecycle.drain())
        await turn()
        assert not drained.done()
    await drained


async def test_a_drain_that_was_not_waited_for_does_not_end_what_starts_again() -> None:
    lifecycle = serving(timeout_s=0.05)
    with lifecycle.request():
        impatient = asyncio.create_task(lifecycle.drain())
        await turn()
        impatient.cancel()
        lifecycle.end()
        lifecycle.start()
        await asyncio.sleep(0.1)
        assert lifecycle.state == "serving"


def test_an_application_can_be_started_again_in_another_event_loop() -> None:
    lifecycle = Lifecycle(timeout_s=0.01)

    async def live() -> None:
        lifecycle.start()
        with lifecycle.request():
            await lifecycle.drain()

    for _ in range(2):
        asyncio.run(live())
        assert lifecycle.over


async def test_a_pool_that_has_stopped_is_over_and_says_so() -> None:
    lifecycle = serving()
    pool = Pool(settings(), Metrics(), lifecycle=lifecycle)
    with pytest.raises(NotReady, match="being loaded"):
        pool.ready_info("m")
    await pool.stop()
    assert lifecycle.over
    with pytest.raises(NotReady, match="shutting down"):
        pool.ready_info("m")
