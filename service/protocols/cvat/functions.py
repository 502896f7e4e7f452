"""The functions that CVAT sees: five of every model, each described as Nuclio describes its own.

The list is valid whatever state the models are in: CVAT shows no function at all where one of them is described badly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from service.errors import UnknownFunction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from service.engine.versions import ModelStatus
    from service.vocabulary import ModelState

__all__ = ["Function", "Kind", "described", "find", "listed"]

Kind = Literal["tag", "rectangle", "polygon", "mask", "click"]

_MEANS: Mapping[Kind, str] = {
    "tag": "names the picture's class",
    "rectangle": "draws a rectangle around each area that speaks for the class",
    "polygon": "outlines each area that speaks for the class",
    "mask": "masks each area that speaks for the class",
    "click": "masks the area under a click that speaks for one of the best classes",
}
_STATES: Mapping[ModelState, str] = {"ready": "ready", "unloaded": "ready", "loading": "building", "failed": "error"}
# CVAT reads numbers from text; a function without the third takes no negative clicks.
_INTERACTOR = {
    "type": "interactor",
    "version": "2",
    "min_pos_points": "1",
    "min_neg_points": "0",
    "help_message": "Click what should be masked; clicks of the other button take away what lies nearer to them.",
    "animated_gif": "",
}
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Function:
    """A function: what it makes, and with which model."""

    model: str
    kind: Kind

    @property
    def name(self) -> str:
        """How CVAT calls it."""
        return f"{self.model}-{self.kind}"


def find(name: str, models: Iterable[ModelStatus]) -> tuple[Function, ModelStatus]:
    """Return the function of that name, and how its model is.

    Raises:
        UnknownFunction: there is none.
    """
    there = {function.name: (function, status) for status in models for function in _functions(status)}
    if name not in there:
        raise UnknownFunction.among(name, there)
    return there[name]


def listed(models: Iterable[ModelStatus]) -> dict[str, Any]:
    """Describe all functions, by name."""
    return {function.name: described(function, status) for status in models for function in _functions(status)}


def described(function: Function, status: ModelStatus) -> dict[str, Any]:
    """Describe a function as Nuclio does, which has texts where one would expect lists and numbers."""
    name, kind = status.config.name, function.kind
    annotations: dict[str, Any] = {"name": f"{name}: {kind}", "framework": "camserve"}
    if kind == "click":
        annotations |= _INTERACTOR | {"spec": "[]"}
    else:
        annotations |= {"type": "detector", "spec": json.dumps(_labels(status, kind), ensure_ascii=False)}
    return {
        "metadata": {"name": function.name, "annotations": annotations},
        "spec": {"description": _description(status, kind)},
        "status": {"state": _STATES[status.state], "httpPort": 0},
    }


def _functions(status: ModelStatus) -> list[Function]:
    return [Function(status.config.name, kind) for kind in get_args(Kind)]


def _labels(status: ModelStatus, kind: Kind) -> list[dict[str, Any]]:
    """List a model's labels, each once: CVAT drops a function that has one twice, as ImageNet's cranes would be."""
    known = status.info or status.known
    labels = dict.fromkeys(known.labels if known else ())
    return [{"id": place, "name": label, "type": kind, "attributes": []} for place, label in enumerate(labels)]


def _description(status: ModelStatus, kind: Kind) -> str:
    text = f"Grad-CAM of {status.config.name}: {_MEANS[kind]}."
    if status.state == "failed":
        return f"{text} It cannot be used: {status.reason or 'the model could not be loaded'}"[:_LONGEST_REASON]
    return f"{text} The model is being loaded." if status.state == "loading" else text
