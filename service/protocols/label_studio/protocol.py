"""Label Studio's row in the table of protocols."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from service.protocols import WireProtocol
from service.protocols.label_studio.backend import Backend
from service.protocols.label_studio.openapi import OPENAPI
from service.protocols.label_studio.routes import NAME, PREFIX, WEBHOOKS, router

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.settings import Settings

__all__ = ["LABEL_STUDIO"]


@asynccontextmanager
async def _backend(settings: Settings) -> AsyncIterator[Backend]:
    backend = Backend(settings)
    try:
        yield backend
    finally:
        await backend.close()


LABEL_STUDIO = WireProtocol(
    name=NAME,
    router=router,
    prefixes=(PREFIX,),
    open_posts=WEBHOOKS,
    basic_keys=True,
    resources=_backend,
    openapi=OPENAPI,
)
