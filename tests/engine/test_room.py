from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from service.engine.room import Room
from tests.web.application import until


async def enter(room: Room, amount: int, order: list[int], leave: asyncio.Event) -> None:
    async with room.hold(amount):
        order.append(amount)
        await leave.wait()


async def test_who_finds_no_room_waits_and_small_ones_do_not_pass_a_large_one() -> None:
    room, leave, stay = Room(10), asyncio.Event(), asyncio.Event()
    order: list[int] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(enter(room, 6, order, leave))
        await until(lambda: order == [6])
        for amount in (8, 1, 2):
            group.create_task(enter(room, amount, order, stay))
        for _ in range(10):
            await asyncio.sleep(0)
        assert (order, room.used) == ([6], 6)
        leave.set()
        await until(lambda: order == [6, 8, 1])
        assert room.used == 9
        stay.set()
    assert (order, room.used) == ([6, 8, 1, 2], 0)


async def test_what_is_larger_than_the_room_has_it_alone() -> None:
    room = Room(10)
    async with room.hold(1000) as held:
        assert (room.used, held.amount) == (10, 10)
    assert room.used == 0


async def test_who_shrinks_makes_room() -> None:
    room = Room(10)
    async with AsyncExitStack() as stack:
        held = await stack.enter_async_context(room.hold(10))
        waiting = asyncio.create_task(stack.enter_async_context(room.hold(4)))
        await asyncio.sleep(0)
        assert not waiting.done()
        held.shrink_to(100)  # not less
        held.shrink_to(6)
        await waiting
        assert room.used == 10
    assert room.used == 0


async def test_who_gives_up_waiting_holds_nothing() -> None:
    room = Room(10)
    async with room.hold(10):
        waiting = [asyncio.create_task(enter(room, 5, [], asyncio.Event())) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting[:2]:
            task.cancel()
        await asyncio.gather(*waiting[:2], return_exceptions=True)
    await until(lambda: room.used == 5)
    waiting[2].cancel()
    await asyncio.gather(waiting[2], return_exceptions=True)
    assert room.used == 0


async def test_what_a_thread_works_on_stays_held_until_it_is_done() -> None:
    room, finish = Room(10), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        async with room.hold(6) as running, room.hold(4) as queued:
            running.work = threads.submit(finish.wait, 30)
            queued.work = threads.submit(finish.wait, 30)
            await until(running.work.running)
        assert room.used == 6, "what has not begun need not be waited for"
        assert queued.work.cancelled()
        finish.set()
        await until(lambda: room.used == 0)
        async with room.hold(10) as done:
            done.work = threads.submit(finish.wait, 30)
            await asyncio.wrap_future(done.work)
        assert room.used == 0
