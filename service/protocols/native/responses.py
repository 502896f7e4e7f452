"""The engine's answers in the words of the native API."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from service import wire, wire_models, wire_verification
from service.cam.methods import METHODS
from service.engine.answers import StageTimes
from service.problems import problem_for
from service.verification.verdict import sentence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel

    from service.cam.layers import Layer
    from service.engine.answers import Answer, ClassScore, ImageAnswer, MapAnswer, Scores
    from service.engine.registry import ModelStatus, VersionStatus
    from service.imaging.encode import EncodedImage
    from service.imaging.geometry import Box
    from service.models.info import ModelInfo, SelfCheck
    from service.placement import Placement
    from service.verification.verdict import Verification

__all__ = ["input_size", "json_pieces", "layer_entry", "model_entry", "to_wire"]

_PIECE_BYTES = 256 * 1024
_NO_EXPLANATIONS = b'"explanations":[]'  # as it stands in no string: quotes in strings are escaped
_NO_RESULTS = b'"results":[]'


def to_wire(answer: Answer, request_id: str, *, with_maps: bool = False) -> wire.ExplainResponse:
    """Put the engine's answer into the words of the API; raw maps only on request, as they are large."""
    return wire.ExplainResponse(
        id=request_id,
        model=wire.ModelReference(name=answer.model.name, version=answer.model.version),
        results=[_result(image, request_id, with_maps=with_maps) for image in answer.images],
        timing=_timing(answer),
        cost=wire.RequestCost(
            forward=round(answer.cost.forward, 2), pixels=answer.cost.pixels, bytes=answer.cost.bytes
        ),
        precision=answer.model.dtype,
    )


def json_pieces(answer: Answer, request_id: str, *, with_maps: bool = False) -> Iterator[bytes]:
    """Yield the JSON of ``to_wire`` in pieces of some hundred kilobytes; no more than an explanation is copied."""
    pieces: list[bytes] = []
    for piece in _parts(answer, request_id, with_maps=with_maps):
        pieces.append(piece)
        if sum(map(len, pieces)) >= _PIECE_BYTES:
            yield b"".join(pieces)
            pieces.clear()
    yield b"".join(pieces)


def _parts(answer: Answer, request_id: str, *, with_maps: bool) -> Iterator[bytes]:
    bare = to_wire(replace(answer, images=()), request_id).model_copy(update={"timing": _timing(answer)})
    before, _, after = _json(bare).partition(_NO_RESULTS)
    yield before + _NO_RESULTS[:-1]
    for number, image in enumerate(answer.images):
        start, _, end = _json(_result(replace(image, explanations=()), request_id)).partition(_NO_EXPLANATIONS)
        yield (b"," if number else b"") + start + _NO_EXPLANATIONS[:-1]
        for place, explanation in enumerate(image.explanations):
            yield (b"," if place else b"") + _json(_explanation(explanation, with_map=with_maps))
        yield b"]" + end
    yield b"]" + after


def _json(body: BaseModel) -> bytes:
    return body.__pydantic_serializer__.to_json(body)


def _timing(answer: Answer) -> wire.Timing:
    times = [image.times for image in answer.images] or [StageTimes()]
    return wire.Timing(
        total_ms=_ms(answer.total_s),
        decode_ms=_ms(max(each.decode_s for each in times)),
        queue_ms=_ms(max(each.queue_s for each in times)),
        compute_ms=_ms(max(each.compute_s for each in times)),
        render_ms=_ms(max(each.render_s for each in times)),
        batch_size=max(each.batch_size for each in times),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _result(image: ImageAnswer, request_id: str, *, with_maps: bool = False) -> wire.PictureResult:
    return wire.PictureResult(
        image=wire.ImageInfo(
            index=image.index,
            filename=image.filename,
            width=image.width,
            height=image.height,
            sha256=image.sha256,
        ),
        view=None if image.view is None else _box(image.view),
        predictions=[
            wire.Prediction(
                rank=rank, index=score.index, label=score.label, probability=score.probability, logit=score.logit
            )
            for rank, score in enumerate(image.predictions, start=1)
        ],
        scores=_scores(image.scores),
        explanations=[_explanation(each, with_map=with_maps) for each in image.explanations],
        error=None if image.error is None else problem_for(image.error, request_id),
    )


def _explanation(answer: MapAnswer, *, with_map: bool) -> wire.Explanation:
    rendered = answer.rendered
    return wire.Explanation(
        layer=answer.layer,
        method=answer.method,
        target=_target(answer.target),
        against=None if answer.against is None else _target(answer.against),
        empty=answer.summary.reason is not None,
        reason=answer.summary.reason,
        note=answer.note,
        signed=rendered.signed,
        minimum=answer.summary.minimum,
        maximum=answer.summary.maximum,
        sum=answer.summary.sum,
        peak=None if rendered.peak is None else wire.PointData(x=rendered.peak.x, y=rendered.peak.y),
        heatmap=_encoded(rendered.heatmap),
        overlay=_encoded(rendered.overlay),
        mask=_encoded(rendered.mask),
        map=_map(answer) if with_map else None,
        regions=None
        if rendered.regions is None
        else [
            wire.RegionData(box=_box(region.box), polygon=list(region.polygon), score=region.score, area=region.area)
            for region in rendered.regions
        ],
        hidden=_encoded(rendered.hidden),
        scores=_scores(answer.scores),
        verification=None if answer.proof is None else _proof(answer.proof, answer.target.label),
    )


def _proof(proof: Verification, label: str) -> wire_verification.Verification:
    controls = proof.controls
    return wire_verification.Verification(
        drop=proof.drop,
        drop_probability=proof.drop_probability,
        controls=None if controls is None else wire_verification.ProofControls(**vars(controls)),
        p=proof.p,
        verdict=proof.verdict,
        reason=proof.reason,
        gates=wire_verification.ProofGates(**vars(proof.gates)),
        passes=proof.passes,
        text=sentence(proof, label),
    )


def _scores(scores: Scores | None) -> wire.ScoreData | None:
    return None if scores is None else wire.ScoreData(**vars(scores))


def _map(answer: MapAnswer) -> wire.ArrayData:
    little_endian = answer.raw.astype("<f4", copy=False)
    return wire.ArrayData(shape=list(answer.raw.shape), data=_base64(little_endian.tobytes()))


def _encoded(image: EncodedImage | None) -> wire.EncodedPicture | None:
    if image is None:
        return None
    return wire.EncodedPicture(
        media_type=image.media_type, width=image.width, height=image.height, data=_base64(image.data)
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _target(score: ClassScore) -> wire.ExplanationTarget:
    return wire.ExplanationTarget(
        index=score.index, label=score.label, probability=score.probability, logit=score.logit
    )


def _box(box: Box) -> wire.BoxData:
    return wire.BoxData(left=box.left, top=box.top, right=box.right, bottom=box.bottom)


def model_entry(status: ModelStatus, versions: Iterable[VersionStatus], *, default: bool) -> wire_models.ModelEntry:
    """Describe a model and its versions, as far as they are known yet."""
    config, info = status.config, status.known if status.on_demand else status.info
    known = _known(info) if info is not None else {}
    return wire_models.ModelEntry(
        name=config.name,
        state=status.state,
        reason=status.reason,
        versions=[_version(version) for version in versions],
        default=default,
        architecture=config.architecture,
        **known,
    )


def _version(status: VersionStatus) -> wire_models.VersionEntry:
    return wire_models.VersionEntry(
        version=status.version,
        state=status.state,
        reason=status.reason,
        progress=round(status.progress, 3),
        stage=status.stage,
        current=status.current,
        aliases=list(status.aliases),
    )


def _known(info: ModelInfo) -> dict[str, Any]:
    spec = info.preprocess
    return {
        "version": info.version,
        "digest": info.digest or None,
        "source": info.source or None,
        "input": input_size(info),
        "preprocessing": wire_models.Preprocessing(
            mode=spec.mode,
            resize=spec.resize,
            interpolation=spec.interpolation,
            decoding=spec.decoding,
            scale=spec.scale,
            mean=list(spec.mean),
            std=list(spec.std),
        ),
        "classes": len(info.labels),
        "default_layer": info.default_layer,
        "methods": [name for name in METHODS if name not in info.refused_methods],
        "refused_methods": dict(info.refused_methods),
        "channels": spec.channels,
        "order": spec.order,
        "prompts": info.prompts,
        "activation": info.activation,
        "multi_label": info.multi_label,
        "heads": {name: len(head.labels) for name, head in info.heads.items()},
        "default_head": info.default_head,
        "device": info.device,
        "dtype": info.dtype,
        "precision": info.dtype,
        "precision_asked": info.precision.asked,
        "precision_reason": info.precision.reason,
        "precision_check": _precision_check(info.precision.check),
        "folded": info.computing.folded,
        "folded_reason": info.computing.unfolded,
        "parts": info.computing.parts,
        "parts_reason": info.computing.whole,
        "parameters": info.parameters,
        "memory_bytes": info.memory,
        "warnings": [wire_models.ModelWarning(code=warning.code, text=warning.text) for warning in info.warnings],
    }


def _precision_check(check: SelfCheck | None) -> wire_models.PrecisionCheck | None:
    if check is None:
        return None
    rounded = {name: round(each, 5) if isinstance(each, float) else each for name, each in vars(check).items()}
    return wire_models.PrecisionCheck(**rounded)


def input_size(info: ModelInfo) -> wire_models.InputSize:
    """Return the size of a model's input."""
    return wire_models.InputSize(height=info.preprocess.height, width=info.preprocess.width)


def layer_entry(layer: Layer, info: ModelInfo) -> wire_models.LayerEntry:
    """Describe a layer of a model."""
    return wire_models.LayerEntry(
        name=layer.name,
        type=layer.type,
        kind=layer.kind,
        shape=list(layer.shape),
        stride=layer.stride,
        order=layer.order,
        explainable=layer.explainable,
        recommended=layer.name in info.recommended,
        placement=_placement(layer.placement),
        note=layer.note,
    )


def _placement(placement: Placement | None) -> wire_models.LayerPlacement | None:
    if placement is None:
        return None
    return wire_models.LayerPlacement(
        x=(placement.x.start, placement.x.step),
        y=(placement.y.start, placement.y.step),
        residual=placement.residual,
        by=placement.by,
    )
