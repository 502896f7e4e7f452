"""What is measured of a loaded model with real pictures: on the way that requests take."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

import torch

from service.cam.capture import TOLERANCE
from service.cam.raw_map import RawMap
from service.check.report import Row
from service.check.subject import DEFAULT_METHOD
from service.check.warned import row_with_warnings
from service.engine.drawing import Drawing
from service.engine.plan import plan
from service.engine.request import Request
from service.engine.scores import ranking, scores_of
from service.errors import ServiceError
from service.imaging.canvas import Canvas
from service.imaging.preprocess import preprocess
from service.models.host import HowTo
from service.models.repeatability import rows_apart, runs_apart

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from service.check.report import Step
    from service.check.subject import Subject
    from service.engine.answers import MapAnswer
    from service.engine.plan import Plan
    from service.imaging.decode import DecodedImage
    from service.vocabulary import EmptyReason

__all__ = ["batch_row", "determinism_row", "gradient_row", "picture_row", "time_row"]

_BATCHES = (1, 8)
_RUNS, _LONG_ENOUGH_S = 5, 2.0


# -- answers ----------------------------------------------------------------------------------------------------------


def batch_row(subject: Subject) -> Row:
    """Compare answers for eight pictures together with those for each alone."""
    apart = rows_apart(subject.host.network(), subject.host.normalise(subject.pixels))
    return _compared(subject, "batch", "eight pictures together and alone", apart, _ROWS)


_ROWS = (
    "Noise did not show it when the model was loaded, real pictures do: the answer for a picture changes with those "
    "beside it. Look for a layer that mixes rows, such as a normalisation over the batch that is active in eval mode."
)


def determinism_row(subject: Subject) -> Row:
    """Compare two answers for the same pictures."""
    apart = runs_apart(subject.host.network(), subject.host.normalise(subject.pixels))
    return _compared(subject, "determinism", "two runs", apart, _RUNS_DIFFER)


_RUNS_DIFFER = (
    "The same pictures get other answers the second time, though noise did not when the model was loaded. Look for "
    "random numbers, and for what the model keeps from one pass to the next."
)


def _compared(subject: Subject, step: Step, what: str, apart: float, note: str) -> Row:
    found = f"{what}: logits differ by {apart:.1g} of the largest"
    if apart <= TOLERANCE[getattr(torch, subject.info.dtype)]:
        return row_with_warnings(subject.info, step, found)
    return Row(step, "failed", found, (note,))


# -- explanations -----------------------------------------------------------------------------------------------------


def gradient_row(subject: Subject) -> Row:
    """Explain pictures with the default method at the default layer."""
    info = subject.info
    if DEFAULT_METHOD in info.refused_methods:
        return row_with_warnings(info, "gradient", "none", "failed")
    todo = _todo(subject, DEFAULT_METHOD)
    answers = subject.host.explain(subject.pixels, [todo.targets] * len(subject.pixels), _how(todo))
    flat = sum(raw.zero_gradient for answer in answers for raw in answer.maps)
    high = max(float(raw.values.max()) for answer in answers for raw in answer.maps)
    found = f"{DEFAULT_METHOD} at {info.default_layer}: maps reach {high:.3g}; no gradient in {flat} of {len(answers)}"
    if flat < len(answers):
        return row_with_warnings(info, "gradient", found)
    return row_with_warnings(info, "gradient", found, "warning")


def _todo(subject: Subject, method: str) -> Plan:
    asked = Request(op="explain", methods=(method,), outputs=("overlay",), image_format="png")
    return plan(asked, subject.info, max_explanations=1)


def _how(todo: Plan) -> HowTo:
    return HowTo(todo.lane.layers, todo.lane.methods, todo.lane.cam_options, todo.lane.head)


def picture_row(subject: Subject) -> Row:
    """Explain one picture as a request would have it explained, and keep the overlay where that is wanted."""
    name, image = subject.job.image_name, subject.picture
    if isinstance(image, ServiceError):
        return Row("picture", "warning", name, (f"{image} Give it one of its own: --image FILE.",))
    logits, drawn = _explained(subject, image)
    scores = scores_of(logits, subject.info)
    best = (scores(index) for index in ranking(logits, min(3, len(logits))))
    found = f"{name}: {', '.join(f'{each.label} {each.probability:.1%}' for each in best)}"
    if drawn is None:
        return Row("picture", "warning", found, ("No method explains it: only predictions are left.",))
    found += f"; {drawn.method} at {drawn.layer} for {drawn.target.label}"
    found += _written(subject, drawn)
    if drawn.summary.reason is None:
        return Row("picture", "ok", found)
    return Row("picture", "warning", found, (f"The map is empty: {_EMPTY[drawn.summary.reason]}.",))


_EMPTY: dict[EmptyReason, str] = {
    "no_positive_evidence": "nothing in the picture speaks for the class at that layer; try one of its own pictures, "
    "--image FILE, or signed maps",
    "zero_gradient": "the class's logit has no gradient there; name another layer, or a method that needs none",
    "constant": "it is the same everywhere, so it says nothing of places; name another layer",
}


def _explained(subject: Subject, image: DecodedImage) -> tuple[NDArray[np.float32], MapAnswer | None]:
    """Return the logits (classes,) and the map, drawn."""
    assert not isinstance(subject.seen, ServiceError), "it could be decoded in full"
    prepared = preprocess(subject.seen, subject.info.preprocess)
    if subject.method is None:
        return subject.host.predict(prepared.pixels[None]).numpy()[0], None
    todo = _todo(subject, subject.method)
    assert todo.render is not None
    (answer,) = subject.host.explain(prepared.pixels[None], [todo.targets], _how(todo))
    logits = answer.logits.numpy()
    drawing = Drawing(todo, todo.render, prepared.geometry, scores_of(logits, subject.info))
    canvas = Canvas(image, prepared.geometry, todo.render.size, todo.render.max_side)
    (raw,) = answer.maps
    found = RawMap(raw.layer, raw.method, raw.target, raw.values.numpy(), raw.zero_gradient)
    return logits, drawing.draw(found, canvas)


def _written(subject: Subject, drawn: MapAnswer) -> str:
    if subject.job.out is None or drawn.rendered.overlay is None:
        return ""
    file = subject.job.out / f"{subject.info.name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(drawn.rendered.overlay.data)
    return f"; overlay in {file}"


# -- time and memory --------------------------------------------------------------------------------------------------


def time_row(subject: Subject) -> Row:
    """Measure how long batches take, and what memory that needed."""
    method = subject.method
    what = "predictions" if method is None else method
    times: list[str] = []
    for size in _BATCHES:
        try:
            seconds = _seconds(lambda: _compute(subject, method, size))  # noqa: B023  # called at once
        except torch.OutOfMemoryError:
            note = f"The device has too little memory for a batch of {size}: set max_batch_size to less."
            return Row("time", "warning", ", ".join(times), (note,))
        times.append(f"a batch of {size} in {_human(seconds)}")
    return Row("time", "ok", f"{what}: {', '.join(times)}; {_memory(subject)}")


def _compute(subject: Subject, method: str | None, size: int) -> None:
    pixels = subject.pixels[:size]
    if method is None:
        subject.host.predict(pixels)
        return
    todo = _todo(subject, method)
    subject.host.explain(pixels, [todo.targets] * size, _how(todo))


def _seconds(work: Callable[[], None]) -> float:
    """Return the least time of some runs after one that does not count."""
    work()
    best, began = float("inf"), time.perf_counter()
    for _ in range(_RUNS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > _LONG_ENOUGH_S:
            break
    return best


def _human(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _memory(subject: Subject) -> str:
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    of_device = ""
    if subject.info.device.startswith("cuda"):
        of_device = f", {torch.cuda.max_memory_allocated(subject.info.device) / 2**20:.0f} MiB on {subject.info.device}"
    return f"at most {process:.0f} MiB in the process{of_device}"
