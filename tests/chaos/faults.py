"""The faults of a chaos run: each is brought about, and says what was not as promised."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.chaos.traffic import LAYERS, METHODS, REFUSED_MODEL, SLOW_METHOD, Asked
from tests.faults import Fault, picture

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.chaos.traffic import Answered, Traffic

OTHERS = 7


class Scene:
    """What faults act on: the server, its workers, the folder that the faulty model looks at."""

    def __init__(self, traffic: Traffic, folder: Path, url: str, max_queue: int) -> None:
        self.traffic, self.folder, self.url, self.max_queue = traffic, folder, url, max_queue
        self._serial = 1000

    async def readiness(self) -> dict[str, Any]:
        """Ask the server how it is."""
        found: dict[str, Any] = (await self.traffic.client.get("/readyz")).json()
        return found

    async def pids(self) -> list[int]:
        """Return the process ids of the workers, the busiest first."""
        workers = (await self.readiness())["workers"]
        return [each["pid"] for each in sorted(workers, key=lambda each: -each["batches"]) if each["pid"]]

    def poison(self, fault: Fault, times: int = 255) -> bytes:
        """Draw a picture that was never used before."""
        self._serial += 1
        return picture(self._serial, fault, times=times)

    def happened(self) -> int:
        """Count the faults of pictures that are limited to a number of times."""
        return len(list(self.folder.iterdir()))

    def some(self, n: int) -> tuple[int, ...]:
        """Choose ``n`` good pictures, with repetition."""
        return tuple(self.traffic.rng.choices(sorted(self.traffic.images), k=n))


async def _kill(scene: Scene, number: signal.Signals, *, everyone: bool = False) -> None:
    pids = await scene.pids()
    for pid in pids if everyone else pids[:1]:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, number)


async def worker_killed(scene: Scene) -> list[str]:
    """SIGKILL for a worker in mid-batch: its pictures are answered by another."""
    asked = Asked(seeds=scene.some(OTHERS), files=(scene.poison(Fault.SLOW, times=1),))
    request = asyncio.create_task(scene.traffic.ask(asked))
    await asyncio.sleep(0.4)  # of the second that the batch takes
    busy = await _one_is_busy(scene, request)
    await _kill(scene, signal.SIGKILL)
    return ([] if busy else ["no worker was busy"]) + _unless(await request, codes=[None])


async def _one_is_busy(scene: Scene, request: asyncio.Task[Answered]) -> bool:
    """Wait for the moment in which a worker computes; on a slow machine the request may still be on its way to it."""
    while not request.done():
        if any(worker["batches"] for worker in (await scene.readiness())["workers"]):
            return True
        await asyncio.sleep(0.02)
    return False


async def all_workers_killed(scene: Scene) -> list[str]:
    """SIGKILL for all workers at once."""
    await _kill(scene, signal.SIGKILL, everyone=True)
    return []


async def worker_frozen(scene: Scene) -> list[str]:
    """SIGSTOP: alive for the system, dead for everybody else."""
    await _kill(scene, signal.SIGSTOP)
    return []


def _lost_once(fault: Fault) -> Callable[[Scene], Awaitable[list[str]]]:
    """A picture that takes its worker down the first time: it and all others are answered."""

    async def inject(scene: Scene) -> list[str]:
        answered = await scene.traffic.ask(Asked(seeds=scene.some(OTHERS), files=(scene.poison(fault, times=1),)))
        return _unless(answered, codes=[None])

    return inject


def _poison(fault: Fault, code: str) -> Callable[[Scene], Awaitable[list[str]]]:
    """One poisoned picture among 32: 31 are answered."""

    async def inject(scene: Scene) -> list[str]:
        answered = await scene.traffic.ask(Asked(seeds=scene.some(31), files=(scene.poison(fault),)))
        return _unless(answered, codes=[code])

    return inject


async def deadly_picture(scene: Scene) -> list[str]:
    """A picture that kills every worker: it is tried twice, and all others are answered."""
    before = scene.happened()
    answered = await scene.traffic.ask(Asked(seeds=scene.some(OTHERS), files=(scene.poison(Fault.EXIT, times=9),)))
    times = scene.happened() - before
    return _unless(answered, codes=["internal_error"]) + ([f"it was tried {times} times"] if times > 2 else [])


async def out_of_memory(scene: Scene) -> list[str]:
    """No more than three pictures fit on the device, for a while."""
    limit = scene.folder / "memory"
    limit.write_text("3")
    try:
        answered = await asyncio.gather(*(scene.traffic.ask(Asked(seeds=scene.some(8))) for _ in range(4)))
    finally:
        limit.unlink()
    return [complaint for each in answered for complaint in _unless(each)]


async def crash_loop(scene: Scene) -> list[str]:
    """No worker can start: readiness says so, the process is alive, and requests are refused at once."""
    door = scene.folder / "load"
    door.touch()
    try:
        await _kill(scene, signal.SIGKILL, everyone=True)
        return await _wait_for_unavailable(scene)
    finally:
        door.unlink()


async def _wait_for_unavailable(scene: Scene) -> list[str]:
    for _ in range(6000):
        if (await scene.readiness())["status"] == "unavailable":
            break
        await asyncio.sleep(0.1)
    else:
        return ["readiness never said unavailable"]
    alive = (await scene.traffic.client.get("/livez")).status_code
    refused = await scene.traffic.ask(Asked(seeds=scene.some(1)))
    complaints = [] if alive == 200 else [f"/livez says {alive}"]
    return complaints + ([] if refused.code == "not_ready" else [f"{refused} instead of a refusal"])


async def clients_gone(scene: Scene) -> list[str]:
    """Clients that do not wait for their answers."""
    tasks = [asyncio.create_task(scene.traffic.ask(scene.traffic.any_request())) for _ in range(30)]
    for task in tasks:
        await asyncio.sleep(scene.traffic.rng.uniform(0, 0.01))
        task.cancel()
    gone = await asyncio.gather(*tasks, return_exceptions=True)
    scene.traffic.sent -= sum(isinstance(each, asyncio.CancelledError) for each in gone)
    return []


async def short_deadlines(scene: Scene) -> list[str]:
    """Deadlines that pass in every stage."""
    rng = scene.traffic.rng
    asked = [scene.traffic.ask(scene.traffic.any_request(), timeout_ms=rng.randint(1, 40)) for _ in range(30)]
    # Thirty requests of up to four pictures, beside the traffic, may be more than the queue has room for.
    codes = {"deadline_exceeded", "overloaded"}
    return [complaint for each in await asyncio.gather(*asked) for complaint in _unless(each, codes)]


async def overload(scene: Scene) -> list[str]:
    """Three times as many pictures at once as there is room for."""
    asked = [scene.traffic.ask(Asked(seeds=scene.some(4))) for _ in range(3 * scene.max_queue // 4)]
    answered = await asyncio.gather(*asked)
    refused = sum(each.code == "overloaded" for each in answered)
    complaints = [complaint for each in answered for complaint in _unless(each, {"overloaded"})]
    return complaints + ([] if refused else ["nobody was refused"])


async def bad_files(scene: Scene) -> list[str]:
    """A bomb, a cut picture and a text among good pictures."""
    size = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")
    files = (bomb, picture(1)[:200], b"not a picture at all")
    answered = await scene.traffic.ask(Asked(seeds=scene.some(OTHERS), files=files))
    return _unless(answered, codes=["image_too_large", "invalid_image", "invalid_image"])


async def rows_that_depend_on_each_other(scene: Scene) -> list[str]:
    """A model whose answers depend on who else is in the batch: refused when it was loaded, and the reason is given."""
    entry = (await scene.traffic.client.get(f"/api/v1/models/{REFUSED_MODEL}")).json()
    answered = await scene.traffic.ask(Asked(model=REFUSED_MODEL, seeds=()))
    reasons = [] if "batch" in str(entry["reason"]) else [f"the reason is {entry['reason']}"]
    return reasons + ([] if answered.code == "not_ready" else [f"{answered} instead of a refusal"])


async def batches_of_one_model_at_once(scene: Scene) -> list[str]:
    """Slow and quick batches, of several layers, that want the same model at the same moment."""
    kinds = [(method, layer) for method in (*METHODS, SLOW_METHOD) for layer in LAYERS]
    asked = [Asked(method=method, layer=layer, seeds=scene.some(2)) for method, layer in kinds for _ in range(3)]
    answered = await asyncio.gather(*(scene.traffic.ask(each) for each in asked))
    return [complaint for each in answered for complaint in _unless(each, {"overloaded"})]


async def slow_clients(scene: Scene) -> list[str]:
    """Heads that trickle in, and answers that nobody takes, on forty connections; the others notice nothing."""
    address = urlsplit(scene.url)
    asking = f"GET /openapi.json HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    held = []
    for number in range(40):
        connection = socket.create_connection((address.hostname, address.port), timeout=30)
        connection.sendall(asking[:20] if number % 2 else asking * 8)
        held.append(connection)
    answered = await asyncio.gather(*(scene.traffic.ask(scene.traffic.any_request()) for _ in range(20)))
    for connection in held:
        connection.close()
    return [complaint for each in answered for complaint in _unless(each)]


async def disk_full(scene: Scene) -> list[str]:
    """Weights that do not fit on the disk: the model says so, nothing is left behind, and the server notices nothing.

    A limit on the size of files stands in for a small disk: the write fails half-way, as on a full one.
    """
    folder = scene.folder / "disk"
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "squeezenet1_1-b8a52dc0.pth").write_bytes(bytes(4_000_000))  # torchvision's name for it
    arguments = ["--model", "squeezenet1_1", "--cache-dir", str(cache), "--weights-mirror", f"file://{folder}"]
    limited = ["bash", "-c", 'ulimit -f 1000 && exec "$@"', "bash", sys.executable, "-m", "service.cli", "layers"]
    process = await asyncio.create_subprocess_exec(
        *limited, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    last = said.decode().strip().rpartition("\n")[2]
    left = [str(file) for file in cache.rglob("*") if file.is_file()]
    complaints = [] if process.returncode == 1 and "cannot be kept" in last else [f"{process.returncode}: {last}"]
    return complaints + ([f"left behind: {left}"] if left else [])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


async def bodies_cut_off(scene: Scene) -> list[str]:
    """Uploads that stop in the middle; half of their clients stay connected for a while, saying nothing."""
    address = urlsplit(scene.url)
    key = scene.traffic.client.headers["Authorization"]
    head = (
        f"POST /api/v1/explain HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
        "Content-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    )
    silent = []
    for number in range(20):
        connection = socket.create_connection((address.hostname, address.port), timeout=30)
        connection.sendall(head.encode() + b"\x89PNG" * 100)
        if number % 2:
            silent.append(connection)
        else:
            connection.close()
    answered = await scene.traffic.ask(Asked(seeds=scene.some(1)))
    for connection in silent:
        connection.close()
    return _unless(answered, {"overloaded"})


def _unless(answered: Answered, excuses: set[str] | None = None, codes: list[str | None] | None = None) -> list[str]:
    """Complain unless all good pictures were answered, or excused, and faulty ones have the error they should."""
    excused = answered.verdict == "error" and answered.code in (excuses or {"overloaded", "not_ready"})
    if answered.verdict != "right" and not excused:
        return [f"{answered.verdict} {answered.code or ''} {answered.why}"]
    if codes is not None and not excused and answered.codes != codes:
        return [f"the faulty pictures have {answered.codes}, not {codes}"]
    return []


FAULTS: dict[str, Callable[[Scene], Awaitable[list[str]]]] = {
    "killed in mid-batch": worker_killed,
    "all workers killed": all_workers_killed,
    "worker frozen": worker_frozen,
    "worker exits": _lost_once(Fault.EXIT),
    "worker segfaults": _lost_once(Fault.SEGFAULT),
    "batch hangs": _lost_once(Fault.HANG),
    "device assertion": _lost_once(Fault.DEVICE_ASSERT),
    "workers cannot start": crash_loop,
    "out of memory": out_of_memory,
    "poison of 32: raises": _poison(Fault.RAISE, "internal_error"),
    "poison of 32: sys.exit()": _poison(Fault.SYSTEM_EXIT, "internal_error"),
    "poison of 32: NaN": _poison(Fault.NAN, "model_output"),
    "deadly picture": deadly_picture,
    "bad files": bad_files,
    "clients gone": clients_gone,
    "short deadlines": short_deadlines,
    "overload": overload,
    "bodies cut off": bodies_cut_off,
    "slow clients": slow_clients,
    "one model, many batches": batches_of_one_model_at_once,
    "dependent rows": rows_that_depend_on_each_other,
    "disk full": disk_full,
}
