"""Label Studio's row in the table of protocols: its routes; what answers them is imported behind the start."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from service.protocols import WireProtocol, key_scope, operation_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.protocols.label_studio.backend import Backend
    from service.settings import Settings

__all__ = ["LABEL_STUDIO"]

PREFIX = "/integrations/label-studio"
_PLACES = {"": "", "/{model}": "_with", "/{model}/{layer}": "_at", "/{model}/{layer}/{method}": "_by"}
_WEBHOOKS = tuple(f"{PREFIX}{place}/webhook" for place in _PLACES)

# What httpx imports when its first client is made and its first connection opened.
_OF_HTTPX = ("httpcore", "anyio._backends._asyncio", "certifi", "importlib.readers")

router = APIRouter(prefix=PREFIX, tags=["label studio"], generate_unique_id_function=operation_id)


async def health(request: Request) -> dict[str, Any]:
    """Up, whatever state the model is in: `state` tells."""
    from service.protocols.label_studio import verbs  # noqa: PLC0415  # adds nothing to the start

    return await verbs.health(request)


@key_scope("infer")
async def setup(request: Request) -> dict[str, str]:
    """The version that predictions are known by. Does not wait for the model."""
    from service.protocols.label_studio import verbs  # noqa: PLC0415  # adds nothing to the start

    return await verbs.setup(request)


@key_scope("infer")
async def predict(request: Request) -> dict[str, list[dict[str, Any]]]:
    """A prediction for each task; exactly one for several tasks makes Label Studio ask for them one by one."""
    from service.protocols.label_studio import verbs  # noqa: PLC0415  # adds nothing to the start

    return await verbs.predict(request)


async def versions(request: Request) -> dict[str, list[str]]:
    """The version of predictions for a project that sets no threshold."""
    from service.protocols.label_studio import verbs  # noqa: PLC0415  # adds nothing to the start

    return await verbs.versions(request)


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

for _path, _suffix in _PLACES.items():
    for _method, _name, _endpoint, _summary in _ROUTES:
        router.add_api_route(
            f"{_path}/{_name}",
            _endpoint,
            methods=[_method],
            name=f"label_studio_{_name}{_suffix}",
            summary=_summary,
        )


class _Shared:
    """What all requests share, made by the first of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def backend(self) -> Backend:
        """What knows the projects and gets their pictures."""
        from service.protocols.label_studio.backend import Backend  # noqa: PLC0415  # adds nothing to the start

        return Backend(self._settings)

    async def close(self) -> None:
        """Close the connections, if there can be any."""
        if "backend" in vars(self):
            await self.backend.close()


@asynccontextmanager
async def _shared(settings: Settings) -> AsyncIterator[_Shared]:
    shared = _Shared(settings)
    try:
        yield shared
    finally:
        await shared.close()


LABEL_STUDIO = WireProtocol(
    name="label_studio",
    router=router,
    prefixes=(PREFIX,),
    open_posts=_WEBHOOKS,
    basic_keys=True,
    resources=_shared,
    modules=("service.protocols.label_studio.verbs", "service.protocols.label_studio.backend", *_OF_HTTPX),
    openapi="service.protocols.label_studio.openapi",
)
