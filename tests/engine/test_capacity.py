from __future__ import annotations

import asyncio

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
    async with limiter.reserve(1000):
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
