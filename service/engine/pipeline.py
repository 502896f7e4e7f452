"""A picture's way: looked at, decoded, computed, drawn. Threads decode and draw, a worker computes.

Nothing scarce is held while waiting for something else. A picture that waits for its maps keeps the model's input and
what overlays are laid on, if that is small; a large one is decoded once more when it is drawn.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from opentelemetry.trace import get_current_span

from service.cam.targets import Targets
from service.engine.answers import ImageAnswer, StageTimes
from service.engine.capacity import CapacityLimiter
from service.engine.cores import available_cores
from service.engine.drawing import Drawing
from service.engine.entry import Entry
from service.engine.map_scores import score_maps
from service.engine.picture_threads import PictureThreads
from service.engine.scores import certainty_of, ranking, scores_of
from service.errors import ServiceError
from service.imaging.canvas import KEPT_PIXELS, Canvas
from service.imaging.decode import DecodeLimits, Header, decode, open_picture, pixels_to_open, read_header
from service.imaging.headers import has_short_header
from service.imaging.preprocess import decode_for, preprocess
from service.imaging.render import pixels_for
from service.verification.region import View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from typing import TypeVar

    from numpy.typing import NDArray

    from service.cam.raw_map import RawMap
    from service.engine.answers import MapAnswer, Scores
    from service.engine.cost import Spending
    from service.engine.entry import Computed
    from service.engine.messages import RowAnswer
    from service.engine.plan import Plan
    from service.engine.pool import Pool
    from service.engine.request import Upload
    from service.engine.spans import Spans
    from service.imaging.decode import Undecoded
    from service.imaging.geometry import Geometry
    from service.imaging.preprocess import Prepared
    from service.imaging.render import RenderSpec
    from service.metrics import Metrics, Stage
    from service.settings import Settings
    from service.verification.verdict import Verification

    T = TypeVar("T")

__all__ = ["Picture", "Pipeline"]

# Maps are drawn so many pixels at a time: as little as is worth a change of threads.
_PIXELS_AT_A_TIME = 2**20

# So few maps, of so many values in all, are written down sooner than a thread is begun to do so.
_MAPS_AT_ONCE, _CELLS_AT_ONCE = 4, 1000


@dataclass
class Picture:
    """A picture on its way.

    Attributes:
        upload: its file.
        todo: what is done to it.
        spending: counts what its request sends.
        client: whose request it is.
        weight: how large the client's share is.
        header: what the file says of itself, or what is wrong with it, once it was looked at.
        opened: the file with its header read, for whoever decodes it; None where that would be much to hold on to.
        sha256: digest of the file, once it is known that it cannot be read, or it was decoded.
        stage: where it is, for the metrics if it is given up there; None once there is an answer.
    """

    upload: Upload
    todo: Plan
    spending: Spending
    client: str = ""
    weight: float = 1.0
    header: Header | ServiceError | None = None
    opened: Undecoded | None = None
    sha256: str = ""
    stage: Stage | None = "decode"

    def look(self, limits: DecodeLimits) -> None:
        """Read the header, and no more than that."""
        self.digest()
        self.header = self.upload.error or _header(self.upload.data, limits, self.todo.info.preprocess.channels)

    def open(self, limits: DecodeLimits) -> None:
        """Read the header, and keep the file open."""
        try:
            self.opened = open_picture(self.upload.data, limits, self.todo.info.preprocess.channels)
            self.header = self.opened.header
        except ServiceError as error:
            self.header = error.with_traceback(None)  # which has this picture
            self.digest()

    def digest(self) -> None:
        """Compute the digest, which others' answers wait for if the event loop does it."""
        self.sha256 = self.sha256 or hashlib.sha256(self.upload.data).hexdigest()

    @property
    def size(self) -> Header:
        """The header.

        Raises:
            ServiceError: it cannot be read.
        """
        assert self.header is not None, "it was not looked at"
        if isinstance(self.header, ServiceError):
            raise self.header
        return self.header


@dataclass(frozen=True)
class _Opened:
    """A picture ready for the model.

    Attributes:
        width: of the upright picture, in pixels.
        height: likewise.
        prepared: the model's input, and the geometry.
        canvas: what overlays are laid on; None where there are none, or it is too large to be kept.
    """

    width: int
    height: int
    prepared: Prepared
    canvas: Canvas | None


class Pipeline:
    """Takes pictures all the way. Owns the threads that decode and draw; lives in one event loop.

    Args:
        settings: all of them.
        metrics: counts what happens.
        spans: traces of pictures.
        pool: computes them.

    Attributes:
        threads: those that decode and draw.
    """

    def __init__(self, settings: Settings, metrics: Metrics, spans: Spans, pool: Pool) -> None:
        self._metrics, self._spans, self._pool = metrics, spans, pool
        self._limits = DecodeLimits(
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            max_frames=settings.max_image_frames,
        )
        self.threads = PictureThreads(settings.decode_threads or available_cores(), settings.max_open_pixels)
        self._canvases = CapacityLimiter(settings.max_open_pixels)

    def close(self) -> None:
        """Begin nothing more in threads."""
        self.threads.close()

    async def look(self, pictures: Sequence[Picture]) -> None:
        """Read the headers of pictures: what is known to be short at once, since a change of threads takes longer."""
        longer = []
        for each in pictures:
            if each.upload.error or not has_short_header(each.upload.data):
                longer.append(each)
                continue
            each.open(self._limits)
            if len(pictures) > 1:
                await asyncio.sleep(0)  # others' turn
        looks = (
            self._in_thread(partial(each.look, self._limits), pixels_to_open(len(each.upload.data)), each)
            for each in longer
        )
        await asyncio.gather(*looks)

    async def process(self, picture: Picture) -> ImageAnswer:
        """Predict and explain a picture.

        Raises:
            ServiceError: it cannot be read, computed or drawn.
        """
        todo = picture.todo
        opened, decode_s = await self._timed("decode", self._open(picture))
        view = View.of(opened.prepared.geometry) if todo.lane.verify else None
        computed = await self._compute(picture, todo, opened.prepared.pixels, todo.targets, view)
        answer = computed.answer
        scores = scores_of(answer.logits, todo.info)
        certainty = certainty_of(answer.logits, todo.info) if todo.certainty else None
        mirrored = await self._mirrored(picture, opened.prepared.pixels, answer) if todo.mirrored else ()
        explanations: tuple[MapAnswer, ...] = ()
        render_s = 0.0
        if spec := todo.render:
            picture.stage = "render"
            drawing = Drawing(todo, spec, opened.prepared.geometry, scores)
            drawn = self._draw(picture, opened, drawing, answer.maps)
            explanations, render_s = await self._timed("render", drawn)
            explanations = tuple(map(self._with_proof, explanations, answer.proofs or repeat(None)))
            if certainty is not None and todo.mirrored:
                score = partial(score_maps, todo, drawing, opened.prepared.geometry, certainty, answer.maps, mirrored)
                scored = await self._in_thread(score, 0, picture)
                explanations = tuple(map(_with_scores, explanations, scored))
        return ImageAnswer(
            index=0,
            filename=picture.upload.filename,
            sha256=picture.sha256,
            width=opened.width,
            height=opened.height,
            view=opened.prepared.geometry.view,
            geometry=opened.prepared.geometry,
            predictions=tuple(scores(index) for index in ranking(answer.logits, todo.top_k)),
            explanations=explanations,
            scores=certainty,
            times=StageTimes(decode_s, computed.queue_s, computed.compute_s, render_s, computed.batch_size),
        )

    async def _in_thread(self, work: Callable[[], T], pixels: int, picture: Picture) -> T:
        return await self.threads.run(work, pixels=pixels, client=picture.client, weight=picture.weight)

    async def _timed(self, stage: Stage, work: Coroutine[Any, Any, T]) -> tuple[T, float]:
        """Wait for ``work``; return its result and the seconds that it took, waiting for a thread included."""
        began = time.perf_counter()
        with self._spans.stage(stage):
            result = await work
        seconds = time.perf_counter() - began
        self._metrics.stage_seconds.labels(stage).observe(seconds)
        return result, seconds

    async def _open(self, picture: Picture) -> _Opened:
        return await self._in_thread(partial(_open, picture, self._limits), picture.size.pixels, picture)

    async def _mirrored(
        self, picture: Picture, pixels: NDArray[np.uint8], answer: RowAnswer
    ) -> tuple[RawMap[NDArray[np.float32]], ...]:
        """Explain the mirror image of a picture for the classes that the picture itself was explained for."""
        asked = picture.todo.targets
        classes = asked.resolve(ranking(answer.logits, len(answer.logits)))
        mirror_image, targets = np.ascontiguousarray(pixels[:, ::-1]), Targets(classes, asked.against)
        computed = await self._compute(picture, picture.todo.of_mirror_image, mirror_image, targets)
        return computed.answer.maps

    def _with_proof(self, drawn: MapAnswer, proof: Verification | None) -> MapAnswer:
        if proof is not None:
            self._metrics.verifications.labels(proof.verdict).inc()
        return replace(drawn, proof=proof)

    async def _compute(
        self, picture: Picture, todo: Plan, pixels: NDArray[np.uint8], targets: Targets, view: View | None = None
    ) -> Computed:
        future = asyncio.get_running_loop().create_future()
        entry = Entry(
            todo.lane,
            pixels,
            targets,
            future,
            queued_at=time.perf_counter(),
            client=picture.client,
            weight=picture.weight,
            amount=todo.amount,
            view=view,
        )
        entry.span = get_current_span()
        picture.stage = "queue"
        self._pool.submit(entry)
        try:
            return await entry.future
        finally:
            # Cancelled: the client went away or the deadline passed, and an entry that still waits is not computed.
            self._pool.withdraw(entry)
            picture.stage = "compute" if entry.started_at else "queue"
            self._spans.waited(entry)

    async def _draw(
        self, picture: Picture, opened: _Opened, drawing: Drawing, maps: Sequence[RawMap[NDArray[np.float32]]]
    ) -> tuple[MapAnswer, ...]:
        """Draw a picture's maps, some at a time: those that nobody waits for any more are not begun."""
        answers: list[MapAnswer] = []
        async with self._canvas(picture, opened, drawing) as canvas:
            step = max(1, _PIXELS_AT_A_TIME // max(1, drawing.amount))
            for begin in range(0, len(maps), step):
                some = maps[begin : begin + step]
                work = partial(_draw, drawing, some, canvas)
                is_soon_done = not drawing.amount and _are_small(some)
                drawn = work() if is_soon_done else await self._in_thread(work, drawing.pixels, picture)
                picture.spending.add(drawn)
                answers += drawn
        return tuple(answers)

    @asynccontextmanager
    async def _canvas(self, picture: Picture, opened: _Opened, drawing: Drawing) -> AsyncIterator[Canvas | None]:
        """Give what overlays are laid on: what was kept, or what is made anew and then held for all maps."""
        if opened.canvas is not None or not drawing.needs_canvas:
            yield opened.canvas
            return
        pixels = picture.size.pixels
        async with self._canvases.reserve(pixels if drawing.spec.size == "layer" else drawing.pixels):
            make = partial(_canvas_of, picture.upload.data, self._limits, opened.prepared.geometry, drawing.spec)
            yield await self._in_thread(make, pixels, picture)


def _are_small(maps: Sequence[RawMap[NDArray[np.float32]]]) -> bool:
    return len(maps) <= _MAPS_AT_ONCE and sum(each.values.size for each in maps) <= _CELLS_AT_ONCE


# -- in threads -------------------------------------------------------------------------------------------------------


def _header(data: bytes, limits: DecodeLimits, channels: int) -> Header | ServiceError:
    try:
        return read_header(data, limits, channels)
    except ServiceError as error:
        return error


def _open(picture: Picture, limits: DecodeLimits) -> _Opened:
    picture.digest()
    data, todo = picture.upload.data, picture.todo
    opened, picture.opened = picture.opened, None  # it holds on to what it has decoded
    image = decode_for(data, limits, todo.info.preprocess, opened)
    prepared = preprocess(image, todo.info.preprocess)
    spec, geometry = todo.render, prepared.geometry
    canvas = None
    if spec is not None and spec.needs_canvas:
        kept = image.width * image.height if spec.size == "layer" else pixels_for(spec, geometry)
        if kept <= KEPT_PIXELS:
            whole = decode(data, limits) if image.is_reduced else image  # people see all that there is
            canvas = Canvas(whole, geometry, spec.size, spec.max_side)
    return _Opened(image.width, image.height, prepared, canvas)


def _canvas_of(data: bytes, limits: DecodeLimits, geometry: Geometry, spec: RenderSpec) -> Canvas:
    return Canvas(decode(data, limits), geometry, spec.size, spec.max_side)


def _draw(drawing: Drawing, maps: Sequence[RawMap[NDArray[np.float32]]], canvas: Canvas | None) -> list[MapAnswer]:
    return [drawing.draw(raw, canvas) for raw in maps]


def _with_scores(drawn: MapAnswer, scores: Scores) -> MapAnswer:
    return replace(drawn, scores=scores)
