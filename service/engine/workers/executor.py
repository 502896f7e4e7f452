"""Loads models and computes batches on one device, in threads of its own.

It hears and says messages, and does not know how they travel: over a socket in a worker process, or within this one.

Runs in the worker process, or in whatever process calls it.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from service import logs
from service.engine.messages import (
    Cancel,
    Hello,
    Load,
    ModelComputes,
    ModelFailed,
    ModelLoaded,
    ModelProgress,
    ModelUnloaded,
    Ping,
    Pong,
    Progress,
    Ran,
    RowAnswer,
    Run,
    Unload,
)
from service.engine.workers.counterparts import Asked, as_answers
from service.engine.workers.give_way import GiveWay
from service.engine.workers.isolation import run_isolated
from service.engine.workers.threads import BatchThreads, OneByOne
from service.engine.workers.verifying import Examined
from service.errors import InternalError, ModelLoadError, ServiceError, first_line
from service.model_config import whole_device
from service.models.host import HowTo
from service.models.loading import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from service.cam.explain import Checkpoint
    from service.engine.messages import FromWorker, Start, ToWorker
    from service.models.host import ModelHost
    from service.models.info import ModelKey
    from service.verification.region import View

__all__ = ["DEVICE_LOST", "THREAD_LOST", "Executor", "devices_for", "require_device"]

log = logging.getLogger("camserve.worker")

# Why a worker cannot go on, as exit codes. A CUDA context that has seen a device-side assert is dead for good.
DEVICE_LOST = 70
THREAD_LOST = 71

# How allocators that raise no exception of a class of their own say it: the CPU's, cuBLAS', Apple's.
_NO_MEMORY = ("can't allocate memory", "ALLOC_FAILED", "out of memory")

_TELL_EVERY_S = 0.5


class Executor:
    """Holds the models of one worker.

    Args:
        start: where and how to compute.
        tell: takes what the worker has to say; called from several threads.
        die: ends the worker, with an exit code that says why; called from a thread of a batch.
    """

    def __init__(self, start: Start, tell: Callable[[FromWorker], None], die: Callable[[int], None]) -> None:
        torch.set_num_threads(start.threads)
        self._start = start
        self._tell = tell
        self._die = die
        self._devices = devices_for(start.device)
        self._shares_cores = self._devices[0] == "cpu"
        self._hosts: dict[ModelKey, ModelHost] = {}
        self._computing: set[int] = set()
        self._cancelled: set[int] = set()
        self._changing = threading.Lock()
        self._telling_how = threading.Lock()
        self._closed = False
        self._give_way = GiveWay()
        self._loads = OneByOne("load")
        # One thread more than there are small batches: a large one runs beside them.
        self._batches = BatchThreads(start.concurrency + 1, partial(torch.set_num_threads, start.threads))
        tell(Hello(self._devices[0], self._devices))

    def hear(self, message: ToWorker) -> None:
        """Begin what a message asks for; returns at once."""
        match message:
            case Load():
                self._loads.submit(partial(self._or_die, self._load, message))
            case Unload():
                self._loads.submit(partial(self._or_die, self._unload, message))
            case Run(batch):
                self._computing.add(batch)
                self._batches.submit(partial(self._or_die, self._compute, message))
            case Cancel(batch):
                with self._changing:
                    if batch in self._computing:
                        self._cancelled.add(batch)
            case Ping():
                self._tell(Pong(_device_bytes(self._devices[0])))

    def close(self) -> None:
        """Begin nothing new, and stop batches at their next step."""
        self._closed = True
        self._loads.close()
        self._batches.close()
        with self._changing:
            self._cancelled |= self._computing

    def _or_die(self, work: Callable[[ToWorker], None], message: ToWorker) -> None:
        try:
            work(message)
        except BaseException:
            # Nobody would answer this message any more; a new worker does it once more.
            log.critical("%s ended its thread, this worker ends", type(message).__name__, exc_info=True)
            self._die(THREAD_LOST)

    # -- models -------------------------------------------------------------------------------------------------------

    def _load(self, message: ToWorker) -> None:
        assert isinstance(message, Load)
        answer = self._loaded(message)
        gc.collect()
        _release()  # what checking it took, which is more than ResNet-50 itself
        self._tell(answer)
        if isinstance(answer, ModelLoaded) and not self._start.expendable:
            self._loads.submit(partial(self._or_die, self._divide, message))  # behind models that wait to be loaded

    def _divide(self, message: ToWorker) -> None:
        assert isinstance(message, Load)
        host = self._hosts.get(message.key)
        if host is None or self._closed:
            return
        try:
            host.compute_in_parts()
        except BaseException:  # of a model's code, which may raise anything: batches stay whole
            log.exception("model %s is not computed in parts", message.config.name)
            host.stay_whole("Finding out whether parts are quicker failed; the log has the reason.")
        host.note_straying()
        self._tell_how(message.key, host)

    def _tell_how(self, key: ModelKey, host: ModelHost) -> None:
        with self._telling_how:  # a thread that read it before another one changed it would have the last word
            self._tell(ModelComputes(key, host.info.computing))

    def _loaded(self, load: Load) -> ModelLoaded | ModelFailed:
        name, began = load.config.name, time.monotonic()
        # Workers are given what belongs on their device; the process that tries models is given any.
        device = whole_device(load.config.device or self._devices[0])
        try:
            require_device(device)
            before = _allocated(device)
            host = load_model(
                load.config,
                device,
                self._start.downloads,
                lambda fraction, stage: self._tell(ModelProgress(load.key, fraction, stage)),
            )
        except ServiceError as error:
            log.error("model %s cannot be loaded: %s", name, error.message)
            return ModelFailed(load.key, error.message)
        except BaseException:  # of a model's code, which may raise anything: the worker and its other models go on
            log.exception("model %s cannot be loaded", name)
            return ModelFailed(load.key, "Loading failed unexpectedly; the log of the service has the reason.")
        self._hosts[load.key] = host
        log.info("model %s is ready on %s after %.1f s", name, device, time.monotonic() - began)
        memory = max(host.info.memory, _allocated(device) - before)
        return ModelLoaded(load.key, replace(host.info, revision=load.key.revision, memory=memory))

    def _unload(self, message: ToWorker) -> None:
        assert isinstance(message, Unload)
        self._hosts.pop(message.key, None)
        gc.collect()  # a module that refers to itself, as users' own do, goes only now
        _release()
        self._tell(ModelUnloaded(message.key))

    # -- batches ------------------------------------------------------------------------------------------------------

    def _compute(self, run: ToWorker) -> None:
        assert isinstance(run, Run)
        try:
            ran = self._ran(run)
            self._batches.free()
            self._tell(ran)
            host = self._hosts.get(run.lane.model)
            if host is not None and host.note_straying():
                self._tell_how(run.lane.model, host)
        finally:
            with self._changing:
                self._computing.discard(run.batch)
                self._cancelled.discard(run.batch)

    def _ran(self, run: Run) -> Ran:
        began = time.monotonic()
        host = self._hosts.get(run.lane.model)
        if host is None:
            gone = InternalError("The model was dropped before this picture was computed.")
            return Ran(run.batch, [gone] * len(run.targets), 0.0, None, 0)
        give_way = self._give_way if self._shares_cores else None
        checkpoint = _Checkpoint(run, self._cancelled, self._tell, give_way)

        def compute(rows: range) -> list[RowAnswer]:
            checkpoint.heed()  # before it waits for the model, too
            try:
                return _answer(host, run, rows, checkpoint)
            except Exception:
                raise
            except BaseException as error:  # the thread, and the worker with it, would end
                raise RuntimeError(f"The code of the model calls sys.exit() or the like: {error!r}") from error

        small = nullcontext() if run.lane.large else self._give_way.small(run.batch, run.lane.model)
        with small:
            isolated = run_isolated(compute, range(len(run.targets)), _is_out_of_memory, _release)  # type: ignore[arg-type]
        outcomes = []
        for request, outcome in zip(run.request_ids, isolated.outcomes, strict=True):
            with logs.about(request):
                outcomes.append(self._presentable(outcome, run))
        ended = time.monotonic()
        undisturbed = not run.lane.large and not isolated.splits
        alone_s = ended - checkpoint.began if undisturbed and checkpoint.began is not None else None
        return Ran(run.batch, outcomes, ended - began, isolated.fits, isolated.splits, alone_s)

    def _presentable(self, outcome: RowAnswer | Exception, run: Run) -> RowAnswer | ServiceError:
        if isinstance(outcome, RowAnswer | ServiceError):
            return outcome
        if isinstance(outcome, torch.AcceleratorError):
            log.critical("the device is lost, this worker ends: %s", outcome)
            self._die(DEVICE_LOST)
        log.error("model %s failed on a picture", run.lane.model.name, exc_info=outcome)
        if _is_out_of_memory(outcome):
            return InternalError("The device has too little memory for this picture and these options.")
        return InternalError("The model failed on this picture; the log of the service has the reason.")


class _Checkpoint:
    """Called when a batch has its model, and between its steps: gives up if nobody waits, and tells how far it is.

    ``began`` is when it was called first.
    """

    def __init__(
        self, run: Run, cancelled: Collection[int], tell: Callable[[FromWorker], None], give_way: GiveWay | None
    ) -> None:
        self._run, self._cancelled, self._tell = run, cancelled, tell
        self._give_way = give_way if run.lane.large else None
        self._told = time.monotonic()
        self.began: float | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.began is None:
            self.began = now
        if self._give_way is not None:
            self._give_way.wait(self._run.lane.model)
        self.heed()
        if now - self._told > _TELL_EVERY_S:
            self._told = now
            self._tell(Progress(self._run.batch, done / total))

    def heed(self) -> None:
        """Give up if nobody waits."""
        if self._run.batch in self._cancelled:
            raise InternalError("Nobody waits for this answer any more.")


def _answer(host: ModelHost, run: Run, rows: range, checkpoint: Checkpoint) -> list[RowAnswer]:
    pixels, lane = run.pixels[rows.start : rows.stop], run.lane
    if lane.op == "predict":
        return [RowAnswer(logits) for logits in host.predict(pixels, lane.head, checkpoint, lane.sentences).numpy()]
    targets = run.targets[rows.start : rows.stop]
    if lane.verify:
        asked = (Asked(host, lane, *row, checkpoint) for row in zip(pixels, targets, strict=True))
        return [_proved(each, view) for each, view in zip(asked, run.views[rows.start : rows.stop], strict=True)]
    how = HowTo(lane.layers, lane.methods, lane.cam_options, lane.head, lane.sentences)
    return as_answers(host.explain(pixels, targets, how, checkpoint, gives_way=lane.large))


def _proved(asked: Asked, view: View | None) -> RowAnswer:
    assert view is not None, "maps are put to the proof where the picture is"
    answer, counterparts = asked.answered()
    return replace(answer, proofs=Examined(asked, view, answer, counterparts).proofs())


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def _release() -> None:
    """Give memory that nothing uses any more back: to the device, and to the system."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc alone has it, and keeps what was freed otherwise
        ctypes.CDLL(None).malloc_trim(0)


def _allocated(device: str) -> int:
    """Return what tensors take on a device that counts it; 0 on others."""
    if not device.startswith("cuda"):
        return 0
    gc.collect()
    return torch.cuda.memory_allocated(device)


def _device_bytes(device: str) -> dict[str, int]:
    if not device.startswith("cuda"):
        return {}
    return {"allocated": torch.cuda.memory_allocated(device), "reserved": torch.cuda.memory_reserved(device)}


def devices_for(wanted: str) -> tuple[str, ...]:
    """Return the devices that ``wanted`` stands for; a worker takes the first."""
    if wanted in {"auto", "cuda"} and torch.cuda.is_available():
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return ("cpu",) if wanted == "auto" else (wanted,)


def require_device(device: str) -> None:
    """Raise ModelLoadError, in words, where this machine has no such device; torch would name a function of its own."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        cannot = f"The device {device!r} cannot be used; this machine has"
        if device == "mps" and not torch.backends.mps.is_available():  # torch would list all that it has been built for
            raise ModelLoadError(f"{cannot} no GPU of Apple that PyTorch can use.") from error
        raise ModelLoadError(f"{cannot} {torch.cuda.device_count()} CUDA devices. ({first_line(error)})") from error
