"""The worker process: owns a device, holds the models, computes batches. The front process starts it.

It hears from the front process over the socket that it inherits, and ends when that closes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from service import logs
from service.cam.raw_map import RawMap
from service.engine.isolation import run_isolated
from service.engine.messages import (
    Cancel,
    Failed,
    Hello,
    Loaded,
    Ping,
    Pong,
    Progress,
    Ran,
    RowAnswer,
    Run,
    Start,
    pack,
    receive,
)
from service.errors import InternalError, ModelLoadError, ServiceError
from service.models.host import HowTo, load_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from service.cam.explain import Checkpoint
    from service.engine.messages import Message
    from service.models.host import ModelHost
    from service.settings import ModelConfig

log = logging.getLogger("camserve.worker")

# A CUDA context that has seen a device-side assert is dead for good: only a new process helps.
_DEVICE_LOST = 70
_THREAD_LOST = 71

# How allocators that raise no exception of a class of their own say it: the CPU's, cuBLAS', Apple's.
_NO_MEMORY = ("can't allocate memory", "ALLOC_FAILED", "out of memory")

_TELL_EVERY_S = 0.5

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Worker:
    """Reads messages, loads models in one thread, computes batches in others."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._sending = threading.Lock()
        self._hosts: dict[str, ModelHost] = {}
        self._computing: set[int] = set()
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Serve until the front process goes away."""
        start = receive(self._stream)
        if not isinstance(start, Start):
            return
        logs.configure(start.log_level, start.log_format)
        torch.set_num_threads(start.threads)
        devices = _devices(start.device)
        self._send(Hello(devices[0], devices))
        threading.Thread(target=self._load, args=(start, devices[0]), daemon=True).start()
        # One thread more than there are quick batches: a slow one runs beside them.
        with ThreadPoolExecutor(start.concurrency + 1, "batch") as threads:
            while (message := receive(self._stream)) is not None:
                match message:
                    case Run(batch):
                        self._computing.add(batch)
                        threads.submit(self._compute_or_die, message)
                    case Cancel(batch) if batch in self._computing:
                        self._cancelled.add(batch)
                    case Ping():
                        self._send(Pong(_device_bytes(devices[0])))
            os._exit(0)  # nobody is left to hear of a batch that still computes

    def _load(self, start: Start, device: str) -> None:
        for config in start.models:
            self._send(self._load_one(config, start, device))

    def _load_one(self, config: ModelConfig, start: Start, device: str) -> Message:
        began = time.monotonic()
        try:
            _require(device)
            host = load_model(config, device, start.downloads)
        except ServiceError as error:
            log.error("model %s cannot be loaded: %s", config.name, error.message)
            return Failed(config.name, error.message)
        except Exception:
            log.exception("model %s cannot be loaded", config.name)
            return Failed(config.name, "Loading failed unexpectedly; the log of the service has the reason.")
        self._hosts[config.name] = host
        log.info("model %s is ready on %s after %.1f s", config.name, device, time.monotonic() - began)
        return Loaded(host.info)

    def _compute_or_die(self, run: Run) -> None:
        try:
            self._compute(run)
        except BaseException:
            # Nobody would answer this batch any more; a new worker computes it once more.
            log.critical("a batch of model %s ended its thread, this worker ends", run.lane.model, exc_info=True)
            os._exit(_THREAD_LOST)
        finally:
            self._computing.discard(run.batch)
            self._cancelled.discard(run.batch)

    def _compute(self, run: Run) -> None:
        host = self._hosts[run.lane.model]
        began = time.monotonic()
        between = self._between(run)

        def compute(rows: range) -> list[RowAnswer]:
            return _answer(host, run, rows, between)

        isolated = run_isolated(compute, range(len(run.questions)), _is_out_of_memory, _release)  # type: ignore[arg-type]
        outcomes = []
        for request, outcome in zip(run.request_ids, isolated.outcomes, strict=True):
            with logs.about(request):
                outcomes.append(_presentable(outcome, run))
        self._send(Ran(run.batch, outcomes, time.monotonic() - began, isolated.fits, isolated.splits))

    def _between(self, run: Run) -> Checkpoint:
        """Between the steps of a slow answer: give up if nobody waits any more, and tell how far it is."""
        told = time.monotonic()

        def between(done: int, total: int) -> None:
            nonlocal told
            if run.batch in self._cancelled:
                raise InternalError("Nobody waits for this answer any more.")
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                self._send(Progress(run.batch, done / total))

        return between

    def _send(self, message: Message) -> None:
        try:
            with self._sending:
                self._connection.sendall(pack(message))
        except OSError:
            os._exit(0)  # the front process is gone


def _answer(host: ModelHost, run: Run, rows: range, between: Checkpoint) -> list[RowAnswer]:
    pixels, lane = run.pixels[rows.start : rows.stop], run.lane
    if lane.op == "predict":
        return [RowAnswer(logits) for logits in host.predict(pixels, lane.head).numpy()]
    questions = run.questions[rows.start : rows.stop]
    how = HowTo(lane.layers, lane.methods, lane.variant, lane.head)
    answers = host.explain(pixels, questions, how, between)
    return [RowAnswer(row.logits.numpy().copy(), tuple(_as_numpy(raw) for raw in row.maps)) for row in answers]


def _as_numpy(raw: RawMap[Tensor]) -> RawMap[NDArray[np.float32]]:
    # A copy: a row's view would drag the whole batch's array through the pickle.
    return RawMap(raw.layer, raw.method, raw.target, raw.values.numpy().copy(), raw.zero_gradient)


def _presentable(outcome: RowAnswer | Exception, run: Run) -> RowAnswer | ServiceError:
    if isinstance(outcome, RowAnswer | ServiceError):
        return outcome
    if isinstance(outcome, torch.AcceleratorError):
        log.critical("the device is lost, this worker ends: %s", outcome)
        os._exit(_DEVICE_LOST)
    log.error("model %s failed on a picture", run.lane.model, exc_info=outcome)
    if _is_out_of_memory(outcome):
        return InternalError("The device has too little memory for this picture and these options.")
    return InternalError("The model failed on this picture; the log of the service has the reason.")


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def _release() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device_bytes(device: str) -> dict[str, int]:
    if not device.startswith("cuda"):
        return {}
    return {"allocated": torch.cuda.memory_allocated(device), "reserved": torch.cuda.memory_reserved(device)}


def _devices(wanted: str) -> tuple[str, ...]:
    """Return the devices that ``wanted`` stands for; a worker takes the first."""
    if wanted in {"auto", "cuda"} and torch.cuda.is_available():
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return ("cpu",) if wanted == "auto" else (wanted,)


def _require(device: str) -> None:
    """Raise ModelLoadError, in words, where this machine has no such device; torch would name a function of its own."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        words = str(error).splitlines()[0]
        found = f"{torch.cuda.device_count()} CUDA devices"
        raise ModelLoadError(f"The device {device!r} cannot be used; this machine has {found}. ({words})") from error


def main() -> None:
    """Take over the inherited socket and serve."""
    # Ctrl-C reaches the whole process group; the front process decides when workers end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with_the_front()
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()


def _die_with_the_front() -> None:
    """Have the kernel kill this process when its parent is gone: one that hangs does not see its socket close."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
