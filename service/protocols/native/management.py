"""The native API's routes that change what is served, for keys with the scope ``manage``. See docs/api.md.

They stand on the router of the other native routes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from service import wire_models
from service.errors import BodyTooLarge, InvalidOption, InvalidRequest, closest, shorten
from service.http.options import check_query
from service.model_config import NAME_PATTERN, ModelConfig
from service.protocols import key_scope
from service.protocols.native.routes import Engine, described, json_response, router

if TYPE_CHECKING:
    from service.engine.explainer import Explainer
    from service.engine.versions import VersionStatus
    from service.models.info import ModelKey

__all__ = ["router"]

# No configuration is longer; it is read in one go.
_MAX_BYTES = 64 * 1024
_ALIAS = 'Send an object such as {"model": "birds", "version": "2"}.'

Wait = Annotated[float, Query(ge=0, le=3600, description="Seconds to wait for the outcome; 0 does not wait.")]
DefaultLayer = Annotated[
    str | None, Query(min_length=1, max_length=300, description="The default layer from now on; as it is if left out.")
]


def _options(*names: str) -> Any:
    """Refuse all options in the query string but these."""

    async def check(request: Request) -> None:
        check_query(request, names)

    return Depends(check)


_STATES: dict[int | str, dict[str, Any]] = {
    200: {"model": wire_models.ModelEntry, "description": "It has been loaded and answers."},
    202: {"model": wire_models.ModelEntry, "description": "It is being loaded; `versions` says how far it is."},
}


@router.put(
    "/models/{model}",
    tags=["management"],
    summary="Create a model, or replace it",
    responses=_STATES,
    dependencies=[_options("wait")],
)
@key_scope("manage")
async def put_model(model: str, request: Request, engine: Engine, wait: Wait = 0) -> Response:
    """Load a model beside what answers; it takes over once it is ready, and the version before finishes what it began.

    The body has the keys of a `[[models]]` table, all but `name`. A version that cannot be loaded changes nothing.
    """
    engine.management.check()
    config = await _config(request, model)
    return await _begun(engine, await engine.management.put(config), wait)


@router.post(
    "/models/{model}/reload",
    tags=["management"],
    summary="Load a model again",
    responses=_STATES,
    dependencies=[_options("wait", "layer")],
)
@key_scope("manage")
async def reload_model(model: str, engine: Engine, wait: Wait = 0, layer: DefaultLayer = None) -> Response:
    """Load the same configuration again, because a file has changed; then as with PUT.

    With `layer` it differs in its default layer: the one that explains requests that name none. Of a model in the
    settings, that holds until the service starts again. An alias keeps its version, and is refused.
    """
    return await _begun(engine, await engine.management.reload(model, layer), wait)


@router.delete(
    "/models/{model}",
    tags=["management"],
    summary="Remove a model",
    dependencies=[_options()],
    status_code=204,
    response_class=Response,
    responses={204: {"description": "It is gone, and its memory is free."}},
)
@key_scope("manage")
async def remove_model(model: str, engine: Engine) -> Response:
    """Finish what has begun with a model, and drop it. The default model stays."""
    await engine.management.remove(model)
    return Response(status_code=204)


@router.post(
    "/models/{model}/unload", tags=["management"], summary="Put a model out of memory", dependencies=[_options()]
)
@key_scope("manage")
async def unload_model(model: str, engine: Engine) -> wire_models.ModelEntry:
    """Finish what has begun with a model, and have workers drop it. It is loaded again when somebody asks for it."""
    await engine.management.unload(model)
    return described(engine, model)


@router.get("/aliases", tags=["management"], summary="List the aliases")
async def aliases(engine: Engine) -> wire_models.AliasList:
    """Further names of models, and the version that each points to."""
    return wire_models.AliasList(aliases=[_alias(alias, status) for alias, status in engine.aliases().items()])


@router.put("/aliases/{alias}", tags=["management"], summary="Create an alias, or move it", dependencies=[_options()])
@key_scope("manage")
async def put_alias(
    alias: Annotated[str, Path(pattern=NAME_PATTERN)], request: Request, engine: Engine
) -> wire_models.AliasEntry:
    """Point a name to a version of a model, which stays as long as it does, whatever the model's own name points to.

    Requests to the alias are answered by that version; moved, the alias leads to another from one request to the next.
    """
    engine.management.check()
    try:
        target = wire_models.AliasTarget.model_validate(await _object(request, "an alias", _ALIAS))
    except ValidationError as error:
        raise _invalid(error, wire_models.AliasTarget, "an alias") from error
    await engine.management.point(alias, target.model, target.version)
    return _alias(alias, engine.aliases()[alias])


@router.delete(
    "/aliases/{alias}",
    tags=["management"],
    summary="Remove an alias",
    dependencies=[_options()],
    status_code=204,
    response_class=Response,
    responses={204: {"description": "It is gone."}},
)
@key_scope("manage")
async def remove_alias(alias: str, engine: Engine) -> Response:
    """Remove a name; the version that it pointed to goes unless the model's own name or another alias points to it."""
    await engine.management.unpoint(alias)
    return Response(status_code=204)


def _alias(alias: str, status: VersionStatus) -> wire_models.AliasEntry:
    return wire_models.AliasEntry(alias=alias, model=status.key.name, version=status.version)


async def _begun(engine: Explainer, key: ModelKey, wait: float) -> Response:
    """Answer with how the model is, once it is ready or the time is over.

    Raises:
        ModelLoadError: it cannot be loaded.
    """
    done = await engine.management.outcome(key, wait) if wait else False
    return json_response(described(engine, key.name), 200 if done else 202)


async def _config(request: Request, name: str) -> ModelConfig:
    """Read the configuration in the body.

    Raises:
        InvalidRequest: the body is no JSON object.
        InvalidOption: a key is unknown, or a value out of range.
        BodyTooLarge: it is longer than any configuration.
    """
    fields = await _object(request, "a model", "Send the keys of a [[models]] table as an object.")
    if fields.setdefault("name", name) != name:
        raise InvalidOption(f"The name stands in the path and is {name!r}; leave it out of the body.")
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error, ModelConfig, "a model") from error


async def _object(request: Request, what: str, instead: str) -> dict[str, Any]:
    """Read a body that is an object, and short.

    Raises:
        InvalidRequest: it is something else; ``instead`` says what to send.
        BodyTooLarge: it is longer than any of ``what``.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BYTES:
            raise BodyTooLarge(f"What is said of {what} has at most {_MAX_BYTES} bytes.")
    try:
        fields = from_json(body)
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON: {error}. {instead}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest(f"The body is no JSON object. {instead}")
    return fields


def _invalid(error: ValidationError, read: type[BaseModel], what: str) -> InvalidOption:
    problems: list[str] = []
    near: list[str] = []
    for each in error.errors(include_url=False, include_input=False)[:5]:
        key, message = shorten(".".join(map(str, each["loc"])) or what), each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            message = f"{what} has no such key"
            near += closest(key, read.model_fields)
        problems.append(f"{key}: {message}")
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return InvalidOption(f"{'; '.join(problems)}.{meant}", suggestions=near)
