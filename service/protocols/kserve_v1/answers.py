"""The engine's answers in the words of V1, with the attributions of Vertex AI's explanations."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from service.verification.verdict import sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.engine.answers import Answer, ClassScore, ImageAnswer, MapAnswer, Scores
    from service.engine.request import Request
    from service.imaging.encode import EncodedImage
    from service.imaging.regions import Region
    from service.protocols.kserve_v1.requests import Echoes

__all__ = ["pieces"]


def pieces(answer: Answer, asked: Request, echoes: Echoes, request_id: str) -> Iterator[bytes]:
    """Yield the JSON of an answer, an instance at a time: explanations, where asked for, then predictions."""
    yield b"{"
    if asked.op == "explain":
        yield from _listed(b'"explanations":[', (_explanation(image, asked) for image in answer.images))
        yield b","
    predicted = (_prediction(image, echoes) for image in answer.images)
    yield from _listed(b'"predictions":[', predicted)
    about = {"deployedModelId": answer.model.name, "modelVersionId": answer.model.version, "id": request_id}
    yield b"," + to_json(about)[1:]


def _listed(before: bytes, items: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    yield before
    for number, item in enumerate(items):
        yield (b"," if number else b"") + to_json(item)
    yield b"]"


def _prediction(image: ImageAnswer, echoes: Echoes) -> dict[str, Any]:
    key = {"key": echoes.keys[image.index]} if image.index in echoes.keys else {}
    if image.error is not None:
        return {"error": image.error.message, **key}
    listed = [score for score in image.predictions if score.probability >= echoes.threshold]
    return {
        "classes": [_class(score) for score in listed],
        "ids": [str(score.index) for score in listed],
        "displayNames": [score.label for score in listed],
        "confidences": [score.probability for score in listed],
        **_scores(image.scores),
        **key,
    }


def _class(score: ClassScore) -> dict[str, Any]:
    return {"index": score.index, "label": score.label, "probability": score.probability, "logit": score.logit}


def _explanation(image: ImageAnswer, asked: Request) -> dict[str, Any]:
    if image.error is not None:
        return {"error": image.error.message}
    with_map = "map" in (asked.images[image.index].options or asked).outputs
    return {"attributions": [_attribution(explanation, with_map=with_map) for explanation in image.explanations]}


def _attribution(answer: MapAnswer, *, with_map: bool) -> dict[str, Any]:
    """Word an explanation: Vertex AI's members first, then what there is besides, where it was asked for."""
    rendered, summary = answer.rendered, answer.summary
    drawn = {
        name: _encoded(image)
        for name in ("heatmap", "mask", "hidden")
        if (image := getattr(rendered, name)) is not None
    }
    return {
        "outputIndex": [answer.target.index],
        "outputDisplayName": answer.target.label,
        "instanceOutputValue": answer.target.logit,
        "outputName": "logits",
        "featureAttributions": {"image": _laid_on(rendered.overlay)},
        "layer": answer.layer,
        "method": answer.method,
        "target": _class(answer.target),
        "against": None if answer.against is None else _class(answer.against),
        "empty": summary.reason is not None,
        "reason": summary.reason,
        "note": answer.note,
        "minimum": summary.minimum,
        "maximum": summary.maximum,
        "peak": None if rendered.peak is None else {"x": rendered.peak.x, "y": rendered.peak.y},
        **drawn,
        **({"map": _map(answer)} if with_map else {}),
        **({} if rendered.regions is None else {"regions": [_region(region) for region in rendered.regions]}),
        **_scores(answer.scores),
        **_verification(answer),
    }


def _verification(answer: MapAnswer) -> dict[str, Any]:
    if answer.proof is None:
        return {}
    return {"verification": {**asdict(answer.proof), "text": sentence(answer.proof, answer.target.label)}}


def _scores(scores: Scores | None) -> dict[str, Any]:
    return {} if scores is None else {"scores": vars(scores)}


def _laid_on(overlay: EncodedImage | None) -> dict[str, str]:
    """Return the overlay by the name that Vertex AI gives it: ``b64_jpeg``."""
    if overlay is None:
        return {}
    return {f"b64_{overlay.media_type.removeprefix('image/')}": _base64(overlay.data)}


def _encoded(image: EncodedImage) -> dict[str, Any]:
    return {
        "media_type": image.media_type,
        "width": image.width,
        "height": image.height,
        "data": _base64(image.data),
    }


def _map(answer: MapAnswer) -> dict[str, Any]:
    data = answer.raw.astype("<f4", copy=False).tobytes()
    return {"dtype": "float32", "shape": list(answer.raw.shape), "data": _base64(data)}


def _region(region: Region) -> dict[str, Any]:
    box = region.box
    return {
        "box": {"left": box.left, "top": box.top, "right": box.right, "bottom": box.bottom},
        "polygon": region.polygon,
        "score": region.score,
        "area": region.area,
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
