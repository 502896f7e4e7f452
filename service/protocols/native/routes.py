"""The native API: its routes under ``/api/v1``, translated to and from the engine. docs/api.md describes it."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from service import wire, wire_models
from service.cam.methods import METHODS
from service.engine.explainer import Explainer
from service.errors import InvalidOption
from service.http.answers import AT_ONCE_BYTES, LargeAnswer
from service.http.requests import accepted_format, unless_gone
from service.http.routes import DirectRoute
from service.imaging.colormaps import COLORMAPS
from service.options import DEFAULT_COLORMAP, Options
from service.protocols import key_scope, operation_id
from service.protocols.native.requests import read_request
from service.protocols.native.responses import input_size, json_pieces, layer_entry, model_entry, to_wire
from service.vocabulary import LayerKind

if TYPE_CHECKING:
    from pydantic import BaseModel

    from service.engine.answers import Answer

__all__ = ["Engine", "described", "json_response", "router"]

_computing = APIRouter(prefix="/api/v1", route_class=DirectRoute, generate_unique_id_function=operation_id)
_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"model": wire.ExplainResponse}}


@_computing.post("/explain", tags=["explain"], summary="Explain pictures with the default model", responses=_ANSWERS)
@key_scope("infer")
async def explain(request: Request) -> Response:
    """Predictions, and for every layer, method and target a map of where the model looked."""
    return await _explain(request, None)


@_computing.post(
    "/models/{model}/explain", tags=["explain"], summary="Explain pictures with a given model", responses=_ANSWERS
)
@key_scope("infer")
async def explain_with(model: str, request: Request) -> Response:
    """Predictions, and for every layer, method and target a map of where the model looked."""
    return await _explain(request, model)


@_computing.post("/predict", tags=["predict"], summary="Classify pictures with the default model", responses=_ANSWERS)
@key_scope("infer")
async def predict(request: Request) -> Response:
    """Predictions alone, with no gradient work."""
    return await _predict(request, None)


@_computing.post(
    "/models/{model}/predict", tags=["predict"], summary="Classify pictures with a given model", responses=_ANSWERS
)
@key_scope("infer")
async def predict_with(model: str, request: Request) -> Response:
    """Predictions alone, with no gradient work."""
    return await _predict(request, model)


@_computing.post(
    "/models/{model}/versions/{version}/explain",
    tags=["explain"],
    summary="Explain pictures with a version of a model",
    responses=_ANSWERS,
)
@key_scope("infer")
async def explain_version(model: str, version: str, request: Request) -> Response:
    """As `explain`, with a version that an alias points to, or with the one that the model's name points to."""
    return await _explain(request, model, version)


@_computing.post(
    "/models/{model}/versions/{version}/predict",
    tags=["predict"],
    summary="Classify pictures with a version of a model",
    responses=_ANSWERS,
)
@key_scope("infer")
async def predict_version(model: str, version: str, request: Request) -> Response:
    """As `predict`, with a version that an alias points to, or with the one that the model's name points to."""
    return await _predict(request, model, version)


async def _explain(request: Request, model: str | None, version: str | None = None) -> Response:
    engine: Explainer = request.state.explainer
    engine.refuse_early(model, version)
    asked = await read_request(request, "explain", model, version)
    image_format = accepted_format(request)
    if image_format is not None:
        asked = replace(asked, outputs=("overlay",), image_format=image_format)
    answer = await unless_gone(request, engine.answer(asked))
    if image_format is not None:
        return _overlay_alone(answer)
    with_maps = "map" in asked.outputs
    if answer.cost.bytes > AT_ONCE_BYTES:
        return LargeAnswer(engine, answer, json_pieces(answer, request.state.request_id, with_maps=with_maps), asked)
    return json_response(to_wire(answer, request.state.request_id, with_maps=with_maps))


async def _predict(request: Request, model: str | None, version: str | None = None) -> Response:
    engine: Explainer = request.state.explainer
    engine.refuse_early(model, version)
    answer = await unless_gone(request, engine.answer(await read_request(request, "predict", model, version)))
    return json_response(to_wire(answer, request.state.request_id))


router = APIRouter(prefix="/api/v1", generate_unique_id_function=operation_id)
router.routes.extend(_computing.routes)


async def _explainer(request: Request) -> Explainer:
    # async though it waits for nothing: FastAPI would run it in a thread, which doubles what a refusal costs.
    explainer: Explainer = request.state.explainer
    return explainer


Engine = Annotated[Explainer, Depends(_explainer)]


@router.get("/models", tags=["models"], summary="List the models")
async def models(request: Request, engine: Engine) -> wire_models.ModelList:
    """What is served, the default model first."""
    entries = [
        model_entry(status, engine.versions(status.config.name), default=not index)
        for index, status in enumerate(engine.models())
    ]
    may = "off" if not engine.management.is_on else "allowed" if "manage" in request.state.scopes else "forbidden"
    return wire_models.ModelList(default=entries[0].name, management=may, models=entries)


@router.get("/models/{model}", tags=["models"], summary="Describe a model")
async def model(model: str, engine: Engine) -> wire_models.ModelEntry:
    """Input size, preprocessing, classes, default layer, methods, device, state and versions."""
    return described(engine, model)


def described(engine: Explainer, model: str) -> wire_models.ModelEntry:
    """Describe the model that a name or an alias points to."""
    status = engine.model(model)
    name = status.config.name
    return model_entry(status, engine.versions(name), default=name == engine.model().config.name)


@router.get("/models/{model}/layers", tags=["models"], summary="List a model's layers")
async def layers(
    model: str,
    engine: Engine,
    explainable: Annotated[bool | None, Query(description="Only layers that can, or cannot, be explained.")] = None,
    kind: Annotated[
        LayerKind | None,
        Query(description="Only layers of this kind."),
    ] = None,
) -> wire_models.LayerList:
    """The layer catalogue, in forward order."""
    info = engine.ready_info(model)
    listed = [
        layer_entry(layer, info)
        for layer in info.layers
        if (explainable is None or layer.explainable == explainable) and (kind is None or layer.kind == kind)
    ]
    return wire_models.LayerList(model=info.name, input=input_size(info), default=info.default_layer, layers=listed)


@router.get("/models/{model}/classes", tags=["models"], summary="Search a model's labels")
async def classes(
    model: str,
    engine: Engine,
    q: Annotated[str, Query(description="Part of a label; everything if empty.", max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=100_000)] = 20,
    head: Annotated[
        str | None, Query(description="Of a model with several outputs: whose classes.", max_length=200)
    ] = None,
) -> wire_models.ClassList:
    """Classes whose label contains the query, those that begin with it first."""
    info = engine.ready_info(model).head_view(head)
    found = [wire_models.ClassEntry(index=index, label=info.labels[index]) for index in info.search_labels(q, limit)]
    return wire_models.ClassList(model=info.name, total=len(info.labels), classes=found)


@router.get("/methods", tags=["options"], summary="List the methods")
async def methods() -> wire.MethodList:
    """The methods that may be asked for."""
    return wire.MethodList(
        default=Options.methods[0],
        methods=[
            wire.MethodEntry(
                name=name,
                title=row.title,
                summary=row.summary,
                paper=row.paper,
                needs_gradients=row.needs_gradients,
                class_specific=row.class_specific,
                signed=row.signed,
                uses_layer=row.uses_layer,
                forwards=row.forwards,
            )
            for name, row in METHODS.items()
        ],
    )


@router.get("/colormaps", tags=["options"], summary="List the colormaps")
async def colormaps() -> wire.ColormapList:
    """The colormaps that may be asked for; warm is important, cool is not."""
    entries = [
        wire.ColormapEntry(name=name, kind=row.kind, table=base64.b64encode(row.table.tobytes()).decode("ascii"))
        for name, row in COLORMAPS.items()
    ]
    return wire.ColormapList(default=DEFAULT_COLORMAP, colormaps=entries)


def json_response(body: BaseModel, status: int = 200) -> Response:
    """Answer with a model of the wire."""
    # Written as bytes in one go: FastAPI's default way through Python objects costs more than the model.
    return Response(body.__pydantic_serializer__.to_json(body), status, media_type="application/json")


def _overlay_alone(answer: Answer) -> Response:
    explanations = [explanation for image in answer.images for explanation in image.explanations]
    overlay = explanations[0].rendered.overlay if len(explanations) == 1 and len(answer.images) == 1 else None
    if overlay is None:
        raise InvalidOption(
            "'Accept: image/…' needs exactly one picture and one explanation, and there are "
            f"{len(answer.images)} and {len(explanations)}. Ask for fewer, or accept application/json."
        )
    return Response(overlay.data, media_type=overlay.media_type)
