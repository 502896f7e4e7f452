"""The application in this process, as a server would run it: with real workers, or with one that tests hold by hand."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from service.cam.layers import Layer, LayerCall, Layout
from service.cam.raw_map import RawMap
from service.engine.explainer import Explainer
from service.engine.messages import ModelLoaded, ModelUnloaded, Ran, RowAnswer
from service.imaging.preprocess import PreprocessSpec
from service.models.info import ModelInfo
from service.settings import ModelConfig, Settings
from service.verification.verdict import undecided
from service.web.app import PROTOCOLS, create_app
from tests.engine.fakes import FakeWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from fastapi import FastAPI
    from starlette.types import Message, Receive, Scope, Send

    from service.cam.targets import Targets
    from service.engine.explainer import Explainer
    from service.engine.lifecycle import Lifecycle
    from service.engine.messages import FromWorker, Lane, Run
    from service.engine.pool import Pool
    from service.engine.worker import Listener, WorkerSpec
    from service.errors import ServiceError
    from service.metrics import Metrics
    from service.models.info import ModelKey
    from service.protocols import WireProtocol

    Outcome = Callable[[Lane, Targets], "RowAnswer | ServiceError"]

LOAD_TIMEOUT_S = 170.0
HOSTS = ("camserve.test",)


class Application:
    """An application inside its lifespan; every request gets the state that the lifespan yielded."""

    def __init__(self, app: FastAPI, state: Any) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "state": dict(self.state)}, receive, send)

    @property
    def explainer(self) -> Explainer:
        found: Explainer = self.state["explainer"]
        return found

    @property
    def lifecycle(self) -> Lifecycle:
        return self.explainer.lifecycle

    @property
    def pool(self) -> Pool:
        return self.explainer.pool

    @property
    def worker(self) -> AnsweringWorker:
        """The worker of an application with a fake one."""
        (slot,) = self.pool.supervisor.slots
        assert isinstance(slot.worker, AnsweringWorker)
        return slot.worker

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 where it has none yet."""
        metrics: Metrics = self.pool._metrics
        return metrics.registry.get_sample_value(name, labels) or 0.0

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self), base_url="http://camserve.test", **options)


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[Application]:
    """The application with its real worker process and the embedded models, all loaded."""
    app = create_app(Settings(device="cpu", **{"allowed_hosts": HOSTS, **settings}))
    async with app.router.lifespan_context(app) as state:
        application = Application(app, state)
        statuses = application.pool.statuses
        await until(lambda: all(status.state != "loading" for status in statuses()), LOAD_TIMEOUT_S)
        yield application


@asynccontextmanager
async def faked(
    protocols: Sequence[WireProtocol] = PROTOCOLS, /, known: ModelInfo | None = None, **settings: Any
) -> AsyncIterator[Application]:
    """The application with :class:`AnsweringWorker` in place of processes; ``pets``, or ``known``, is loaded."""
    settings = {
        "models": (ModelConfig(name="pets", architecture="shapes"),),
        "decode_threads": 2,
        "allowed_hosts": HOSTS,
        **settings,
    }
    app = create_app(Settings(**settings), protocols=protocols, launch=partial(AnsweringWorker, known=known or PETS))
    async with app.router.lifespan_context(app) as state:
        application = Application(app, state)
        await application.explainer.settled()
        yield application


class AnsweringWorker(FakeWorker):
    """A worker that answers by itself, unless it is held.

    Attributes:
        held: while True, batches stay unanswered until :meth:`finish`.
        running: batches that it was given and has not answered.
        outcome: what a picture's answer is.
        known: what is found out about every model, but for its name and version.
        load_outcome: what is said of a model that is to be loaded; None leaves it loading.
    """

    def __init__(self, spec: WorkerSpec, listener: Listener, known: ModelInfo | None = None) -> None:
        super().__init__(spec, listener)
        self.known = known or PETS
        self.held = False
        self.load_outcome: Callable[[ModelKey, ModelConfig], FromWorker | None] = self.loaded
        self.outcome: Outcome = answer_row
        self.running: list[Run] = []

    async def start(self) -> None:
        await super().start()
        self.greet()

    def load(self, key: ModelKey, config: ModelConfig) -> None:
        super().load(key, config)
        if (said := self.load_outcome(key, config)) is not None:
            asyncio.get_running_loop().call_soon(self.say, said)

    def loaded(self, key: ModelKey, config: ModelConfig) -> FromWorker | None:
        """Say that a model is loaded, in the version that its configuration names, if it names one."""
        version = config.version or self.known.version
        return ModelLoaded(key, replace(self.known, name=key.name, revision=key.revision, version=version))

    def unload(self, key: ModelKey) -> None:
        super().unload(key)
        asyncio.get_running_loop().call_soon(self.say, ModelUnloaded(key))

    def send(self, run: Run) -> None:
        super().send(run)
        self.running.append(run)
        if not self.held:
            asyncio.get_running_loop().call_soon(self.finish)

    def finish(self) -> None:
        """Answer everything that was given and not yet answered."""
        running, self.running = self.running, []
        for run in running:
            outcomes = [self.outcome(run.lane, question) for question in run.targets]
            self.say(Ran(run.batch, outcomes, 0.001, None, 0))

    def lose(self, name: str, reason: str | None = None) -> None:
        """Say that it does not hold a model any more and, with a ``reason``, that it could not load it again."""
        self.say(ModelUnloaded(self.key(name)))
        if reason is not None:
            self.load_failed(name, reason)

    async def stop(self, timeout_s: float) -> None:
        await super().stop(timeout_s)
        self.running.clear()


_LAYER = partial(Layer, type="Conv2d", kind="conv", stride=8, on_every_path=True, explainable=True, note=None)

PETS = ModelInfo(
    name="pets",
    version="1",
    architecture="shapes",
    labels=("cat", "dog", "owl"),
    preprocess=PreprocessSpec(
        mode="crop", height=32, width=32, resize=32, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
    ),
    layers=(
        _LAYER("conv1", LayerCall("conv1"), shape=(8, 4, 4), layout=Layout("nchw", 4, 4), order=0, tail=2 / 3),
        _LAYER("conv2", LayerCall("conv2"), shape=(8, 4, 4), layout=Layout("nchw", 4, 4), order=1, tail=1 / 3),
        Layer(
            "fc",
            LayerCall("fc"),
            "Linear",
            "linear",
            (3,),
            None,
            None,
            2,
            on_every_path=True,
            explainable=False,
            note="no grid",
        ),
    ),
    default_layer="conv2",
    dtype="float32",
    device="cpu",
    parameters=100,
    memory=400,
)


def answer_row(lane: Lane, question: Targets) -> RowAnswer:
    """Logits 1, 3, 2; every map is 0 to 15 over its 4 × 4 cells."""
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    layers = ["+".join(lane.layers)] if lane.cam_options.fuse else lane.layers
    asked = product(layers, lane.methods, question.resolve([1, 2, 0]))
    maps = tuple(RawMap(layer, method, target, values, zero_gradient=False) for layer, method, target in asked)
    proofs = tuple(undecided("empty") for _ in maps) if lane.verify else ()
    return RowAnswer(np.array([1, 3, 2], np.float32), maps, proofs)


class Exchange:
    """One request driven by hand: its body arrives as told, and the client goes away when told.

    Attributes:
        sent: the ASGI messages of the response.
        gone: set it, and the client is gone.
        reads: how often the application asked for a message.
    """

    def __init__(self, path: str, body: bytes = b"", *, complete: bool = True, **headers: str) -> None:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": raw,
            "client": ("127.0.0.1", 1234),
            "server": ("camserve.test", 80),
        }
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.reads = 0
        self._pending: list[Message] = [{"type": "http.request", "body": body, "more_body": not complete}]

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.sent if message["type"] == "http.response.start"), None)

    async def receive(self) -> Message:
        self.reads += 1
        if self._pending:
            return self._pending.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(dict(message))

    def start(self, application: Application) -> asyncio.Task[None]:
        return asyncio.create_task(application(self.scope, self.receive, self.send))


async def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Let the loop run until ``condition`` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what tests wait for has no event of its own
            await asyncio.sleep(0.002)
