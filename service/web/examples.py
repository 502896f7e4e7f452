"""Examples in the OpenAPI document of what no one protocol owns: operations, and errors that keys bring with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import Forbidden, Overloaded, Unauthorized
from service.http.examples import ErrorExample

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ANSWERS", "KEY_ERRORS"]

# By operation id.
ANSWERS: Mapping[str, Any] = {
    "livez": {"status": "alive"},
    "readyz": {
        "status": "ready",
        "models": {"resnet50": "ready"},
        "workers": [{"pid": 4242, "device": "cuda:0", "models": ["resnet50"], "batches": 1}],
    },
    "version": {"name": "camserve", "version": "0.1.0", "api": "v1"},
}

# Of every operation that needs a key.
KEY_ERRORS = (
    ErrorExample(
        "There is no API key, or an unknown one, where the server asks for keys.",
        Unauthorized("Send an API key that this service knows, as the header 'Authorization: Bearer KEY'."),
    ),
    ErrorExample(
        "The API key lacks the scope for this.",
        Forbidden("This needs an API key with the scope 'infer', which yours lacks.", scope="infer"),
    ),
    ErrorExample(
        "The queue is full, there is no room for the body, the API key has used up what it may ask, or too many "
        "connections are open; see Retry-After.",
        Overloaded("The queue is full: 128 of 128 pictures are waiting. Try again later.", retry_after_s=3),
    ),
)
