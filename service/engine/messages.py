"""What the front process and a worker say to each other, and how it goes over a socket.

Pickle is safe here and only here: both ends are the same program, joined by an anonymous socket pair.

Runs in both processes.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from service.cam.raw_map import RawMap  # noqa: TC001  # the first answer would import it
from service.cam.targets import PLAIN, CamOptions
from service.models.sentences import OWN, Sentences

if TYPE_CHECKING:
    import asyncio
    from io import BufferedReader

    import numpy as np
    from numpy.typing import NDArray

    from service.cam.targets import Targets
    from service.engine.pixel_room import Placed
    from service.errors import ServiceError
    from service.models.info import Computing, ModelInfo, ModelKey
    from service.models.sources.source import Downloads
    from service.settings import LogFormat, LogLevel, ModelConfig
    from service.verification.region import View
    from service.verification.verdict import Verification
    from service.vocabulary import LoadingStage, Operation

__all__ = [
    "Cancel",
    "FromWorker",
    "Hello",
    "Lane",
    "Load",
    "Message",
    "ModelComputes",
    "ModelFailed",
    "ModelLoaded",
    "ModelProgress",
    "ModelUnloaded",
    "Ping",
    "Pong",
    "Progress",
    "Ran",
    "RowAnswer",
    "Run",
    "Start",
    "Unload",
    "pack",
    "read",
    "receive",
]

_LENGTH = struct.Struct(">Q")


@dataclass(frozen=True)
class Lane:
    """What images must have in common to share a batch. The classes asked about need not be the same.

    ``sentences`` are the classes, where they came with the request. ``large`` ones are computed one at a time, in
    slices, and give way to others. Where they ``verify``, each map is put to the proof.
    """

    model: ModelKey
    op: Operation
    layers: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    cam_options: CamOptions = PLAIN
    head: str | None = None
    large: bool = False
    sentences: Sentences = OWN
    verify: bool = False


# -- to a worker ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """First: where and how to compute. An ``expendable`` worker is the first to go where the machine is short."""

    device: str
    threads: int
    concurrency: int
    downloads: Downloads
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    expendable: bool = False


@dataclass(frozen=True)
class Load:
    """Load a model, after those that were asked for before."""

    key: ModelKey
    config: ModelConfig


@dataclass(frozen=True)
class Unload:
    """Drop a model, once it is loaded; a batch that computes is finished."""

    key: ModelKey


@dataclass(frozen=True)
class Run:
    """Compute a batch.

    ``pixels`` is (N, H, W, channels) uint8; ``targets`` and ``request_ids``, for the log, have one entry per image, and
    so have ``views``, the part of the input that each fills.
    """

    batch: int
    lane: Lane
    pixels: NDArray[np.uint8]
    targets: tuple[Targets, ...]
    request_ids: tuple[str, ...]
    views: tuple[View | None, ...] = ()


@dataclass(frozen=True)
class RunPlaced:
    """The same, with the pixels in the room that is shared, until it is answered; ``run`` has none."""

    run: Run
    placed: Placed


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for this batch any more. Heeded before it begins and between its steps."""

    batch: int


@dataclass(frozen=True)
class Ping:
    """Show that you are alive."""


# -- from a worker ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """First: the device it took, and all that the machine has of that kind."""

    device: str
    devices: tuple[str, ...]


@dataclass(frozen=True)
class ModelProgress:
    """How much of loading this model is done, 0 to 1, and what is being done now."""

    key: ModelKey
    fraction: float
    stage: LoadingStage


@dataclass(frozen=True)
class ModelLoaded:
    """It holds this model, and answers for it from now on."""

    key: ModelKey
    info: ModelInfo


@dataclass(frozen=True)
class ModelComputes:
    """How it computes this model from now on."""

    key: ModelKey
    computing: Computing


@dataclass(frozen=True)
class ModelFailed:
    """It cannot load this model."""

    key: ModelKey
    reason: str


@dataclass(frozen=True)
class ModelUnloaded:
    """It does not hold this model any more."""

    key: ModelKey


@dataclass(frozen=True)
class Pong:
    """At once and whatever it computes: it is alive, and holds so much memory of its device, by kind."""

    device_bytes: dict[str, int]


@dataclass(frozen=True)
class Progress:
    """How much of a batch is done, 0 to 1; said only of those that take a while."""

    batch: int
    fraction: float


@dataclass(frozen=True)
class RowAnswer:
    """One image's answer: see :class:`service.cam.explain.Explained`, as NumPy arrays; and each map's proof, if any."""

    logits: NDArray[np.float32]
    maps: tuple[RawMap[NDArray[np.float32]], ...] = ()
    proofs: tuple[Verification, ...] = ()


@dataclass(frozen=True)
class Ran:
    """A batch's outcomes, one per image in order.

    ``fits`` is the number of images that the device had memory for, where it had not for all. ``alone_s`` are the
    seconds that it had the model to itself; None where it shared it with others or was tried several times.
    """

    batch: int
    outcomes: list[RowAnswer | ServiceError]
    compute_s: float
    fits: int | None
    splits: int
    alone_s: float | None = None


ToWorker = Start | Load | Unload | Run | RunPlaced | Cancel | Ping
FromWorker = Hello | ModelProgress | ModelLoaded | ModelComputes | ModelFailed | ModelUnloaded | Pong | Progress | Ran
Message = ToWorker | FromWorker


def pack(message: Message) -> bytes:
    """Encode a message with its length in front."""
    body = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(body)) + body


async def read(stream: asyncio.StreamReader) -> FromWorker:
    """Read a message in the front process.

    Raises:
        asyncio.IncompleteReadError: the worker is gone.
    """
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    return cast("FromWorker", _decode(await stream.readexactly(length)))


def receive(stream: BufferedReader) -> ToWorker | None:
    """Read a message in the worker; None once the front process is gone."""
    try:
        header = stream.read(_LENGTH.size)
        if len(header) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(header)
        body = stream.read(length)
    except ConnectionError:  # gone without having read what this worker said
        return None
    return cast("ToWorker", _decode(body)) if len(body) == length else None


def _decode(body: Any) -> object:
    decoded: object = pickle.loads(body)  # noqa: S301  # from our own process, see above
    return decoded
