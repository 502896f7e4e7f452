"""A picture, looked at by the model for what the controls of a project need."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from service.areas import levels_of
from service.engine.request import Request, Upload
from service.errors import InvalidOption, Overloaded, RateLimited, shorten
from service.labelling.labels import meanings
from service.protocols.label_studio.interactive import answering_control, part_pointed_at, pointed_at, value_of
from service.protocols.label_studio.place import other_layer
from service.protocols.label_studio.regions import (
    OUTPUTS,
    REGIONS,
    Choice,
    Looked,
    Size,
    area_result,
    choose,
    results_for,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.engine.answers import Answer, ImageAnswer, MapAnswer, Scores
    from service.engine.explainer import Explainer
    from service.labelling.labels import Meaning
    from service.models.info import ModelInfo
    from service.protocols.label_studio.config import Control, Labelling
    from service.protocols.label_studio.interactive import Pointed
    from service.protocols.label_studio.place import Place
    from service.settings import LabelStudioScore
    from service.vocabulary import Output

__all__ = ["Asking", "Seen", "look", "look_where"]

# So that a mask has the picture's own pixels: it is drawn pixel on pixel.
_ANY_SIDE = 100_000
_MAPPED = frozenset({"mass_inside", "flip_stability", "layer_agreement"})
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class Asking:
    """Who asks what, the same for all tasks of a request.

    Attributes:
        engine: answers.
        place: model, layer and method.
        labelling: the project's controls.
        client: whose request it is, as the engine wants to know.
        score: what the score of a prediction is.
        timeout_s: time for one picture.
    """

    engine: Explainer
    place: Place
    labelling: Labelling
    client: Mapping[str, Any]
    score: LabelStudioScore = "probability"
    timeout_s: float = 60.0
    _known: dict[tuple[int, str, str], list[Meaning]] = field(default_factory=dict, repr=False)

    def meanings(self, control: Control, info: ModelInfo) -> list[Meaning]:
        """Return what the labels of a control mean: the same for all tasks."""
        key = (id(control), info.version, info.digest)
        if key not in self._known:
            self._known[key] = meanings(control.labels, info, self.mapping())
        return self._known[key]

    async def answer(self, data: bytes, **options: Any) -> Answer:
        """Ask about a picture, again while the queue is full; whoever waits gives up in time."""
        request = Request(
            [Upload(data)],
            model=self.place.model,
            layers=(self.place.layer,),
            methods=(self.place.method,),
            threshold=self.labelling.threshold,
            timeout_s=self.timeout_s,
            **self.client,
        )
        while True:
            try:
                return await self.engine.answer(replace(request, **options))
            except (Overloaded, RateLimited) as error:
                await asyncio.sleep(min(float(error.retry_after_s), _LONGEST_PAUSE_S))

    def mapping(self) -> Mapping[str, Sequence[int | str]]:
        """Return what the model's configuration says of labels."""
        return self.engine.model(self.place.model).config.label_map

    async def in_thread(self, work: Any, amount: int) -> Any:
        """Do work whose time grows with the picture, by turns with others."""
        return await self.engine.in_thread(work, amount, self.client["client"], self.client.get("weight", 1.0))


@dataclass(frozen=True)
class Seen:
    """What a picture's controls get.

    Attributes:
        results: regions and choices.
        score: of the prediction; None where it has no such number.
        probability: of the likeliest label.
    """

    results: tuple[dict[str, Any], ...]
    score: float | None
    probability: float


async def look(
    asking: Asking, controls: Sequence[Control], data: bytes, item: int | None = None, region: Any = None
) -> Seen:
    """Fill in the controls about a picture.

    Args:
        asking: who asks, and what.
        controls: those about this picture.
        data: its file.
        item: which one of a list of pictures it is.
        region: what ``mass_inside`` refers to.

    Raises:
        ServiceError: it cannot be read or computed.
    """
    controls = [control for control in controls if not control.interactive_only]
    outputs = _outputs(controls, asking.score)
    info = asking.engine.ready_info(asking.place.model)
    everything: dict[str, Any] = {"top_k": len(info.labels), "scores": asking.score != "probability"}
    if outputs is None:
        answer = await asking.answer(data, op="predict", **everything)
    else:
        answer = await asking.answer(data, outputs=outputs, max_side=_ANY_SIDE, region=region, **everything)
    (image,) = answer.images
    probabilities = {each.index: each.probability for each in image.predictions}
    fit = partial(_fitting, controls, asking, answer.model, probabilities)
    chosen = await asking.in_thread(fit, sum(len(control.labels) for control in controls))
    maps = {each.target.index: each for each in image.explanations}
    missing = {each.index for control, found in chosen if control.type in REGIONS for each in found} - maps.keys()
    if missing:
        asked = tuple(sorted(missing))
        more = await asking.answer(data, targets=asked, outputs=outputs, max_side=_ANY_SIDE, region=region)
        maps |= {each.target.index: each for each in more.images[0].explanations}
    looked = Looked(image, Size(image.width, image.height, item), maps)
    likeliest = max((found[0] for _, found in chosen if found), key=lambda choice: choice.probability, default=None)
    scores = await _scores(asking, data, image, looked, likeliest, region)

    def results() -> list[dict[str, Any]]:
        threshold = asking.labelling.threshold
        return [result for control, found in chosen for result in results_for(control, found, looked, threshold)]

    drawn = any(control.type in {"brushlabels", "bitmasklabels"} for control in controls)
    made = await asking.in_thread(results, image.width * image.height) if drawn else results()
    probability = likeliest.probability if likeliest else image.predictions[0].probability
    score = probability if asking.score == "probability" else getattr(scores, asking.score, None)
    return Seen(tuple(made), score, probability)


def _outputs(controls: Sequence[Control], score: LabelStudioScore) -> tuple[Output, ...] | None:
    """Return what is needed of explanations; None where predictions will do."""
    needed = [OUTPUTS[control.type] for control in controls if control.type in REGIONS]
    if not needed:
        return None
    outputs = dict.fromkeys(output for each in needed for output in each)
    return (*outputs, *(("scores",) if score in _MAPPED and score != "layer_agreement" else ())) or ("map",)


def _fitting(
    controls: Sequence[Control], asking: Asking, info: ModelInfo, probabilities: Mapping[int, float]
) -> list[tuple[Control, list[Choice]]]:
    """Return the controls, each with those of its labels that fit."""
    independent = info.multi_label
    return [
        (each, choose(asking.meanings(each, info), probabilities, each, independent=independent)) for each in controls
    ]


async def _scores(
    asking: Asking, data: bytes, image: ImageAnswer, looked: Looked, likeliest: Choice | None, region: Any
) -> Scores | None:
    """Return the scores of a picture, those of its map where one of them is asked for."""
    if asking.score not in _MAPPED:
        return image.scores
    target = image.predictions[0].index if likeliest is None else likeliest.index
    known = looked.maps.get(target)
    if known is not None and known.scores is not None:
        return known.scores
    layers = [asking.place.layer]
    if asking.score == "layer_agreement":
        other = other_layer(asking.engine.ready_info(asking.place.model), asking.place.layer)
        layers += [other] if other else []
    answer = await asking.answer(data, targets=(target,), outputs=("scores",), layers=tuple(layers), region=region)
    return answer.images[0].explanations[0].scores


async def look_where(asking: Asking, image: str, context: Mapping[str, Any], data: bytes, item: int | None) -> Seen:
    """Find what lies where somebody pointed with a smart tool: the part of their class's map that hangs together there.

    Args:
        asking: who asks, and what.
        image: name of the picture's tag.
        context: what they marked.
        data: the picture's file.
        item: which one of a list of pictures it is.

    Raises:
        InvalidOption: there is no control to answer with, or no class for the label.
        ServiceError: the picture cannot be read or computed.
    """
    marks = pointed_at(context)
    label = next((mark.label for mark in marks if mark.label), None)
    control = answering_control(asking.labelling, image, label)
    if control is None:
        raise InvalidOption(
            "The project has nothing to answer with on this picture: add BrushLabels, BitmaskLabels, PolygonLabels or "
            "RectangleLabels beside the smart tool, without smartOnly."
        )
    choice = await _meant(asking, control, image, label, data)
    if choice is None or not any(mark.positive for mark in marks):
        return Seen((), 0.0, 0.0)
    answer = await asking.answer(
        data, targets=(choice.index,), outputs=("mask",), max_side=_ANY_SIDE, image_format="png"
    )
    (seen,) = answer.images
    (drawn,) = seen.explanations
    choice = replace(choice, probability=drawn.target.probability)
    size = Size(seen.width, seen.height, item)
    find = partial(_part, control, choice, drawn, marks, size, asking.labelling.threshold)
    results = await asking.in_thread(find, seen.width * seen.height)
    return Seen(tuple(results), choice.probability, choice.probability)


async def _meant(asking: Asking, control: Control, image: str, label: str | None, data: bytes) -> Choice | None:
    """Return the class that a chosen label means; without a label, the likeliest of the control's."""
    info = asking.engine.ready_info(asking.place.model)
    labels = [each for other in asking.labelling.about(image) for each in other.labels]
    named = control.labels if label is None else [each for each in labels if label in (each.value, *each.names)][:1]
    known = [each for each in meanings(named, info, asking.mapping()) if each.classes]
    if label is not None and not known:
        raise InvalidOption(
            f"Model {info.name!r} has no class for the label {shorten(label)!r}; say it in its label_map."
        )
    if len(known) == 1 and len(known[0].classes) == 1:
        return Choice(known[0].label.value, 0.0, known[0].classes[0])
    answer = await asking.answer(data, op="predict", top_k=len(info.labels))
    probabilities = {each.index: each.probability for each in answer.images[0].predictions}
    likely = choose(known, probabilities, control, independent=False)
    return likely[0] if likely else None


def _part(  # what a part of a map follows from
    control: Control, choice: Choice, drawn: MapAnswer, marks: Sequence[Pointed], size: Size, threshold: float
) -> list[dict[str, Any]]:
    """Return what lies where somebody pointed, as a result of a control; nothing where nothing speaks for it there."""
    if drawn.summary.reason is not None or drawn.rendered.mask is None:
        return []
    levels = levels_of(drawn.rendered.mask.data, size.width, size.height)
    mask = part_pointed_at(levels, marks, size, threshold)
    if not mask.any():
        return []
    if control.type in {"brushlabels", "bitmasklabels"}:
        return [area_result(control, choice, size, np.where(mask, levels, 0).astype(np.uint8), mask)]
    return [size.result(control, choice.probability, value_of(control, choice.label, levels, mask, size))]
