from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING

import pytest

from service.engine.picture_threads import PictureThreads
from service.errors import NotReady
from tests.web.application import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LARGE, MEDIUM, SMALL = 10_000_000, 5_000_000, 1_000_000


@pytest.fixture
async def threads(request: pytest.FixtureRequest) -> AsyncIterator[PictureThreads]:
    """Two of them and one for small work, with room for two large pieces."""
    made = PictureThreads(*getattr(request, "param", (2, 2 * LARGE)))
    yield made
    made.close()


class Gate:
    """Work that waits in its thread until it is let go, and tells that it has begun."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go.wait(30)


def start(
    threads: PictureThreads, work: Callable[[], object], pixels: int = 0, client: str = ""
) -> asyncio.Task[object]:
    return asyncio.create_task(threads.run(work, pixels=pixels, client=client))


async def test_results_and_exceptions_come_back(threads: PictureThreads) -> None:
    assert await threads.run(lambda: 7, pixels=SMALL) == 7
    with pytest.raises(KeyError):
        await threads.run({}.popitem, pixels=SMALL)
    with pytest.raises(RuntimeError, match="StopIteration"):  # which no future can carry
        await asyncio.wait_for(threads.run(iter(()).__next__), 10)
    assert (len(threads), threads.used) == (0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has a niceness of its own")
async def test_workers_and_the_loop_go_first(threads: PictureThreads) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    of_the_loop = niceness()
    assert await threads.run(niceness, pixels=LARGE) > of_the_loop
    of_many = await asyncio.gather(*(threads.run(niceness, pixels=SMALL, client="many") for _ in range(3)))
    assert [each > of_the_loop for each in of_many] == [False, True, True]  # the first has none beside it yet
    assert niceness() == of_the_loop


@pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has a niceness of its own")
async def test_a_clients_only_small_work_goes_before_that_of_others(threads: PictureThreads) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    gate = Gate()
    large, small = start(threads, gate, LARGE, "bulk"), asyncio.create_task(threads.run(niceness, client="bulk"))
    assert await threads.run(niceness, pixels=SMALL, client="one") == niceness()
    gate.go.set()
    await large
    assert await small > niceness()


async def test_small_work_does_not_wait_behind_large_work(threads: PictureThreads) -> None:
    large = [Gate() for _ in range(6)]
    tasks = [start(threads, gate, LARGE, "bulk") for gate in large]
    await until(lambda: large[0].begun.is_set() and large[1].begun.is_set())
    assert await asyncio.wait_for(threads.run(lambda: "header"), 10) == "header"
    for gate in large:
        gate.go.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("threads", [(2, LARGE)], indirect=True)
async def test_no_more_pixels_are_worked_on_than_there_is_room_for(threads: PictureThreads) -> None:
    first, second = Gate(), Gate()
    tasks = [start(threads, first, LARGE), start(threads, second, LARGE // 2)]
    await until(first.begun.is_set)
    assert threads.used == LARGE
    assert not second.begun.is_set()
    first.go.set()
    await until(second.begun.is_set)
    assert threads.used == LARGE // 2
    second.go.set()
    await asyncio.gather(*tasks)
    assert await threads.run(lambda: threads.used, pixels=100 * LARGE) == LARGE, "more than all has all of it, alone"


@pytest.mark.parametrize("threads", [(2, 6 * MEDIUM)], indirect=True)
async def test_who_finds_no_room_is_passed_by_as_much_as_it_needs_itself_and_no_more(threads: PictureThreads) -> None:
    gate, order = Gate(), []
    running = start(threads, gate, MEDIUM)
    await until(gate.begun.is_set)

    def note(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    waiting = [start(threads, note("large"), 6 * MEDIUM, "one")]
    await asyncio.sleep(0)
    waiting += [start(threads, note("medium"), MEDIUM, str(client)) for client in range(30)]
    await until(lambda: len(order) >= 6)
    for _ in range(20):
        await asyncio.sleep(0)
    assert order == ["medium"] * 6, "it was its turn, and it is still waiting for the one that runs"
    gate.go.set()
    await asyncio.gather(running, *waiting)
    assert order[6] == "large"


@pytest.mark.parametrize("threads", [(2, LARGE)], indirect=True)
async def test_small_work_has_room_beside_what_takes_all_of_it(threads: PictureThreads) -> None:
    gate, small = Gate(), [Gate() for _ in range(2)]
    tasks = [start(threads, gate, 100 * LARGE, "bulk")]
    await until(gate.begun.is_set)
    tasks += [start(threads, each, 3 * SMALL, "many") for each in small]
    await until(small[0].begun.is_set)
    assert threads.used == LARGE + 3 * SMALL
    assert not small[1].begun.is_set(), "that room, too, has an end"
    small[0].go.set()
    await until(small[1].begun.is_set)
    for each in (gate, small[1]):
        each.go.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("client", ["bulk", "another"])
async def test_what_is_small_passes_however_much_waits(threads: PictureThreads, client: str) -> None:
    gates = [Gate() for _ in range(2)]
    running = [start(threads, gate, LARGE, "bulk") for gate in gates]
    await until(lambda: all(gate.begun.is_set() for gate in gates))
    waiting = [start(threads, lambda: None, LARGE, "bulk") for _ in range(100)]
    await asyncio.sleep(0)
    assert await asyncio.wait_for(threads.run(lambda: "small", pixels=0, client=client), 10) == "small"
    for gate in gates:
        gate.go.set()
    await asyncio.gather(*running, *waiting)


@pytest.mark.parametrize("threads", [(1, LARGE)], indirect=True)
async def test_clients_share_by_pixels_and_weight(threads: PictureThreads) -> None:
    gate, order = Gate(), []
    running = start(threads, gate, LARGE)
    await until(gate.begun.is_set)

    def ask(client: str, weight: float) -> asyncio.Task[None]:
        return asyncio.create_task(
            threads.run(lambda: order.append(client), pixels=LARGE, client=client, weight=weight)
        )

    tasks = [ask("bulk", 1) for _ in range(20)]
    await asyncio.sleep(0)
    tasks += [ask("heavy", 2) for _ in range(8)] + [ask("single", 1)]
    await asyncio.sleep(0)
    gate.go.set()
    await asyncio.gather(running, *tasks)
    assert order.index("single") <= 2, "one that asks for little does not wait for one that asked for much before"
    assert order[:13].count("heavy") == 8, "twice the weight, twice as many of the first"


async def test_work_that_nobody_waits_for_is_not_begun(threads: PictureThreads) -> None:
    gates = [Gate() for _ in range(2)]
    running = [start(threads, gate, LARGE) for gate in gates]
    begun: list[int] = []
    abandoned = [start(threads, lambda: begun.append(1), LARGE) for _ in range(5)]
    await until(lambda: all(gate.begun.is_set() for gate in gates))
    for task in abandoned:
        task.cancel()
    await asyncio.gather(*abandoned, return_exceptions=True)
    assert len(threads) == 2
    for gate in gates:
        gate.go.set()
    await asyncio.gather(*running)
    assert not begun


async def test_a_thread_that_works_for_nobody_keeps_its_room_to_its_end(threads: PictureThreads) -> None:
    gate = Gate()
    task = start(threads, gate, LARGE)
    await until(gate.begun.is_set)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert threads.used == LARGE
    gate.go.set()
    await until(lambda: threads.used == 0)


async def test_a_thread_that_waits_holds_nothing(threads: PictureThreads) -> None:
    class Large:
        pass

    async def result() -> weakref.ref[Large]:
        return weakref.ref(await threads.run(Large))

    made = await result()
    await until(lambda: gc.collect() >= 0 and made() is None)


async def test_closing_begins_nothing_more() -> None:
    threads, gate = PictureThreads(1, LARGE), Gate()
    running, waiting = start(threads, gate, LARGE), start(threads, gate, LARGE)
    await until(gate.begun.is_set)
    threads.close()
    with pytest.raises(NotReady):
        await waiting
    with pytest.raises(NotReady):
        await threads.run(lambda: None)
    gate.go.set()
    await running


def test_no_thread_keeps_the_process_from_ending() -> None:
    program = """
import asyncio, threading
from service.engine.picture_threads import PictureThreads

async def main():
    threads, begun = PictureThreads(1, 10), threading.Event()
    task = asyncio.create_task(threads.run(lambda: (begun.set(), threading.Event().wait())))
    while not begun.is_set():
        await asyncio.sleep(0.01)
    threads.close()
    task.cancel()

asyncio.run(main())
print("over")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "over"), ended.stderr
