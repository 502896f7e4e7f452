"""What answers Label Studio, below any of the addresses that a project may have for its backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.cam.methods import METHODS
from service.errors import BodyTooLarge, InvalidRequest, UnknownMethod
from service.http.requests import body_of, client_of, read_in_thread, refuse_encoded, unless_gone
from service.options import Options
from service.protocols.label_studio.backend import Question, keys_of
from service.protocols.label_studio.config import Labelling, parse_config
from service.protocols.label_studio.pictures import Credentials
from service.protocols.label_studio.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from starlette.requests import Request

    from service.engine.explainer import Explainer
    from service.protocols.label_studio.backend import Backend

    BodyT = TypeVar("BodyT", bound=BaseModel)
    T = TypeVar("T")

__all__ = ["PredictBody", "SetupBody", "health", "predict", "setup", "versions"]

# What a body may hold, counted by its signs: parsed, an empty list takes a hundred times the room of its two bytes.
_MAX_SIGNS = 1_000_000
# And of them objects and lists, which take longest to read, with the interpreter's lock held throughout.
_MAX_INNER = 100_000
# Tasks of a request that are looked at. Where there are more, Label Studio is told to ask one by one, as where the time
# does not suffice, and finds these ready.
_MAX_TASKS = 1000


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


async def _read(request: Request, model: type[BodyT], then: Callable[[BodyT], T]) -> T:
    """Read a body, and do ``then`` with it: in a thread, unless it is small.

    Raises:
        InvalidRequest: it is not what Label Studio sends.
        BodyTooLarge: it holds too much.
        Whatever ``then`` does.
    """
    refuse_encoded(request)
    body = await body_of(request)

    def read() -> T:
        inner = body.count(b"[") + body.count(b"{")
        if inner > _MAX_INNER:
            raise BodyTooLarge(f"The JSON has more than {_MAX_INNER:,} objects and lists. Choose fewer tasks.")
        if inner + body.count(b",") > _MAX_SIGNS:
            raise BodyTooLarge(f"The JSON has more than {_MAX_SIGNS:,} values. Choose fewer tasks.")
        try:
            parsed = model.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"][:3]) or "the body"
            raise InvalidRequest(f"This is not what Label Studio sends: {where}: {first['msg']}.") from None
        return then(parsed)

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
    return request.state.label_studio.backend, request.state.explainer


async def health(request: Request) -> dict[str, Any]:
    """Tell that the backend is up, whatever state the model is in."""
    _, engine = _shared(request)
    place = _place(request)
    status = engine.model(place.model)
    title = METHODS[place.method].title
    return {"status": "UP", "model_class": title, "model": status.config.name, "state": status.state}


async def setup(request: Request) -> dict[str, str]:
    """Tell the version that predictions are known by, without waiting for the model."""
    backend, engine = _shared(request)
    place = _place(request)
    body, labelling = await _read(request, SetupBody, lambda body: (body, parse_config(body.label_config)))
    version = backend.version(engine, place, labelling, body.project)
    await backend.introduce(engine, place, labelling, body.project)
    return {"model_version": version}


async def predict(request: Request) -> dict[str, list[dict[str, Any]]]:
    """Predict each task, or give exactly one prediction, which makes Label Studio ask for the tasks one by one."""
    backend, engine = _shared(request)
    place, question = _place(request), await _read(request, PredictBody, _question)
    work = backend.predict(engine, place, question, client_of(request), request.state.metrics)
    return {"results": await unless_gone(request, work)}


def _question(body: PredictBody) -> Question:
    params = body.params or Parameters()
    labelling = parse_config(body.label_config)
    tasks = body.tasks[:_MAX_TASKS]
    keys = keys_of(tasks, body.project, labelling)
    credentials = Credentials(params.login, params.password)
    others = len(body.tasks) - len(tasks)
    return Question(tasks, keys, labelling, others, body.project, params.context, credentials)


async def versions(request: Request) -> dict[str, list[str]]:
    """List the version of predictions for a project that sets no threshold."""
    backend, engine = _shared(request)
    return {"versions": [backend.version(engine, _place(request), Labelling())]}
