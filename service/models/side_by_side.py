"""A batch in parts, one for each core: a network per part, of the same weights, and a thread that has no team.

A batch whose every operation is spread over all cores waits, between operations, for the slowest of them, and whatever
else runs on one core holds up all. Parts do not wait for each other before they are done.
"""

from __future__ import annotations

import ctypes
import logging
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import torch

from service.cam.binary import BinaryNetwork
from service.cam.capture import same_logits
from service.cam.folding import FoldedNetwork
from service.errors import kind_and_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import TypeVar

    from torch import Tensor

    from service.cam.network import Network

    T = TypeVar("T")

__all__ = ["SideBySide", "Whole", "folded_within"]

log = logging.getLogger("camserve.models")

# Pictures that a part has at least: for one, weights would be read for too little work.
_LEAST = 2

# Batches are rarely large enough for more.
_MOST_PARTS = 8

# Parts are taken where they are little slower than the whole while nothing else runs: a front beside them costs the
# whole more than that. Other work disturbs what is measured, so there are as many rounds as so many seconds hold.
_WORTH, _MEASURED_S = 1.1, 1.0

# What takes no longer as a whole is not worth finding out.
_QUICK_S = 0.02

_BEGIN_S = 30.0  # in which threads begin that begin at all


class Whole(Exception):
    """A network's batches are computed as a whole; the message says why, in a sentence."""


class SideBySide:
    """Computes batches in as many parts as PyTorch has threads. Used by one thread at a time.

    Attributes:
        network: whose batches these are.
        networks: it and its twins, one for each part.
    """

    def __init__(self, network: Network, twins: Sequence[Network]) -> None:
        """Have a thread for ``network``, and one for each twin."""
        self.network = network
        self.networks = (network, *twins)
        self._threads = ThreadPoolExecutor(len(self.networks), "part")
        threads, all_begun = torch.get_num_threads(), Barrier(len(self.networks))
        for begun in [self._threads.submit(_take_one_core, all_begun) for _ in self.networks]:
            begun.result()
        torch.set_num_threads(threads)  # which is also what threads that begin from now on have

    @classmethod
    def where_it_pays(cls, network: Network, inputs: Tensor, lock: AbstractContextManager[None]) -> SideBySide:
        """Return how to compute a network's batches in parts.

        Args:
            network: on a CPU.
            inputs: pictures (N, C, H, W), as many as the smallest batch that is computed in parts has.
            lock: held by whoever computes with the network; taken for a pass, or for making one twin, at a time.

        Raises:
            Whole: that is slower, or not the same, or is not tried.
        """
        parts = torch.get_num_threads()
        if not 1 < parts <= _MOST_PARTS:
            raise Whole("There is one thread." if parts == 1 else f"There are more than {_MOST_PARTS} threads.")
        if folded_within(network) is None:
            raise Whole("It is not folded.")
        try:
            return cls._tried(network, inputs, parts, lock)
        except Whole:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  # of a network's own code; the whole can be computed
            raise Whole(f"In parts, it raises an error. {kind_and_line(error)}.") from None

    @classmethod
    def _tried(cls, network: Network, inputs: Tensor, parts: int, lock: AbstractContextManager[None]) -> SideBySide:
        with lock:
            logits = network.predict(inputs)
        if (seconds := _seconds(lambda: network.predict(inputs), lock)) < _QUICK_S:
            raise Whole(f"{len(inputs)} pictures take {1000 * seconds:.0f} ms together, which is quick enough.")
        twins: list[Network] = []
        while len(twins) < parts - 1:
            with lock:
                twins.append(_twin(network, inputs[:1]))
        found = cls(network, twins)
        with lock:
            others = found.predict(inputs)
        if not same_logits(others, logits, inputs.dtype):
            log.warning("a network is not computed in parts, whose logits would be others")
            raise Whole("In parts, its logits would be others.")
        ratio = _ratio(lambda: found.predict(inputs), lambda: network.predict(inputs), lock)
        log.info("in %d parts, side by side, %d pictures take %.2f × as long", parts, len(inputs), ratio)
        if ratio > _WORTH:
            raise Whole(f"In {parts} parts, {len(inputs)} pictures take {ratio:.2f} × as long.")
        return found

    @staticmethod
    def least_rows() -> int:
        """Return how many pictures the smallest batch has that is computed in parts."""
        return _LEAST * min(_MOST_PARTS, torch.get_num_threads())

    def takes(self, rows: int) -> bool:
        """Whether a batch is large enough to be computed in parts."""
        return rows >= _LEAST * len(self.networks)

    def predict(self, inputs: Tensor) -> Tensor:
        """Return logits (N, classes) for ``inputs`` (N, C, H, W)."""
        return torch.cat(self.compute(len(inputs), lambda network, rows: [network.predict(inputs[rows])]))

    def compute(self, rows: int, compute: Callable[[Network, slice], Sequence[T]]) -> list[T]:
        """Call ``compute`` with a network and its part of the rows, in all threads, and return their results in order.

        Raises:
            Exception: whatever the first of them raised, when all have ended.
        """
        parts = len(self.networks)
        bounds = [rows * part // parts for part in range(parts + 1)]
        spans = map(slice, bounds, bounds[1:])
        begun = [self._threads.submit(compute, *each) for each in zip(self.networks, spans, strict=True)]
        wait(begun)
        return [each for part in begun for each in part.result()]


def folded_within(network: Network) -> FoldedNetwork | None:
    """Return the folded network that a network is, or is the two classes of; None where there is none."""
    inner = network.network if isinstance(network, BinaryNetwork) else network
    return inner if isinstance(inner, FoldedNetwork) else None


def _twin(network: Network, image: Tensor) -> Network:
    inner = folded_within(network)
    twin = None if inner is None else inner.twin(image)
    if twin is None:
        raise Whole("Its modules cannot be copied so that two threads could compute with them.")
    return network.like(twin) if isinstance(network, BinaryNetwork) else twin


def _take_one_core(all_begun: Barrier) -> None:
    """Let what the calling thread computes from now on have one thread; return once as many have begun."""
    all_begun.wait(_BEGIN_S)
    torch.get_num_threads()  # the first call in a thread gives it what all have
    torch.set_num_threads(1)
    with suppress(OSError, AttributeError):  # a PyTorch without MKL, which alone has one number for all threads
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library.MKL_Set_Num_Threads_Local(1)


def _ratio(one: Callable[[], object], other: Callable[[], object], lock: AbstractContextManager[None]) -> float:
    """Return how long one takes, measured by the other: the quickest of some rounds each, as noise only adds."""
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    while not times or time.perf_counter() - began < _MEASURED_S:
        times.append((_seconds(one, lock), _seconds(other, lock)))
    ones, others = zip(*times, strict=True)
    return float(min(ones) / min(others))


def _seconds(work: Callable[[], object], lock: AbstractContextManager[None]) -> float:
    with lock:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
