"""A request's options, checked against a model and resolved to what the engine computes and draws."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.cam.methods import METHODS
from service.cam.questions import Question, Top
from service.engine.messages import Lane
from service.errors import InvalidOption, UnknownMethod
from service.imaging.render import RenderSpec
from service.wire import ExplainOptions

if TYPE_CHECKING:
    from service.models.info import ModelInfo
    from service.wire import PredictOptions

__all__ = ["Plan", "plan"]

_TOP = re.compile(r"top-(\d{1,6})", re.IGNORECASE)
_NO_QUESTION = Question(())


@dataclass(frozen=True)
class Plan:
    """What is done to each picture of a request.

    Attributes:
        lane: what the pictures share with their batch-mates.
        question: what each is asked.
        top_k: how many predictions are listed.
        render: what is drawn; None for predictions alone.
    """

    lane: Lane
    question: Question
    top_k: int
    render: RenderSpec | None


def plan(options: PredictOptions, info: ModelInfo, max_explanations: int) -> Plan:
    """Resolve ``options`` for the model ``info``.

    Raises:
        InvalidOption: top_k beyond the classes, or more explanations than allowed.
        UnknownLayer, LayerNotExplainable, UnknownLabel, UnknownMethod, UnknownColormap: see there.
    """
    top_k = _top_k(options, info)
    if not isinstance(options, ExplainOptions):
        return Plan(Lane(info.name, "predict"), _NO_QUESTION, top_k, None)
    lane = Lane(
        info.name,
        "explain",
        layers=tuple(info.layer(name).name for name in options.layer),
        methods=tuple(_method(name) for name in options.method),
    )
    question = Question(
        targets=tuple(_target(target, info) for target in options.target),
        against=None if options.against is None else info.class_index(options.against),
    )
    asked = sum(target.k if isinstance(target, Top) else 1 for target in question.targets)
    explanations = len(lane.layers) * len(lane.methods) * asked
    if explanations > max_explanations:
        raise InvalidOption(
            f"{explanations} explanations per picture are asked for (layers × methods × targets); "
            f"at most {max_explanations} are made in one request."
        )
    return Plan(lane, question, top_k, _render_spec(options))


def _top_k(options: PredictOptions, info: ModelInfo) -> int:
    classes = len(info.labels)
    if options.top_k > classes and "top_k" in options.model_fields_set:
        raise InvalidOption(f"top_k is {options.top_k}, but model {info.name!r} has only {classes} classes.")
    return min(options.top_k, classes)


def _target(target: int | str, info: ModelInfo) -> int | Top:
    text = str(target).strip()
    if text.casefold() == "predicted":
        return Top(1)
    if top := _TOP.fullmatch(text):
        k = int(top[1])
        if not 1 <= k <= len(info.labels):
            raise InvalidOption(f"{text!r} is out of range: model {info.name!r} has {len(info.labels)} classes.")
        return Top(k)
    return info.class_index(target)


def _method(name: str) -> str:
    if name not in METHODS:
        raise UnknownMethod.among(name, METHODS, "GET /api/v1/methods lists them.")
    return name


def _render_spec(options: ExplainOptions) -> RenderSpec:
    return RenderSpec(
        outputs=frozenset(options.output),
        size=options.size,
        colormap=options.colormap,
        alpha=options.alpha,
        threshold=options.threshold,
        image_format=options.image_format,
        max_side=options.max_side,
    )
