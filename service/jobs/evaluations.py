"""All evaluations: who may see them, which one runs now, and what becomes of them.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from ulid import ULID

from service.errors import (
    EvaluationNotDone,
    InvalidOption,
    ServiceError,
    Unavailable,
    UnknownEvaluation,
)
from service.evaluation.candidates import arms_of, default_layers
from service.jobs.amount import check_amount, passes_of
from service.jobs.computing import Computing
from service.jobs.files import FOUND, REPORT, RESULT
from service.jobs.job import STATES, Facts, Job
from service.jobs.material import PICTURES
from service.jobs.places import Places
from service.jobs.refusals import elsewhere, ending, unwritable
from service.jobs.sent import look
from service.jobs.store import Store, temporary_root

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from service.engine.explainer import Explainer
    from service.jobs.asked import Viewer, Wanted
    from service.jobs.material import Material
    from service.metrics import Metrics
    from service.settings import Settings

__all__ = ["Evaluations"]

log = logging.getLogger("camserve.evaluations")

_OVER_PER_PLACE = 8  # evaluations that are over and still kept, for each that may be open
_LOOK_EVERY_S = 30.0
_LOOKS = 2  # at what was sent, at once


class Evaluations:
    """Lives in one event loop, which alone may call it.

    Args:
        settings: how many there may be, and where they are kept.
        metrics: counts them.
        explainer: knows the models.
    """

    def __init__(self, settings: Settings, metrics: Metrics, explainer: Explainer) -> None:
        self._settings, self._metrics, self._explainer = settings, metrics, explainer
        self._places = Places(settings)
        self._computing = Computing(settings, metrics, explainer)
        self._jobs: dict[str, Job] = {}
        self._store: Store | None = None
        self._closed: Unavailable | None = None  # why it is not open
        self._opening, self._looking = asyncio.Lock(), asyncio.Semaphore(_LOOKS)
        self._stopped = False
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def kept(self) -> bool:
        """Whether evaluations are still there after a restart."""
        return self._settings.data_dir is not None

    @property
    def note(self) -> str:
        """What becomes of an evaluation, in words."""
        until = f"What comes out is there for {self._settings.evaluation_ttl_s / 3600:g} h."
        if self.kept:
            return f"It outlasts a restart of the service. {until}"
        return f"It ends with the service, which keeps nothing: data_dir is not set. {until}"

    async def start(self) -> None:
        """Go on with what is kept.

        Raises:
            ServiceError: what is kept is damaged.
        """
        if self._is_elsewhere:
            try:
                await self._open()
            except Unavailable as refused:
                if isinstance(refused.__cause__, ServiceError):
                    raise refused.__cause__ from None
        self._spawn(self._look_after())

    @property
    def _is_elsewhere(self) -> bool:
        """Whether there are evaluations that nobody here knows yet."""
        folder = self._settings.data_dir
        return self._store is None and folder is not None and (folder / "evaluations").is_dir()

    async def stop(self) -> None:
        """End what runs. What is kept goes on when the service is started again; the rest is gone."""
        self._stopped = True
        running = [*self._tasks, *(job.task for job in self._jobs.values() if job.task is not None)]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for job in self._jobs.values():
            job.changed()
        if self._store is not None:
            self._store.close()
            if not self.kept:
                await asyncio.to_thread(shutil.rmtree, self._store.root, ignore_errors=True)

    # -- taking one ---------------------------------------------------------------------------------------------------

    def place(self, owner: str | None) -> AbstractContextManager[None]:
        """Hold a place for a key while what it sends arrives; raises TooManyEvaluations."""
        return self._places.hold(owner, self._jobs.values())

    @contextlib.asynccontextmanager
    async def folder(self) -> AsyncIterator[tuple[str, Path]]:
        """Make a folder for what is sent; it goes again unless an evaluation takes it over.

        Raises:
            NotReady: another process has the place where evaluations are kept.
        """
        store, name = await self._open(), str(ULID())
        try:
            pictures = await asyncio.to_thread(self._new_folder, store, name)
        except OSError as error:
            raise unwritable(error) from error
        try:
            yield name, pictures
        finally:
            if name not in self._jobs:
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, store.folder(name), ignore_errors=True))

    def _new_folder(self, store: Store, name: str) -> Path:
        pictures = store.make_folder(name) / PICTURES
        pictures.mkdir(mode=0o700)
        return pictures

    async def add(
        self, name: str, material: Material, wanted: Wanted, owner: str | None, charge: Callable[[float], None]
    ) -> Job:
        """Take an evaluation, whose files lie in its folder; it waits for its turn.

        Raises:
            UnknownModel, UnknownLayer, LayerNotExplainable, UnknownMethod, MethodNotApplicable: there is no such thing.
            NoImage, InvalidOption, BodyTooLarge: what was sent cannot be used.
            RequestTooCostly: it takes more than one may.
            RateLimited: it takes more than the key has left.
            NotReady: the model is not loaded, or the service ends.
            OSError: the disk is full.
        """
        info = self._explainer.ready_info(wanted.model)
        layers = wanted.layers or default_layers(info)
        arms = arms_of(info, layers, wanted.methods)
        if len(arms) > self._settings.max_explanations:
            most = self._settings.max_explanations
            raise InvalidOption(
                f"{len(layers)} layers by {len(wanted.methods)} methods are more than {most} candidates."
            )
        store = await self._open()
        async with self._looking:
            images, marked, skipped = await look(store.folder(name) / PICTURES, material, self._settings)
        passes = passes_of(info, arms, wanted.purposes, images, marked)
        check_amount(passes, self._settings.max_evaluation_forward, images)
        if self._explainer.lifecycle.closed and not self.kept:
            raise ending()
        charge(passes)
        facts = Facts(
            id=name,
            owner=owner,
            model=info.name,
            digest=info.digest,
            layers=tuple(layers),
            methods=wanted.methods,
            purposes=wanted.purposes,
            seed=wanted.seed,
            images=images,
            skipped=skipped,
        )
        try:
            await asyncio.to_thread(store.put, facts)
        except BaseException:
            charge(-passes)  # nothing comes of it: the disk is full, or the client has gone
            raise
        job = self._jobs[name] = Job(facts)
        log.info("evaluation %s of model %s: %d pictures, about %.0f passes", name, info.name, images, passes)
        self._schedule()
        return job

    # -- what there is ------------------------------------------------------------------------------------------------

    def list(self, viewer: Viewer) -> list[Job]:
        """Return the evaluations that somebody may see, oldest first.

        Raises:
            NotReady, Unavailable: the place where they are kept is another process's, or cannot be used.
        """
        if self._is_elsewhere:
            raise self._closed or elsewhere()
        return [job for job in self._jobs.values() if viewer.sees(job.facts)]

    def find(self, name: str, viewer: Viewer) -> Job:
        """Return an evaluation.

        Raises:
            UnknownEvaluation: there is none, or not for this key.
            NotReady, Unavailable: the place where they are kept is another process's, or cannot be used.
        """
        if self._is_elsewhere:
            raise self._closed or elsewhere()
        job = self._jobs.get(name)
        if job is None or not viewer.sees(job.facts):
            raise UnknownEvaluation(
                "There is no evaluation of this id. It may have been deleted, or have expired; without data_dir, they "
                "end with the service. GET /api/v1/evaluations lists yours."
            )
        return job

    async def result(self, job: Job) -> bytes | None:
        """Return what came out of an evaluation, as JSON; None before it is done."""
        return await self._read(job, RESULT) if job.facts.state == "done" else None

    async def report(self, job: Job) -> bytes:
        """Return the report of an evaluation, a page.

        Raises:
            EvaluationNotDone: there is none yet, or never will be.
        """
        if job.facts.state != "done":
            how = f"has {job.facts.state}" if job.facts.state == "failed" else f"is {job.facts.state}"
            raise EvaluationNotDone(f"This evaluation {how}: it has no report. GET the evaluation says more.")
        return await self._read(job, REPORT)

    async def _read(self, job: Job, file: str) -> bytes:
        assert self._store is not None
        try:
            return await asyncio.to_thread((self._store.folder(job.facts.id) / file).read_bytes)
        except FileNotFoundError:
            raise UnknownEvaluation("What came out of this evaluation was removed. Ask for it again.") from None

    async def remove(self, job: Job) -> None:
        """Cancel an evaluation that is not over, and forget it."""
        self._jobs.pop(job.facts.id, None)
        if job.task is not None:
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
        if not job.over:
            job.ends("cancelled")
            self._count_end(job)
        await self._forget(job)
        self._schedule()

    async def _forget(self, job: Job) -> None:
        assert self._store is not None
        self._jobs.pop(job.facts.id, None)
        try:
            await asyncio.to_thread(self._store.remove, job.facts.id)
        except OSError as error:
            log.error("evaluation %s is not forgotten on the disk: %s", job.facts.id, error)

    def refresh_gauges(self) -> None:
        """Set the gauge of evaluations to what is so now."""
        counts = Counter(job.facts.state for job in self._jobs.values())
        for state in STATES[:2]:
            self._metrics.evaluations_open.labels(state).set(counts[state])

    # -- computing ----------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Begin with what may begin."""
        while not self._stopped and (job := self._places.next(self._jobs.values())) is not None:
            job.task = asyncio.create_task(self._run(job))
            job.task.add_done_callback(partial(self._ran, job))

    def _ran(self, job: Job, task: asyncio.Task[None]) -> None:
        job.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("evaluation %s failed", job.facts.id, exc_info=error)
            job.ends("failed", "Something went wrong here; the log has the reason.")
            self._count_end(job)
            self._spawn(self._keep(job))
        self._schedule()

    async def _run(self, job: Job) -> None:
        """Compute one evaluation, in as many processes as it takes."""
        assert self._store is not None
        store = self._store
        job.begins()
        await self._keep(job)
        try:
            reason = await self._computing.compute(job, store.folder(job.facts.id))
        except ServiceError as error:
            reason = error.message
        except OSError as error:
            reason = f"No process can be started for it: {error}."
        job.ends("done" if reason is None else "failed", reason)
        self._count_end(job)
        await self._keep(job)
        folder = store.folder(job.facts.id)
        await asyncio.to_thread(shutil.rmtree, folder / PICTURES, ignore_errors=True)
        await asyncio.to_thread((folder / FOUND).unlink, missing_ok=True)
        await self._forget_beyond(job.facts.owner)

    # -- keeping ------------------------------------------------------------------------------------------------------

    async def _open(self) -> Store:
        """Return the place where evaluations are kept.

        Raises:
            NotReady: another process has it.
            Unavailable: the disk is full, or what is kept is damaged.
        """
        async with self._opening:
            if self._store is None:
                try:
                    store, kept = await asyncio.to_thread(self._opened)
                except BlockingIOError:
                    self._closed = elsewhere()
                    raise self._closed from None
                except (OSError, ServiceError) as error:
                    self._closed = unwritable(error)
                    raise self._closed from error
                self._store = store
                for facts in kept:
                    self._resume(facts)
                self._schedule()
            return self._store

    def _opened(self) -> tuple[Store, Sequence[Facts]]:
        data_dir = self._settings.data_dir
        store = Store(temporary_root() if data_dir is None else data_dir / "evaluations")
        try:
            return store, store.all()
        except BaseException:
            store.close()
            raise

    def _resume(self, facts: Facts) -> None:
        job = self._jobs[facts.id] = Job(facts, progress=float(facts.state == "done"))
        if not job.over:
            facts.state = "queued"
            log.info("evaluation %s of model %s goes on", facts.id, facts.model)

    async def _look_after(self) -> None:
        """Go on with what is kept, and forget what has expired."""
        while True:
            await asyncio.sleep(1.0 if self._is_elsewhere else _LOOK_EVERY_S)
            if self._is_elsewhere:
                with contextlib.suppress(Unavailable):
                    await self._open()
            await self._forget_expired()

    async def _forget_expired(self) -> None:
        oldest = time.time() - self._settings.evaluation_ttl_s
        for job in [each for each in self._jobs.values() if each.over and (each.facts.ended or 0) < oldest]:
            await self._forget(job)

    async def _forget_beyond(self, owner: str | None) -> None:
        """Forget the oldest of a key that are over, where they are many."""
        over = [job for job in self._jobs.values() if job.over and job.facts.owner == owner]
        over.sort(key=lambda job: job.facts.ended or 0)
        for job in over[: max(0, len(over) - _OVER_PER_PLACE * self._places.share)]:
            await self._forget(job)

    async def _keep(self, job: Job) -> None:
        assert self._store is not None
        try:
            await asyncio.to_thread(self._store.put, job.facts.model_copy())
        except OSError as error:
            log.error("evaluation %s is not kept on the disk as it is: %s", job.facts.id, error)

    def _count_end(self, job: Job) -> None:
        self._metrics.evaluations.labels(job.facts.state).inc()
        log.info("evaluation %s: %s after %.1f s", job.facts.id, job.facts.state, job.facts.seconds)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
