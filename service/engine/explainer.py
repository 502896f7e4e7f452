"""The façade that every protocol calls: files and options in, predictions and drawn maps out.

Decoding and drawing run in threads of this process, the model in a worker; this module joins the stages.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from service.engine.admission import Admission
from service.engine.answers import Answer, ImageAnswer
from service.engine.cost import Cost, Spending, Work, check_costs
from service.engine.encoded import EncodedSentences
from service.engine.lifecycle import Lifecycle
from service.engine.management import Management
from service.engine.pipeline import Picture, Pipeline
from service.engine.plan import plan
from service.engine.plans import Plans
from service.engine.pool import Pool
from service.engine.remembered import remembered_by
from service.engine.spans import Spans
from service.engine.tally import Tallies, Tally
from service.engine.worker_gauges import refresh
from service.engine.worker_process import WorkerProcess
from service.errors import DeadlineExceeded, NoImage, NotReady, ServiceError, TooManyImages
from service.imaging.decode import Header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from prometheus_client import Counter

    from service.engine.plan import Plan
    from service.engine.pool import WorkerStatus
    from service.engine.registry import ModelStatus
    from service.engine.request import Request, Upload
    from service.engine.versions import VersionStatus
    from service.engine.worker import Launcher
    from service.metrics import Metrics
    from service.models.info import ModelInfo
    from service.settings import CostLimit, Settings

    T = TypeVar("T")

__all__ = ["Explainer"]

# Of a front with one thread, decoding and drawing on average.
_SECONDS_PER_PIXEL = 2e-8


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
        self.lifecycle = lifecycle or Lifecycle()
        remembered = remembered_by(settings)
        settings = settings.model_copy(update={"models": remembered.models})
        self.pool = Pool(settings, metrics, self._spans, launch, lifecycle=self.lifecycle)
        self.management = Management(settings, metrics, self.pool, remembered)
        self.pipeline = Pipeline(settings, metrics, self._spans, self.pool)
        self._encoded = EncodedSentences()
        self._plans = Plans(settings.max_explanations, self._encoded)
        self._most = _cost(settings.max_request_cost)
        total = _cost(settings.max_total_cost)
        self.admission = Admission(settings.max_queue, total, lambda: asyncio.get_running_loop().time())
        self._deadlines: set[asyncio.Timeout] = set()
        self._tallies = Tallies()

    async def start(self) -> None:
        """Start the workers; returns before models are loaded."""
        await self.pool.start()
        self.management.start()

    async def stop(self) -> None:
        """End the workers and the threads. What has no answer yet fails with NotReady, in whatever stage it is."""
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(0.0)
        await self.management.stop()
        await self.pool.stop()
        self.pipeline.close()

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

    def versions(self, name: str) -> list[VersionStatus]:
        """List the versions of a model that are there or on their way, oldest first."""
        return self.pool.registry.versions(name)

    def aliases(self) -> Mapping[str, VersionStatus]:
        """Return the further names of versions, and what each points to."""
        return self.pool.registry.aliases()

    def ready_info(self, name: str | None = None, version: str | None = None) -> ModelInfo:
        """Describe a model that can answer; without a name, the default one.

        Raises:
            UnknownModel, UnknownVersion: there is none.
            NotReady: it is loading, it failed to load, or the service is shutting down.
        """
        return self.pool.ready_info(name, version)

    @property
    def ready(self) -> bool:
        """Whether some model can answer, or will once it is loaded on demand, and the service does not drain."""
        return not self.lifecycle.draining and any(
            status.state in {"ready", "unloaded"} for status in self.pool.statuses()
        )

    def tally(self, name: str, version: str) -> Tally:
        """Return what a version of a model has done since the start."""
        return self._tallies.of(name, version)

    def queue(self) -> tuple[int, int]:
        """Return how many images are inside, and how many more may come."""
        return self.admission.inside, max(0, self._settings.max_queue - self.admission.inside)

    def workers(self) -> list[WorkerStatus]:
        """Tell how every worker is."""
        return self.pool.worker_statuses()

    async def settled(self, name: str | None = None) -> None:
        """Wait until a model, by default the first, is no longer loading: it answers, or it failed."""
        await self.pool.settled(name)

    def refresh_gauges(self) -> None:
        """Set the gauges of workers, models and work to what is so now."""
        for part, amount in vars(self.admission.cost).items():
            self._metrics.cost_inside.labels(part).set(amount)
        refresh(self._metrics, self.workers(), self.models())

    # -- answering ----------------------------------------------------------------------------------------------------

    def refuse_early(self, model: str | None = None, version: str | None = None) -> None:
        """Raise what can be known before anything of a request's body is read.

        Raises:
            UnknownModel, UnknownVersion, NotReady: as :meth:`ready_info`.
            Overloaded: the queue is full.
        """
        self.pool.ready_info(model, version)
        self.admission.check()

    def check(self, request: Request) -> None:
        """Raise what is wrong with a request whatever its images are.

        Raises:
            UnknownModel, UnknownVersion, NotReady: as :meth:`ready_info`.
            BadInput: an option does not go with the model or with another option; see the subclasses.
        """
        plan(request, self.pool.ready_info(request.model, request.version), self._settings.max_explanations)

    async def in_thread(self, work: Callable[[], T], amount: int, client: str, weight: float) -> T:
        """Do work whose time grows with what callers send, in a thread and by turns.

        Args:
            work: what to do.
            amount: bytes that it goes through.
            client: whose it is.
            weight: how large the client's share is.
        """
        return await self.pipeline.threads.run(work, pixels=amount, client=client, weight=weight)

    @contextmanager
    def sending(self, answer: Answer) -> Iterator[None]:
        """Count an answer's bytes as work that is inside, while they are being sent."""
        with self.admission.hold(Cost(bytes=answer.cost.bytes)):
            yield

    async def answer(self, request: Request) -> Answer:
        """Predict, and explain if that is what ``request`` asks for.

        Images are independent: one that cannot be read or computed carries its own error, and the others have their
        answers. If there is only one, or all fail, the (first) error is raised.

        Raises:
            BadInput: the request cannot be met; see the subclasses.
            Unavailable: not now; carries ``retry_after_s``.
            DeadlineExceeded: the time is up; nothing is computed any more.
        """
        self._check_count(request.images)
        deadline = asyncio.get_running_loop().time() + self._allowed_s(request)
        while self.pool.status(request.model, request.version).on_demand:  # its worker may end right after
            await self._loaded_again(request, deadline)
        with self.pool.lease(request.model, request.version) as info:
            self.management.used(info.key)
            planned = self._plans.of(request, info)
            began, tally = time.perf_counter(), self.tally(info.name, info.version)
            try:
                answer = await self._answer(request, info, planned, deadline)
            except ServiceError:
                tally.failure.add(time.perf_counter() - began)
                raise
            tally.success.add(answer.total_s)
            tally.add(answer.images)
            for todo in dict.fromkeys(each for _, each in planned):
                self._encoded.remember(info.key, todo.lane.sentences.all)
            return answer

    async def _loaded_again(self, request: Request, deadline: float) -> None:
        """Wait for a model that was put out, or whose only worker has ended, in a place of the queue.

        Raises:
            NotReady: it is not there in time.
        """
        try:
            with self.admission.admit(len(request.images)):
                async with self._until(deadline):
                    self.management.make_room(request.model, request.version)
                    await self.pool.available(request.model, request.version)
        except TimeoutError:
            raise NotReady(
                f"Model {self.pool.status(request.model).config.name!r} is being loaded again. "
                "Try again in a few seconds.",
                retry_after_s=5,
            ) from None

    def _allowed_s(self, request: Request) -> float:
        """Return the time that a request has: as it asks for, up to what the operator allows."""
        if request.timeout_s is None:
            return self._settings.request_timeout_s
        return min(request.timeout_s, self._settings.max_request_timeout_s)

    async def _answer(
        self, request: Request, info: ModelInfo, planned: Sequence[tuple[Upload, Plan]], deadline: float
    ) -> Answer:
        began = time.perf_counter()
        spending = Spending(self._most)
        pictures = [Picture(upload, todo, spending, request.client, request.weight) for upload, todo in planned]
        try:
            with self.admission.admit(len(pictures)):
                self._metrics.in_flight.set(self.admission.inside)
                async with self._until(deadline):
                    await self.pipeline.look(pictures)
                    works = self._works(pictures)
                    cost = check_costs(works, self._most)
                    spending.begin(*works)
                    with self.admission.admit_work(cost, self._expected_s(cost, info)):
                        request.charge(cost.units)
                        for part, amount in vars(cost).items():
                            self._metrics.cost.labels(part).inc(amount)
                        images = await self._images(pictures)
        except TimeoutError:
            if self.lifecycle.over:
                raise NotReady("The service is shutting down.", retry_after_s=5) from None
            _count(self._metrics.expired, pictures)
            raise DeadlineExceeded(f"The answer was not ready within {self._allowed_s(request):g} s.") from None
        except asyncio.CancelledError:
            _count(self._metrics.cancelled, pictures)
            raise
        finally:
            self._metrics.in_flight.set(self.admission.inside)
        if all(image.error for image in images) and images[0].error is not None:
            raise images[0].error
        return Answer(planned[0][1].info, images, time.perf_counter() - began, replace(cost, bytes=spending.bytes))

    def _expected_s(self, cost: Cost, info: ModelInfo) -> float:
        """Return how long some work should take, nothing else being done."""
        workers = sum(self.pool.registry.holds(slot.number, info.key) for slot in self.pool.supervisor.slots)
        return cost.forward * info.pass_s / max(1, workers) + cost.pixels * _SECONDS_PER_PIXEL

    def _works(self, pictures: Sequence[Picture]) -> list[Work]:
        """Return what is asked for, one piece of work for all pictures that have the same plan."""
        headers: dict[Plan, list[Header]] = {}
        for picture in pictures:
            read = headers.setdefault(picture.todo, [])
            if isinstance(picture.header, Header):
                read.append(picture.header)
        return [self._plans.work(todo, tuple(read)) for todo, read in headers.items()]

    async def _images(self, pictures: Sequence[Picture]) -> tuple[ImageAnswer, ...]:
        if len(pictures) == 1:
            return (await self._image(0, pictures[0]),)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._image(i, picture)) for i, picture in enumerate(pictures)]
        return tuple(task.result() for task in tasks)

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

    async def _image(self, index: int, picture: Picture) -> ImageAnswer:
        try:
            with self._spans.image(index, picture.todo.lane):
                answer = await self.pipeline.process(picture)
        except ServiceError as error:
            self._metrics.picture_errors.labels(error.code).inc()
            picture.stage = None
            picture.digest()
            # The trace holds on to the frames that it came through, and with them to decoded pixels.
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return ImageAnswer(index, picture.upload.filename, picture.sha256, error=error)
        picture.stage = None
        return replace(answer, index=index)


def _cost(limit: CostLimit) -> Cost:
    return Cost(limit.forward, limit.pixels, limit.bytes)


def _count(given_up: Counter, pictures: Sequence[Picture]) -> None:
    for picture in pictures:
        if picture.stage is not None:
            given_up.labels(picture.stage).inc()
