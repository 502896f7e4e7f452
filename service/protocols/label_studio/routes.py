"""The routes that Label Studio asks, below any of the addresses that a project may have for its backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.cam.methods import METHODS
from service.errors import BodyTooLarge, InvalidRequest, UnknownMethod
from service.http.requests import body_of, client_of, read_in_thread, refuse_encoded, unless_gone
from service.options import Options
from service.protocols import key_scope
from service.protocols.label_studio.backend import Backend, Question
from service.protocols.label_studio.pictures import Credentials
from service.protocols.label_studio.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from service.engine.explainer import Explainer

    BodyT = TypeVar("BodyT", bound=BaseModel)

__all__ = ["NAME", "PREFIX", "WEBHOOKS", "PredictBody", "SetupBody", "router"]

NAME = "label_studio"
PREFIX = "/integrations/label-studio"
_PLACES = {"": "", "/{model}": "_with", "/{model}/{layer}": "_at", "/{model}/{layer}/{method}": "_by"}
WEBHOOKS = tuple(f"{PREFIX}{place}/webhook" for place in _PLACES)

# What a body may hold, counted by its signs: parsed, an empty list takes a hundred times the room of its two bytes.
_MAX_SIGNS = 1_000_000

router = APIRouter(prefix=PREFIX, tags=["label studio"])


def _text(value: object) -> object:
    """Take null, or a number, for text."""
    return "" if value is None else str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_text)]


class _Body(BaseModel):
    """What Label Studio sends besides is left alone: each of its versions has more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class SetupBody(_Body):
    """A project introduces itself."""

    label_config: Text = Field("", alias="schema", description="The project's labelling configuration.")
    project: Text = Field("", description="Its number and when it was made.")
    hostname: Text = Field("", description="Where Label Studio takes itself to be.")


class Parameters(_Body):
    """What goes with tasks."""

    login: Text = Field("", description="For pictures that do not lie in Label Studio.")
    password: Text = ""
    context: dict[str, Any] | None = Field(None, description="What somebody marked with a smart tool.")


class PredictBody(_Body):
    """Tasks to predict."""

    tasks: list[dict[str, Any]] = Field(description="Each with `id` and `data`.")
    label_config: Text = Field("", description="The project's labelling configuration.")
    project: Text = Field("", description="Its number and when it was made.")
    params: Parameters | None = None


async def _parsed(request: Request, model: type[BodyT]) -> BodyT:
    """Read a body.

    Raises:
        InvalidRequest: it is not what Label Studio sends.
        BodyTooLarge: it holds too much.
    """
    refuse_encoded(request)
    body = await body_of(request)

    def read() -> BodyT:
        if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MAX_SIGNS:
            raise BodyTooLarge(f"The JSON has more than {_MAX_SIGNS} values. Choose fewer tasks.")
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"][:3]) or "the body"
            raise InvalidRequest(f"This is not what Label Studio sends: {where}: {first['msg']}.") from None

    return await read_in_thread(request, read, len(body))


def _place(request: Request) -> Place:
    """Read a backend's address.

    Raises:
        UnknownMethod: there is none of that name.
    """
    path = request.path_params
    method = path.get("method", Options.methods[0])
    if method not in METHODS:
        raise UnknownMethod.among(method, METHODS)
    return Place(path.get("model"), path.get("layer", "default"), method)


def _shared(request: Request) -> tuple[Backend, Explainer]:
    return getattr(request.state, NAME), request.state.explainer


async def health(request: Request) -> dict[str, Any]:
    """Up, whatever state the model is in: `state` tells."""
    _, engine = _shared(request)
    place = _place(request)
    status = engine.model(place.model)
    title = METHODS[place.method].title
    return {"status": "UP", "model_class": title, "model": status.config.name, "state": status.state}


@key_scope("infer")
async def setup(request: Request) -> dict[str, str]:
    """The version that predictions are known by. Does not wait for the model."""
    backend, engine = _shared(request)
    place, body = _place(request), await _parsed(request, SetupBody)
    version = backend.version(engine, place, body.label_config)
    backend.introduce(engine, place, body.label_config, body.project)
    return {"model_version": version}


@key_scope("infer")
async def predict(request: Request) -> dict[str, list[dict[str, Any]]]:
    """A prediction for each task; exactly one for several tasks makes Label Studio ask for them one by one."""
    backend, engine = _shared(request)
    place, body = _place(request), await _parsed(request, PredictBody)
    params = body.params or Parameters()
    question = Question(
        body.tasks, body.label_config, body.project, params.context, Credentials(params.login, params.password)
    )
    work = backend.predict(engine, place, question, client_of(request), request.state.metrics)
    return {"results": await unless_gone(request, work)}


async def versions(request: Request) -> dict[str, list[str]]:
    """The version of predictions for a project that sets no threshold."""
    backend, engine = _shared(request)
    return {"versions": [backend.version(engine, _place(request))]}


async def webhook() -> Response:
    """Taken note of, and no more: nothing is trained here. Its body is not read, so that anybody may send it."""
    return Response("{}", media_type="application/json")


_ROUTES: tuple[tuple[str, str, Callable[..., Any], str], ...] = (
    ("GET", "health", health, "Label Studio asks whether the backend is there"),
    ("POST", "setup", setup, "A project of Label Studio introduces itself"),
    ("POST", "predict", predict, "Predict tasks of Label Studio"),
    ("GET", "versions", versions, "List the versions of predictions"),
    ("POST", "webhook", webhook, "Take note of what happens in Label Studio"),
)
_BODIES = {"setup": SetupBody, "predict": PredictBody}

for _path, _suffix in _PLACES.items():
    for _method, _name, _endpoint, _summary in _ROUTES:
        router.add_api_route(
            f"{_path}/{_name}",
            _endpoint,
            methods=[_method],
            name=f"label_studio_{_name}{_suffix}",
            summary=_summary,
        )
