"""The façade that every protocol calls: files and options in, predictions and drawn maps out.

Decoding and drawing run in threads of this process, the model in a worker; this module joins the stages.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from opentelemetry.trace import get_current_span

from service.cam.layers import finest_of
from service.cam.methods import METHODS
from service.engine.admission import Admission
from service.engine.answers import Answer, ClassScore, ImageAnswer, MapAnswer, StageTimes
from service.engine.capacity import CapacityLimiter, Reservation
from service.engine.cores import available_cores
from service.engine.entry import Entry
from service.engine.lifecycle import Lifecycle
from service.engine.map_summary import caveat, summarise
from service.engine.plan import Plan, plan
from service.engine.pool import Pool
from service.engine.spans import Spans
from service.engine.worker_gauges import refresh
from service.engine.worker_process import WorkerProcess
from service.errors import DeadlineExceeded, NoImage, NotReady, ServiceError, TooManyImages
from service.imaging.decode import DecodedImage, DecodeLimits, decode, pixels_to_open, read_header
from service.imaging.preprocess import Prepared, geometry_for, preprocess
from service.imaging.render import base_for, pixels_for, reduce_for, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from typing import TypeVar

    from numpy.typing import NDArray
    from prometheus_client import Counter

    from service.cam.raw_map import RawMap
    from service.engine.entry import Computed
    from service.engine.pool import WorkerStatus
    from service.engine.registry import ModelStatus
    from service.engine.request import Request, Upload
    from service.engine.worker import Launcher
    from service.imaging.render import RenderSpec
    from service.metrics import Metrics, Stage
    from service.models.info import ModelInfo
    from service.placement import Placement
    from service.settings import Settings
    from service.vocabulary import Activation

    T = TypeVar("T")

__all__ = ["Explainer"]


@dataclass
class _Progress:
    """The stage that an image is in, for the metrics if it is given up there."""

    stage: Stage | None = "decode"


@dataclass(frozen=True)
class _Opened:
    """A picture ready for the model, and what is left of it for drawing."""

    image: DecodedImage
    prepared: Prepared


class Explainer:
    """Predicts and explains; owns the worker pool and the threads that decode and draw."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        spans: Spans | None = None,
        launch: Launcher = WorkerProcess,
        lifecycle: Lifecycle | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._spans = spans or Spans()
        self._limits = DecodeLimits(
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            max_frames=settings.max_image_frames,
        )
        self._threads = ThreadPoolExecutor(settings.decode_threads or available_cores(), "picture")
        self.lifecycle = lifecycle or Lifecycle()
        self.pool = Pool(settings, metrics, self._spans, launch, lifecycle=self.lifecycle)
        self._capacity = CapacityLimiter(settings.max_open_pixels)
        self.admission = Admission(settings.max_queue, lambda: asyncio.get_running_loop().time())
        self._deadlines: set[asyncio.Timeout] = set()

    async def start(self) -> None:
        """Start the workers; returns before models are loaded."""
        await self.pool.start()

    async def stop(self) -> None:
        """End the workers and the threads. What has no answer yet fails with NotReady, in whatever stage it is."""
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(0.0)
        await self.pool.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- what is served -----------------------------------------------------------------------------------------------

    def models(self) -> list[ModelStatus]:
        """Tell how every model is, the default one first."""
        return self.pool.statuses()

    def model(self, name: str | None = None) -> ModelStatus:
        """Tell how a model is; without a name, the default one.

        Raises:
            UnknownModel: there is none of that name.
        """
        return self.pool.status(name)

    def ready_info(self, name: str | None = None) -> ModelInfo:
        """Describe a model that can answer now; without a name, the default one.

        Raises:
            UnknownModel: there is none of that name.
            NotReady: it is loading, it failed to load, or the service is shutting down.
        """
        return self.pool.ready_info(name)

    def workers(self) -> list[WorkerStatus]:
        """Tell how every worker is."""
        return self.pool.worker_statuses()

    async def settled(self, name: str | None = None) -> None:
        """Wait until a model, by default the first, is no longer loading: it answers, or it failed."""
        await self.pool.settled(name)

    def refresh_gauges(self) -> None:
        """Set the gauges of workers and models to what is so now."""
        refresh(self._metrics, self.workers(), self.models())

    # -- answering ----------------------------------------------------------------------------------------------------

    def refuse_early(self, model: str | None = None) -> None:
        """Raise what can be known before anything of a request's body is read.

        Raises:
            UnknownModel, NotReady: as :meth:`ready_info`.
            Overloaded: the queue is full.
        """
        self.pool.ready_info(model)
        self.admission.check()

    def check(self, request: Request) -> None:
        """Raise what is wrong with a request whatever its images are.

        Raises:
            UnknownModel, NotReady: as :meth:`ready_info`.
            BadInput: an option does not go with the model or with another option; see the subclasses.
        """
        plan(request, self.pool.ready_info(request.model), self._settings.max_explanations)

    async def answer(self, request: Request) -> Answer:
        """Predict, and explain if that is what ``request`` asks for.

        Images are independent: one that cannot be read or computed carries its own error, and the others have their
        answers. If there is only one, or all fail, the (first) error is raised.

        Raises:
            BadInput: the request cannot be met; see the subclasses.
            Unavailable: not now; carries ``retry_after_s``.
            DeadlineExceeded: the time is up; nothing is computed any more.
        """
        with self.pool.lease(request.model) as info:
            todo = plan(request, info, self._settings.max_explanations)
            self._check_count(request.images)
            return await self._answer(request.images, todo, request.timeout_s)

    async def _answer(self, uploads: Sequence[Upload], todo: Plan, timeout_s: float | None) -> Answer:
        loop = asyncio.get_running_loop()
        began, deadline_from = time.perf_counter(), loop.time()
        allowed = self._settings.request_timeout_s if timeout_s is None else timeout_s
        progress = [_Progress() for _ in uploads]
        try:
            with self.admission.admit(len(uploads)):
                self._metrics.in_flight.set(self.admission.inside)
                async with self._until(deadline_from + allowed), asyncio.TaskGroup() as group:
                    work = enumerate(zip(uploads, progress, strict=True))
                    tasks = [group.create_task(self._image(i, upload, todo, of)) for i, (upload, of) in work]
        except TimeoutError:
            if self.lifecycle.over:
                raise NotReady("The service is shutting down.", retry_after_s=5) from None
            _count(self._metrics.expired, progress)
            raise DeadlineExceeded(f"The answer was not ready within {allowed:g} s.") from None
        except asyncio.CancelledError:
            _count(self._metrics.cancelled, progress)
            raise
        finally:
            self._metrics.in_flight.set(self.admission.inside)
        images = tuple(task.result() for task in tasks)
        if all(image.error for image in images) and images[0].error is not None:
            raise images[0].error
        return Answer(todo.info, images, time.perf_counter() - began)

    @asynccontextmanager
    async def _until(self, deadline: float) -> AsyncIterator[None]:
        """Give up what the block waits for at ``deadline``, or when this is stopped: then nothing would end it."""
        async with asyncio.timeout_at(deadline) as timeout:
            self._deadlines.add(timeout)
            try:
                yield
            finally:
                self._deadlines.discard(timeout)

    def _check_count(self, uploads: Sequence[Upload]) -> None:
        if not uploads:
            raise NoImage(
                "The request carries no picture. Send at least one, as a form part named 'image' for example."
            )
        most = min(self._settings.max_images, self._settings.max_queue)  # beyond the queue's length there is never room
        if len(uploads) > most:
            raise TooManyImages(f"{len(uploads)} pictures are too many for one request; send {most} at most.")

    async def _image(self, index: int, upload: Upload, todo: Plan, progress: _Progress) -> ImageAnswer:
        try:
            with self._spans.image(index, todo.lane):
                answer = replace(await self._process(upload, todo, progress), index=index)
        except ServiceError as error:
            self._metrics.picture_errors.labels(error.code).inc()
            progress.stage = None
            # The trace holds on to the frames that it came through, and with them to decoded pixels.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            digest = hashlib.sha256(upload.data).hexdigest()
            return ImageAnswer(index, upload.filename, digest, error=error)
        progress.stage = None
        return answer

    async def _process(self, upload: Upload, todo: Plan, progress: _Progress) -> ImageAnswer:
        if upload.error is not None:
            raise upload.error
        async with self._capacity.reserve(pixels_to_open(len(upload.data))) as reserved:
            reserved.work = reading = self._threads.submit(read_header, upload.data, self._limits)
            header = await asyncio.wrap_future(reading)
        drawn = pixels_for(todo.render, geometry_for(todo.info.preprocess, header.width, header.height))
        async with self._capacity.reserve(max(header.pixels, drawn)) as reserved:
            opened, decode_s = await self._timed("decode", reserved, lambda: self._open(upload.data, todo))
            reserved.shrink_to(max(math.prod(opened.image.rgb.size), drawn))
            computed = await self._compute(opened.prepared.pixels, todo, progress)
            scores = _scores(computed.answer.logits, todo.info)
            explanations: tuple[MapAnswer, ...] = ()
            render_s = 0.0
            if spec := todo.render:
                progress.stage = "render"
                draw = partial(_draw, opened, computed, scores, todo, spec)
                explanations, render_s = await self._timed("render", reserved, draw)
        image = opened.image
        return ImageAnswer(
            index=0,
            filename=upload.filename,
            sha256=image.sha256,
            width=image.width,
            height=image.height,
            view=opened.prepared.geometry.view,
            predictions=tuple(scores(index) for index in _ranking(computed.answer.logits, todo.top_k)),
            explanations=explanations,
            times=StageTimes(decode_s, computed.queue_s, computed.compute_s, render_s, computed.batch_size),
        )

    async def _timed(self, stage: str, reserved: Reservation, work: Callable[[], T]) -> tuple[T, float]:
        """Run ``work`` in a thread; return its result and the seconds it took, waiting for the thread included."""
        began = time.perf_counter()
        with self._spans.stage(stage):
            reserved.work = future = self._threads.submit(work)
            result = await asyncio.wrap_future(future)
        seconds = time.perf_counter() - began
        self._metrics.stage_seconds.labels(stage).observe(seconds)
        return result, seconds

    def _open(self, data: bytes, todo: Plan) -> _Opened:
        image = decode(data, self._limits)
        prepared = preprocess(image, todo.info.preprocess)
        return _Opened(reduce_for(image, prepared.geometry, todo.render), prepared)

    async def _compute(self, pixels: NDArray[np.uint8], todo: Plan, progress: _Progress) -> Computed:
        loop = asyncio.get_running_loop()
        entry = Entry(todo.lane, pixels, todo.targets, loop.create_future(), queued_at=time.perf_counter())
        entry.span = get_current_span()
        progress.stage = "queue"
        self.pool.submit(entry)
        try:
            return await entry.future
        finally:
            # Cancelled: the client went away or the deadline passed, and an entry that still waits is not computed.
            self.pool.withdraw(entry)
            progress.stage = "compute" if entry.started_at else "queue"
            self._spans.waited(entry)


def _count(given_up: Counter, progress: Sequence[_Progress]) -> None:
    for each in progress:
        if each.stage is not None:
            given_up.labels(each.stage).inc()


def _draw(
    opened: _Opened, computed: Computed, scores: Callable[[int], ClassScore], todo: Plan, spec: RenderSpec
) -> tuple[MapAnswer, ...]:
    """Draw every explanation of a picture; maps of one shape share what they are laid on."""
    geometry = opened.prepared.geometry
    against = None if todo.targets.against is None else scores(todo.targets.against)
    bases: dict[tuple[int, ...] | None, NDArray[np.uint8]] = {}
    explanations = []
    for raw in computed.answer.maps:
        target, values = scores(raw.target), raw.values
        grid = values.shape if spec.size == "layer" else None
        if "overlay" in spec.outputs and grid not in bases:
            bases[grid] = base_for(opened.image, geometry, spec, values.shape)
        summary = summarise(values, signed=spec.signed, zero_gradient=raw.zero_gradient)
        # A constant map says nothing about places: drawn, it would be hot everywhere.
        drawn = np.zeros_like(values) if summary.reason == "constant" else values
        rendered = render(drawn, opened.image, geometry, spec, bases.get(grid), _placement(raw, todo))
        layer = None if todo.lane.cam_options.fuse else todo.info.layer(raw.layer)
        note = caveat(raw.method, target.label, target.probability, layer)
        explanations.append(MapAnswer(raw.layer, raw.method, target, against, values, summary, note, rendered))
    return tuple(explanations)


def _placement(raw: RawMap[NDArray[np.float32]], todo: Plan) -> Placement | None:
    """Return where the cells of a map look; None where they cover the model's input evenly."""
    if not METHODS[raw.method].uses_layer:
        return None
    layers = [todo.info.layer(name) for name in todo.lane.layers if todo.lane.cam_options.fuse or name == raw.layer]
    finest = layers[finest_of([layer.grid for layer in layers])]
    spec = todo.info.preprocess
    return finest.placed(todo.registration, spec.height, spec.width, flip=todo.lane.cam_options.flip)


def _scores(logits: NDArray[np.float32], info: ModelInfo) -> Callable[[int], ClassScore]:
    """Return a look-up of classes with their probability."""
    probabilities = _probabilities(logits.astype(np.float64), info.activation)

    def score(index: int) -> ClassScore:
        return ClassScore(index, info.labels[index], float(probabilities[index]), float(logits[index]))

    return score


def _probabilities(logits: NDArray[np.float64], activation: Activation) -> NDArray[np.float64]:
    if activation == "none":
        return logits
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    exponentials = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = exponentials / exponentials.sum()
    return shares


def _ranking(logits: NDArray[np.float32], k: int) -> list[int]:
    """Return the k best classes, best first; stable, as the worker ranks them too."""
    ranking: list[int] = np.argsort(-logits, kind="stable")[:k].tolist()
    return ranking
