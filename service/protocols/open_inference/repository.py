"""Triton's model control: a model is loaded again, or put out of memory, where the service lets models be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import from_json

from service.errors import InvalidRequest, NotReady
from service.http.requests import body_of

if TYPE_CHECKING:
    from fastapi import Request

    from service.engine.explainer import Explainer

__all__ = ["load", "unload"]

_MAX_BYTES = 64 * 1024


async def load(http: Request, model: str) -> None:
    """Load a model again from its configuration, and wait until it answers; until then the version before does.

    Raises:
        ManagementOff, UnknownModel, NameTaken, ModelBusy, ModelLoadError: as with the native API's reload.
        InvalidRequest: the body brings a configuration or files.
        NotReady: it takes longer than a request may.
    """
    engine: Explainer = http.state.explainer
    _check_parameters(await body_of(http))
    key = await engine.management.reload(model)
    if not await engine.management.outcome(key, http.state.settings.request_timeout_s):
        raise NotReady(f"Model {model!r} is being loaded, and answers as before until then.", retry_after_s=5)


async def unload(http: Request, model: str) -> None:
    """Have workers drop a model; it is loaded again when somebody asks for it.

    Raises:
        ManagementOff, UnknownModel, ModelBusy: as with the native API's unload.
        InvalidRequest: the body cannot be read.
    """
    engine: Explainer = http.state.explainer
    _check_parameters(await body_of(http), {"unload_dependents"})
    await engine.management.unload(model)


def _check_parameters(body: bytes, unread: set[str] | None = None) -> None:
    if not body.strip():
        return
    try:
        fields = from_json(body) if len(body) <= _MAX_BYTES else None
    except ValueError:
        fields = None
    parameters = fields.get("parameters", {}) if isinstance(fields, dict) else None
    if not isinstance(parameters, dict):
        raise InvalidRequest('The body is not a JSON object such as {"parameters": {}}. It may be empty.')
    if set(parameters) - (unread or set()):
        raise InvalidRequest("Configurations and files are not taken here. Use PUT /api/v1/models/{model}.")
