"""What front process and worker say to each other, and how it goes over a socket.

Pickle is safe here and only here: both ends are the same program, joined by an anonymous socket pair.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from service.cam.methods import METHODS
from service.cam.targets import PLAIN, CamOptions

if TYPE_CHECKING:
    import asyncio
    from io import BufferedReader

    import numpy as np
    from numpy.typing import NDArray

    from service.cam.raw_map import RawMap
    from service.cam.targets import Targets
    from service.errors import ServiceError
    from service.models.info import ModelInfo
    from service.models.sources.source import Downloads
    from service.settings import LogFormat, LogLevel, ModelConfig

__all__ = [
    "Cancel",
    "Failed",
    "Hello",
    "Lane",
    "Loaded",
    "Message",
    "Ping",
    "Pong",
    "Progress",
    "Ran",
    "RowAnswer",
    "Run",
    "Start",
    "pack",
    "read",
    "receive",
]

_LENGTH = struct.Struct(">Q")

# Up to so many views of a picture are as quick as any other request.
_SLOW_VIEWS = 4


@dataclass(frozen=True)
class Lane:
    """What pictures must have in common to share a batch. The classes asked about need not be the same."""

    model: str
    op: Literal["predict", "explain"]
    layers: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    variant: CamOptions = PLAIN
    head: str | None = None

    @property
    def slow(self) -> bool:
        """Whether the model runs many times per picture: such batches are of one picture and give way to others."""
        return self.variant.views > _SLOW_VIEWS or any(METHODS[name].slow for name in self.methods)


@dataclass(frozen=True)
class Start:
    """To a new worker: what to load, and where to run it."""

    models: tuple[ModelConfig, ...]
    downloads: Downloads
    device: str
    threads: int
    concurrency: int
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"


@dataclass(frozen=True)
class Run:
    """To a worker: compute a batch.

    ``pixels`` is (N, H, W, 3) uint8; ``questions`` and ``request_ids``, for the log, have one entry per picture.
    """

    batch: int
    lane: Lane
    pixels: NDArray[np.uint8]
    questions: tuple[Targets, ...]
    request_ids: tuple[str, ...]


@dataclass(frozen=True)
class Cancel:
    """To a worker: nobody waits for this batch any more. Heeded between the steps of slow answers."""

    batch: int


@dataclass(frozen=True)
class Ping:
    """To a worker: show that you are alive."""


@dataclass(frozen=True)
class Pong:
    """From a worker, at once and whatever it computes: it is alive, and holds so much memory of its device, by kind."""

    device_bytes: dict[str, int]


@dataclass(frozen=True)
class Progress:
    """From a worker: how much of a slow batch is done, 0 to 1."""

    batch: int
    fraction: float


@dataclass(frozen=True)
class Hello:
    """From a worker, first: the device it took, and all that the machine has of that kind."""

    device: str
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """From a worker: a model answers from now on."""

    info: ModelInfo


@dataclass(frozen=True)
class Failed:
    """From a worker: a model cannot be loaded."""

    model: str
    reason: str


@dataclass(frozen=True)
class RowAnswer:
    """One image's answer: see :class:`service.cam.explain.Explained`, as NumPy arrays."""

    logits: NDArray[np.float32]
    maps: tuple[RawMap[NDArray[np.float32]], ...] = ()


@dataclass(frozen=True)
class Ran:
    """From a worker: a batch's outcomes, one per picture in order.

    ``fits`` is the number of pictures that the device had memory for, where it had not for all.
    """

    batch: int
    outcomes: list[RowAnswer | ServiceError]
    compute_s: float
    fits: int | None
    splits: int


Message = Start | Run | Cancel | Ping | Pong | Hello | Loaded | Failed | Progress | Ran


def pack(message: Message) -> bytes:
    """Encode a message with its length in front."""
    body = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(body)) + body


async def read(stream: asyncio.StreamReader) -> Message:
    """Read a message in the front process.

    Raises:
        asyncio.IncompleteReadError: the worker is gone.
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    return _decode(await stream.readexactly(length))


def receive(stream: BufferedReader) -> Message | None:
    """Read a message in the worker; None once the front process is gone."""
    try:
        header = stream.read(_LENGTH.size)
        if len(header) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(header)
        body = stream.read(length)
    except ConnectionError:  # gone without having read what this worker said
        return None
    return _decode(body) if len(body) == length else None


def _decode(body: Any) -> Message:
    return cast("Message", pickle.loads(body))  # noqa: S301  # from our own process, see above
