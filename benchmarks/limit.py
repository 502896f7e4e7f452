"""What HTTP costs: pictures per second and the time of a lone request, against the same explanations in process.

Both sides have the same number of threads and take turns, so that a slow moment of the machine strikes both. Random
weights: nothing is downloaded, and speed does not depend on their values.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from benchmarks.crowd import crowd
from benchmarks.in_process import served
from benchmarks.over_http import scene_jpeg
from benchmarks.precisions import left_out, precisions
from benchmarks.results import Line, at_least, at_most
from benchmarks.sockets import head, server_port
from benchmarks.timed_front import seconds_in
from service.cam.targets import Targets, Top
from service.engine.cores import available_cores
from service.models.host import HowTo
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.crowd import Crowd
    from service.models.host import ModelHost
    from service.vocabulary import Output
    from tests.server import Server

T = TypeVar("T")

_OUTPUTS: tuple[Output, ...] = ("map", "heatmap")
_BATCH, _CLIENTS = 8, 16
_ROUNDS, _WARM_UP_S, _MEASURED_S = 4, 1.0, 3.0
_AT_REST = 0.05  # of a core
_RESNET, _SQUEEZENET = ("resnet50", "layer4"), ("squeezenet1_0", "features.12")
_FIVE = {
    "resnet50": ("layer4", "layer4.1", "layer4.0", "layer3", "layer3.4"),
    "squeezenet1_0": ("features.12", "features.11", "features.10", "features.9", "features.8"),
}
_AT_LEAST = {("map", "float32"): 0.95, ("map", "bfloat16"): 0.90}
_AT_LEAST |= {("heatmap", "float32"): 0.92, ("heatmap", "bfloat16"): 0.85}


def http_against_in_process() -> Iterator[str | Line]:
    """ResNet-50's layer4 over HTTP: 16 clients and a lone one, float32 and bfloat16, ``map`` and ``heatmap``."""
    yield from left_out()
    torch.set_num_threads(available_cores())  # as the only worker has
    models = [f"--model={precision}=resnet50:random,precision={precision}" for precision in precisions()]
    with (
        running_server(*models, "--log-level=warning") as server,
        tempfile.TemporaryDirectory() as folder,
        crowd(server_port(server), Path(folder)) as clients,
    ):
        _let_it_settle(server)
        yield from _throughput(server, clients)
        yield from _lone(clients)


@dataclass(frozen=True)
class _Pace:
    """How fast one side is, and what a picture takes of all cores, in seconds: of each process."""

    per_second: float
    cpu_s: tuple[float, ...]


def _throughput(server: Server, clients: Crowd) -> Iterator[Line]:
    for precision in precisions():
        measured = {"in process": partial(_in_process, _explaining(served("resnet50", precision), _BATCH))}
        for output in _OUTPUTS:
            measured[output] = partial(_over_http, server, clients, precision, output)
        paces = _by_turns(measured)
        here = paces["in process"]
        for output in _OUTPUTS:
            there = paces[output]
            ratio = statistics.median(a.per_second / b.per_second for a, b in zip(there, here, strict=True))
            (own,), (front, *workers) = _cpu_ms(here), _cpu_ms(there)
            yield at_least(
                _AT_LEAST[output, precision],
                ratio,
                f"ResNet-50 layer4, {precision}, {output}, {_CLIENTS} clients: {ratio:.2f} × in process with batches "
                f"of {_BATCH} ({statistics.median(each.per_second for each in there):.1f} to "
                f"{statistics.median(each.per_second for each in here):.1f} pictures/s); CPU for a picture: front "
                f"{front:.1f}, worker {sum(workers):.1f} ms, in process {own:.1f} ms",
            )


def _let_it_settle(server: Server) -> None:
    """Wait until a server does nothing: when its models answer, it measures how they are best computed."""
    pids = [server.process.pid, *children(server.process.pid)]
    busy = 1.0
    while busy > _AT_REST:
        before = sum(map(cpu_s, pids))
        time.sleep(1.0)
        busy = sum(map(cpu_s, pids)) - before


def _cpu_ms(paces: list[_Pace]) -> list[float]:
    return [1000 * statistics.median(each) for each in zip(*(pace.cpu_s for pace in paces), strict=True)]


def _by_turns(measured: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {name: [] for name in measured}
    for _ in range(_ROUNDS):
        for name, measure in measured.items():
            found[name].append(measure())
    return found


def _explaining(model: ModelHost, batch: int, layers: tuple[str, ...] = ("layer4",), top: int = 1) -> Callable[[], Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    asked = [Targets((Top(top),))] * batch, HowTo(layers, ("gradcam",))
    return partial(model.explain, pixels, *asked, gives_way=False)


def _in_process(explain: Callable[[], Any]) -> _Pace:
    explain()
    began, used, runs = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < began + _MEASURED_S:
        explain()
        runs += _BATCH
    return _Pace(runs / (time.perf_counter() - began), ((time.process_time() - used) / runs,))


def _request(model: str, output: str) -> bytes:
    picture = scene_jpeg()
    return head(f"/api/v1/models/{model}/explain?output={output}", len(picture), "image/jpeg") + picture


def _over_http(server: Server, clients: Crowd, model: str, output: str) -> _Pace:
    pids = [server.process.pid, *children(server.process.pid)]
    before = [cpu_s(pid) for pid in pids]
    answers = clients.ask(_request(model, output), _CLIENTS, warm_up_s=_WARM_UP_S, seconds=_MEASURED_S)
    used = (cpu_s(pid) - was for pid, was in zip(pids, before, strict=True))
    return _Pace(answers.per_second, tuple(each / answers.all for each in used))


def _lone(clients: Crowd) -> Iterator[Line]:
    """One client, against the explanation of one picture."""
    measured = {"in process": partial(_median_s, _explaining(served("resnet50"), 1))}
    for output in _OUTPUTS:
        measured[output] = partial(_lone_s, clients, output)
    times = _by_turns(measured)
    for output in _OUTPUTS:
        ratio = statistics.median(a / b for a, b in zip(times[output], times["in process"], strict=True))
        each = {name: 1000 * statistics.median(values) for name, values in times.items()}
        yield at_most(
            1.15,
            ratio,
            f"ResNet-50 layer4, float32, {output}, a lone request: {ratio:.2f} × in process ({each[output]:.0f} "
            f"against {each['in process']:.0f} ms)",
        )


def _lone_s(clients: Crowd, output: str) -> float:
    answers = clients.ask(_request("float32", output), 1, warm_up_s=_WARM_UP_S / 2, seconds=_MEASURED_S / 2)
    return statistics.median(answers.seconds)


def _median_s(work: Callable[[], Any]) -> float:
    took = []
    work()
    end = time.perf_counter() + _MEASURED_S / 2
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


# -- the front --------------------------------------------------------------------------------------------------------


def cpu_of_the_front() -> Iterator[Line]:
    """What a request costs the front beyond decoding, resizing and drawing, in CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        counted = Path(folder, "seconds")
        with (
            running_server(
                "--model=squeezenet1_0:random",
                "--log-level=warning",
                program=("benchmarks.timed_front", str(counted)),
            ) as server,
            crowd(server_port(server), Path(folder)) as clients,
        ):
            _let_it_settle(server)
            for output in _OUTPUTS:
                costs = [_front_cpu_ms(server.process.pid, counted, clients, output) for _ in range(_ROUNDS)]
                front, pictures = (statistics.median(each) for each in zip(*costs, strict=True))
                beyond = statistics.median(whole - part for whole, part in costs)
                yield at_most(
                    1.0,
                    beyond,
                    f"front, 500×375 JPEG, {output}: {beyond:.2f} ms of CPU per request beyond decode, resize and "
                    f"drawing ({front:.2f} less {pictures:.2f}, {_CLIENTS} clients)",
                    "ms",
                )


def _front_cpu_ms(pid: int, counted: Path, clients: Crowd, output: str) -> tuple[float, float]:
    """CPU milliseconds of the front for each answer, and what of them decoding, resizing and drawing are."""
    request = _request("squeezenet1_0", output)
    before = cpu_s(pid), seconds_in(counted)
    answers = clients.ask(request, _CLIENTS, warm_up_s=0.0, seconds=_MEASURED_S)
    whole, pictures = cpu_s(pid) - before[0], seconds_in(counted) - before[1]
    return 1000 * whole / answers.all, 1000 * pictures / answers.all


def children(pid: int) -> list[int]:
    """Return the processes that a process has started: of the front, its workers."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, by its scheduler's nanoseconds; threads that have ended do not count."""
    return (
        sum(int((thread / "schedstat").read_text().split()[0]) for thread in Path(f"/proc/{pid}/task").iterdir()) / 1e9
    )


# -- sharing ----------------------------------------------------------------------------------------------------------


def targets_and_layers() -> Iterator[Line]:
    """Ten targets, and five layers, of one picture against one, ResNet-50 and SqueezeNet 1.0."""
    torch.set_num_threads(available_cores())
    for name, layer in (_RESNET, _SQUEEZENET):
        model = served(name)
        runs = {
            "one": _explaining(model, 1, (layer,)),
            "ten": _explaining(model, 1, (layer,), top=10),
            "five": _explaining(model, 1, _FIVE[name]),
        }
        times = _by_turns({run: partial(_median_s, work) for run, work in runs.items()})
        ratios = {
            run: statistics.median(a / b for a, b in zip(times[run], times["one"], strict=True))
            for run in ("ten", "five")
        }
        yield at_most(1.3, ratios["ten"], f"{name} {layer}: 10 targets cost {ratios['ten']:.2f} × one")
        yield at_most(1.5, ratios["five"], f"{name}, {', '.join(_FIVE[name])}: {ratios['five']:.2f} × the last layer")


# -- memory -----------------------------------------------------------------------------------------------------------

_PEAK = """
import sys
from benchmarks.limit import peak_mb
print(*peak_mb(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""


def peak_mb(name: str, precision: str, layer: str, batch: int) -> tuple[float, float]:
    """Return the megabytes that this process held at most while a model was loaded, and while it explained batches."""
    torch.set_num_threads(available_cores())
    model = served(name, precision)
    loaded = _high_water_mb()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # begins to count anew
    explain = _explaining(model, batch, (layer,))
    for _ in range(3):
        explain()
    return loaded, _high_water_mb()


def _high_water_mb() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def memory_of_a_worker() -> Iterator[str]:
    """Peak RSS of a process that computes as a worker does, by model and batch."""
    for name, layer in (_RESNET, _SQUEEZENET):
        for precision in precisions():
            found = {}
            for batch in (1, 8, 16):
                command = [sys.executable, "-c", _PEAK, name, precision, layer, str(batch)]
                ran = subprocess.run(command, check=True, capture_output=True, text=True)
                loaded, found[batch] = map(float, ran.stdout.split())
            peaks = ", ".join(f"{peak:.0f} MB for a batch of {batch}" for batch, peak in found.items())
            yield f"{name}, {precision}: at most {loaded:.0f} MB while it loads, then {peaks}"
