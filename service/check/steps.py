"""The steps of a check once the model is loaded, and what is said of one that was not."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, get_args

from service.cam.methods import METHODS
from service.check.preparing import preprocessing_row, reference_row
from service.check.report import Row
from service.check.trials import batch_row, determinism_row, gradient_row, picture_row, time_row
from service.check.warned import row_with_warnings
from service.errors import ServiceError, kind_and_line
from service.vocabulary import LoadCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from service.cam.layers import Layer
    from service.check.report import Step
    from service.check.subject import Subject
    from service.models.info import ModelInfo
    from service.models.sources.source import LoadedModel

__all__ = ["check_loaded", "passed_rows", "source_row"]

log = logging.getLogger("camserve.check")

_FEW = 5


# -- of a model that could not be loaded ------------------------------------------------------------------------------


def source_row(loaded: LoadedModel) -> Row:
    """Say what the source gave, before anything is known of it."""
    parameters = sum(parameter.numel() for parameter in loaded.module.parameters())
    return Row("model", "ok", f"version {loaded.version}, {_millions(parameters)} parameters")


def passed_rows(begun: Sequence[LoadCheck]) -> Iterator[Row]:
    """Yield a row for every step that was passed before the last of those that were begun, where loading failed."""
    order = get_args(LoadCheck)
    for stage in dict.fromkeys(begun[:-1]):
        if stage != "model" and order.index(stage) < order.index(begun[-1]):
            yield Row(stage, "ok", "passed while it was loaded")


# -- of a loaded one --------------------------------------------------------------------------------------------------


def check_loaded(subject: Subject, at: Callable[[Step], None]) -> Iterator[Row]:
    """Take all steps; ``at`` hears of each before it begins. One that raises has failed, and the next is taken."""
    for step, take in _STEPS.items():
        at(step)
        try:
            yield take(subject)
        except ServiceError as error:
            yield Row(step, "failed", notes=(error.message,))
        except Exception as error:  # a model's code may raise anything
            log.exception("the step %s failed", step)
            yield Row(step, "failed", notes=(f"It raised {kind_and_line(error)}. The log has more.",))


def _model_row(subject: Subject) -> Row:
    info = subject.info
    weights = f" from {subject.job.config.weights}" if subject.job.config.weights else ""
    found = (
        f"{info.source}: {info.architecture}{weights}, version {info.version}, digest {info.digest[:12]}, "
        f"{_millions(info.parameters)} parameters, {info.dtype} on {info.device}{_settled(info)}, {_folding(info)}"
    )
    return row_with_warnings(info, "model", found)


def _settled(info: ModelInfo) -> str:
    """Say how its precision was settled, where something was to be settled."""
    if info.precision.reason is not None:
        return f" ({info.precision.asked} was asked for. {info.precision.reason})"
    check = info.precision.check
    if check is None:
        return ""
    maps = "" if check.correlation is None else f"maps correlate to {check.correlation:.4f}, "
    near = f"{maps}logits differ by {check.logits_apart:.1%} at most"
    return f" ({info.precision.asked} was asked for; against float32, {near})"


def _folding(info: ModelInfo) -> str:
    """Say whether its convolutions compute what comes next, too."""
    return "folded" if info.computing.folded else f"not folded ({info.computing.unfolded})"


def _labels_row(subject: Subject) -> Row:
    info = subject.info
    if not info.heads:
        return row_with_warnings(info, "labels", _classes(info.labels, info.activation))
    heads = [f"head {name}: {_classes(head.labels, head.activation)}" for name, head in info.heads.items()]
    return row_with_warnings(info, "labels", f"{'; '.join(heads)}; by default {info.default_head}")


def _classes(labels: Sequence[str], activation: str) -> str:
    shown = ", ".join(labels[:_FEW]) + (" …" if len(labels) > _FEW else "")
    return f"{len(labels)} classes ({shown}), {activation}"


def _layers_row(subject: Subject) -> Row:
    info = subject.info
    explainable = [layer for layer in info.layers if layer.explainable]
    found = f"{len(explainable)} of {len(info.layers)} can be explained; default {_placed(info.layer('default'))}"
    refused = Counter(_reason(layer) for layer in info.layers if not layer.explainable)
    listed = "; ".join(f"{reason} ({count})" for reason, count in refused.most_common(_FEW))
    return row_with_warnings(info, "layers", f"{found}. Refused: {listed}" if refused else found)


def _placed(layer: Layer) -> str:
    rows, columns = layer.grid
    assert layer.placement is not None
    if layer.placement.by == "stretch":
        return f"{layer.name}, {rows}×{columns} cells, stretched over the input"
    across = f"from pixel {layer.placement.x.start:.3g} in steps of {layer.placement.x.step:.3g}"
    return f"{layer.name}, {rows}×{columns} cells, measured ({across})"


def _reason(layer: Layer) -> str:
    """Return why a layer is refused, without what differs from layer to layer."""
    return (layer.note or "no reason").partition("; call ")[0].partition(": [")[0]


def _methods_row(subject: Subject) -> Row:
    refused = subject.info.refused_methods
    works = [name for name in METHODS if name not in refused]
    reasons: dict[str, list[str]] = {}
    for name, reason in refused.items():
        reasons.setdefault(reason, []).append(name)
    listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    found = f"{len(works)} of {len(METHODS)} work"
    return Row("methods", "ok" if works else "failed", f"{found}. Refused: {listed}" if refused else found)


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} million" if count >= 100_000 else str(count)


_STEPS: dict[Step, Callable[[Subject], Row]] = {
    "model": _model_row,
    "labels": _labels_row,
    "preprocessing": preprocessing_row,
    "reference": reference_row,
    "layers": _layers_row,
    "batch": batch_row,
    "determinism": determinism_row,
    "gradient": gradient_row,
    "methods": _methods_row,
    "time": time_row,
    "picture": picture_row,
}
