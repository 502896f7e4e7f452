"""The native API's routes for evaluations, which take minutes. See docs/api.md.

They stand on the router of the other native routes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request, Response
from pydantic import ValidationError
from starlette.responses import StreamingResponse

from service import wire_evaluation as wire
from service.errors import InvalidRequest, NoImage, Overloaded
from service.http.options import option_error, query_options
from service.http.requests import client_of, unless_gone
from service.http.stored_forms import Allowed, read_stored_form
from service.jobs.asked import Viewer, Wanted
from service.jobs.evaluations import Evaluations
from service.jobs.material import ANNOTATIONS, Image, Material
from service.jobs.refusals import unwritable
from service.protocols import key_scope
from service.protocols.native.management import router
from service.protocols.native.routes import Engine, json_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.engine.lifecycle import Lifecycle
    from service.http.stored_forms import StoredFile
    from service.jobs.job import Job
    from service.settings import Settings

__all__ = ["LARGE_POSTS", "router"]

LARGE_POSTS = {f"{router.prefix}/evaluations": "max_evaluation_bytes"}

_MAX_ANNOTATIONS = 64 * 1024 * 1024
_READERS = 8  # of the events of one evaluation
_BEAT_S, _LOOK_S = 15.0, 1.0
# The report brings its own style and pictures, and nothing may run in it, whatever the names in it are.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox"
)


async def _evaluations(request: Request) -> Evaluations:
    evaluations: Evaluations = request.state.evaluations
    return evaluations


async def _viewer(request: Request) -> Viewer:
    state = request.scope["state"]
    return Viewer(state.get("key"), sees_all="manage" in state["scopes"])


All = Annotated[Evaluations, Depends(_evaluations)]
Who = Annotated[Viewer, Depends(_viewer)]

_TAKEN: dict[int | str, dict[str, Any]] = {
    202: {"model": wire.Evaluation, "description": "It waits for its turn; `Location` says where it is."}
}


@router.post(
    "/evaluations", tags=["evaluations"], summary="Evaluate layers and methods", status_code=202, responses=_TAKEN
)
@key_scope("infer")
async def evaluate(request: Request, engine: Engine, evaluations: All, viewer: Who) -> Response:
    """Measure on pictures of one's own which layer and method explain a model best, for which purpose.

    It takes minutes, beside the requests that are answered meanwhile, which go first.
    """
    engine.ready_info()
    with evaluations.place(viewer.owner):
        async with evaluations.folder() as (name, folder):
            try:
                wanted, material = await _received(request, folder)
                charge = client_of(request).get("charge", lambda _units: None)
                adding = _added(evaluations, name, material, wanted, viewer.owner, charge)
                taken = await unless_gone(request, adding)  # whoever has gone would never hear its id
            except OSError as error:
                raise unwritable(error) from error
    response = json_response(taken, 202)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}{router.prefix}/evaluations/{name}"
    return response


@router.get("/evaluations", tags=["evaluations"], summary="List the evaluations")
async def evaluation_list(evaluations: All, viewer: Who) -> wire.EvaluationList:
    """Those of this API key, oldest first; with the scope `manage`, or without keys, all."""
    return wire.EvaluationList(evaluations=[_entry(evaluations, job, short=True) for job in evaluations.list(viewer)])


@router.get(
    "/evaluations/{evaluation}",
    tags=["evaluations"],
    summary="Describe an evaluation",
    responses={200: {"model": wire.Evaluation}},
)
async def evaluation(evaluation: str, evaluations: All, viewer: Who) -> Response:
    """How far it is, and what came out once it is done."""
    job = evaluations.find(evaluation, viewer)
    result = await evaluations.result(job)
    entry = _entry(evaluations, job).model_dump_json(exclude={"result"})
    body = entry[:-1].encode() + b',"result":' + (result or b"null") + b"}"  # as it was written: it may be long
    return Response(body, media_type="application/json")


@router.get(
    "/evaluations/{evaluation}/events",
    tags=["evaluations"],
    summary="Follow an evaluation",
    response_class=StreamingResponse,
)
async def evaluation_events(evaluation: str, request: Request, evaluations: All, viewer: Who) -> Response:
    """Server-sent events: `progress` whenever there is some, and `done` at its end, however it ended.

    Each has what describing it answers, without the result. A client that comes back begins with how it is then.
    """
    job = evaluations.find(evaluation, viewer)
    if job.readers >= _READERS:
        raise Overloaded(f"{_READERS} clients follow this evaluation, and more may not.", retry_after_s=5)
    return StreamingResponse(
        _followed(evaluations, job, request.state.lifecycle),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get(
    "/evaluations/{evaluation}/report",
    tags=["evaluations"],
    summary="Read the report of an evaluation",
    response_class=Response,
)
async def evaluation_report(evaluation: str, evaluations: All, viewer: Who) -> Response:
    """One page of HTML that needs nothing else."""
    page = await evaluations.report(evaluations.find(evaluation, viewer))
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


@router.delete(
    "/evaluations/{evaluation}",
    tags=["evaluations"],
    summary="Cancel an evaluation, and forget it",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "It is gone, with its pictures and what came out."}},
)
@key_scope("infer")
async def remove_evaluation(evaluation: str, evaluations: All, viewer: Who) -> Response:
    """End what is computed of it, and remove all that was kept."""
    await evaluations.remove(evaluations.find(evaluation, viewer))
    return Response(status_code=204)


# -- reading -----------------------------------------------------------------------------------------------------------


async def _received(request: Request, folder: Path) -> tuple[Wanted, Material]:
    """Read what is asked for, and put what is sent into a folder.

    Raises:
        InvalidRequest, UnsupportedMediaType, NoImage, TooManyImages, BodyTooLarge: it cannot be used.
        InvalidOption: an option is unknown or out of range.
        OSError: the disk is full.
    """
    settings: Settings = request.state.settings
    query = {name: request.query_params.getlist(name) for name in query_options(request)}
    pictures = Allowed(settings.max_evaluation_images, settings.max_image_bytes)
    allowed = {"image": pictures, "mask": pictures, "annotations": Allowed(1, _MAX_ANNOTATIONS, cut=False)}
    fields, files = await read_stored_form(request, folder, allowed)
    return _wanted(query | fields), _material(files, folder)


def _wanted(fields: dict[str, list[str]]) -> Wanted:
    one = {"model", "seed"}
    given = {name: values[-1] if name in one and len(values) == 1 else values for name, values in fields.items()}
    try:
        options = wire.EvaluationOptions.model_validate(given)
    except ValidationError as error:
        raise option_error(error, wire.EvaluationOptions) from error
    purposes = tuple(dict.fromkeys(options.purpose))
    return Wanted(options.model, options.layer, tuple(dict.fromkeys(options.method)), purposes, options.seed)


def _material(files: list[StoredFile], folder: Path) -> Material:
    """Say what the files are.

    Raises:
        NoImage: there is no picture among them.
        InvalidRequest: there are masks and annotations.
    """
    found: dict[str, list[Image]] = {"image": [], "mask": [], "annotations": []}
    for file in files:
        kind = found[file.field]
        kind.append(Image(file=file.path.name, name=file.name or f"{file.field}-{len(kind) + 1}"))
    if not found["image"]:
        raise NoImage("The request carries no picture. Send some, as form parts named 'image'.")
    if found["annotations"] and found["mask"]:
        raise InvalidRequest("Send either 'annotations' or parts named 'mask', not both.")
    if found["annotations"]:
        (folder / found["annotations"][0].file).rename(folder / ANNOTATIONS)
    return Material(images=tuple(found["image"]), masks=tuple(found["mask"]), annotations=bool(found["annotations"]))


async def _added(evaluations: Evaluations, *asked: Any) -> wire.Evaluation:
    """Have an evaluation taken; describe it as it is before its turn may come."""
    return _entry(evaluations, await evaluations.add(*asked))


# -- answering ---------------------------------------------------------------------------------------------------------


def _entry(evaluations: Evaluations, job: Job, *, short: bool = False) -> wire.Evaluation:
    """Describe one; ``short`` without what was skipped, which may be a thousand files."""
    facts = job.facts
    return wire.Evaluation(
        id=facts.id,
        state=facts.state,
        progress=round(job.progress, 4),
        eta_s=job.eta_s,
        stage=job.stage,
        reason=facts.reason,
        model=facts.model,
        images=facts.images,
        created=round(facts.created, 3),
        ended=facts.ended and round(facts.ended, 3),
        restarts=facts.restarts,
        kept=evaluations.kept,
        note=evaluations.note,
        skipped=[wire.SkippedPicture(**each.model_dump()) for each in (() if short else facts.skipped)],
    )


async def _followed(evaluations: Evaluations, job: Job, lifecycle: Lifecycle) -> AsyncIterator[bytes]:
    """Yield events until it is over, or the service ends."""
    job.readers += 1
    try:
        told, beat = b"", time.monotonic()
        while not (job.over or lifecycle.closed):
            event = _event("progress", evaluations, job)
            if event != told:
                yield event
                told, beat = event, time.monotonic()
            elif time.monotonic() - beat >= _BEAT_S:
                yield b": still there\n\n"
                beat = time.monotonic()
            await job.news(_LOOK_S)
        if job.over:
            yield _event("done", evaluations, job)
    finally:
        job.readers -= 1


def _event(name: str, evaluations: Evaluations, job: Job) -> bytes:
    told = _entry(evaluations, job, short=True).model_dump_json(exclude={"result", "skipped"})
    return f"event: {name}\ndata: {told}\n\n".encode()
