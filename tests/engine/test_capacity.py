from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from service.engine.capacity import CapacityLimiter
from tests.web.application import until


async def enter(limiter: CapacityLimiter, amount: int, order: list[int], leave: asyncio.Event) -> None:
    async with limiter.reserve(amount):
        order.append(amount)
        await leave.wait()


async def test_who_finds_no_limiter_waits_and_small_ones_do_not_pass_a_large_one() -> None:
    limiter, leave, stay = CapacityLimiter(10), asyncio.Event(), asyncio.Event()
    order: list[int] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(enter(limiter, 6, order, leave))
        await until(lambda: order == [6])
        for amount in (8, 1, 2):
            group.create_task(enter(limiter, amount, order, stay))
        for _ in range(10):
            await asyncio.sleep(0)
        assert (order, limiter.used) == ([6], 6)
        leave.set()
        await until(lambda: order == [6, 8, 1])
        assert limiter.used == 9
        stay.set()
    assert (order, limiter.used) == ([6, 8, 1, 2], 0)


async def test_what_is_larger_than_the_limiter_has_it_alone() -> None:
    limiter = CapacityLimiter(10)
    async with limiter.reserve(1000) as held:
        assert (limiter.used, held.amount) == (10, 10)
    assert limiter.used == 0


async def test_who_shrinks_makes_limiter() -> None:
    limiter = CapacityLimiter(10)
    async with AsyncExitStack() as stack:
        held = await stack.enter_async_context(limiter.reserve(10))
        waiting = asyncio.create_task(stack.enter_async_context(limiter.reserve(4)))
        await asyncio.sleep(0)
        assert not waiting.done()
        held.shrink_to(100)  # not less
        held.shrink_to(6)
        await waiting
        assert limiter.used == 10
    assert limiter.used == 0


async def test_who_gives_up_waiting_holds_nothing() -> None:
    limiter = CapacityLimiter(10)
    async with limiter.reserve(10):
        waiting = [asyncio.create_task(enter(limiter, 5, [], asyncio.Event())) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting[:2]:
            task.cancel()
        await asyncio.gather(*waiting[:2], return_exceptions=True)
    await until(lambda: limiter.used == 5)
    waiting[2].cancel()
    await asyncio.gather(waiting[2], return_exceptions=True)
    assert limiter.used == 0


async def test_what_a_thread_works_on_stays_held_until_it_is_done() -> None:
    limiter, finish = CapacityLimiter(10), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        async with limiter.reserve(6) as running, limiter.reserve(4) as queued:
            running.work = threads.submit(finish.wait, 30)
            queued.work = threads.submit(finish.wait, 30)
            await until(running.work.running)
        assert limiter.used == 6, "what has not begun need not be waited for"
        assert queued.work.cancelled()
        finish.set()
        await until(lambda: limiter.used == 0)
        async with limiter.reserve(10) as done:
            done.work = threads.submit(finish.wait, 30)
            await asyncio.wrap_future(done.work)
        assert limiter.used == 0
