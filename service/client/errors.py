"""What the client raises, and how a response becomes an error."""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import ValidationError

from service import errors, wire

__all__ = [
    "ClientError",
    "ConnectionFailed",
    "TimedOut",
    "UnexpectedResponse",
    "from_problem",
    "from_response",
    "from_transport",
    "make_error",
    "unexpected",
]


class ClientError(errors.ServiceError):
    """Root of what the client raises.

    Attributes:
        status: the HTTP status, or None if there was no response.
        request_id: what the server's log has it under, if it said.
    """

    status: int | None = None
    request_id: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: most of the classes cannot be imported."""
        return make_error, (type(self).__name__, self.message, self.details, self.status, self.request_id)


class ConnectionFailed(ClientError, errors.Unavailable):
    """No connection, or one that broke before the answer came."""


class TimedOut(ClientError, errors.DeadlineExceeded):
    """The connection stands, the answer did not come within the client's ``timeout``."""


class UnexpectedResponse(ClientError):
    """What answered is not camserve, or not a version of it that this client understands."""


_CLASSES: dict[str, type[ClientError]] = {
    name: type(name, (ClientError, kind), {"__doc__": kind.__doc__, "__module__": __name__})
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.ServiceError)
}
_BY_CODE = {kind.code: kind for name, kind in _CLASSES.items() if "code" in vars(getattr(errors, name))}
_CLASSES |= {kind.__name__: kind for kind in (ClientError, ConnectionFailed, TimedOut, UnexpectedResponse)}


def make_error(
    name: str, message: str, details: dict[str, Any], status: int | None = None, request_id: str | None = None
) -> ClientError:
    """Build an error of the class of that name."""
    error = _CLASSES[name](message)
    error.details, error.status, error.request_id = details, status, request_id
    return error


def from_problem(problem: wire.Problem, retry_after: str | None = None) -> ClientError:
    """Build the error that a problem document describes; its details are the document's further members."""
    details = dict(problem.model_extra or {})
    if problem.suggestions is not None:
        details["suggestions"] = problem.suggestions
    if retry_after is not None and retry_after.isdecimal():
        details.setdefault("retry_after_s", int(retry_after))
    kind = _BY_CODE.get(problem.code)
    if kind is None:  # a newer server
        details["code"] = problem.code
        kind = _CLASSES["BadInput" if problem.status < 500 else "ServiceError"]
    return make_error(kind.__name__, problem.detail, details, problem.status, problem.request_id)


def from_response(response: httpx.Response) -> ClientError:
    """Build the error that a response with an error status stands for."""
    try:
        problem = wire.Problem.model_validate_json(response.content)
    except ValidationError:
        return unexpected(response)
    return from_problem(problem, response.headers.get("Retry-After"))


def unexpected(response: httpx.Response) -> ClientError:
    """Build the error for a response that no camserve of this version gives."""
    status, kind = response.status_code, response.headers.get("Content-Type", "no content type")
    hint = "Is base_url that of a camserve server of this version, or does a proxy in between answer?"
    if status in {401, 403, 407}:
        hint = "It asks for credentials: give api_key= or headers=."
    begin = f" It begins: {errors.shorten(response.text.strip(), 200)!r}" if response.content else ""
    message = f"{response.url} answered {status} with {kind}, which is no answer of camserve. {hint}{begin}"
    return make_error("UnexpectedResponse", message, {}, status, response.headers.get("X-Request-ID"))


def from_transport(error: httpx.RequestError, url: httpx.URL) -> ClientError:
    """Build the error for a request that got no response."""
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        return TimedOut(f"{url} did not answer in time ({reason}). Raise timeout=, or ask for less at once.")
    if isinstance(error, httpx.TransportError):
        return ConnectionFailed(f"No connection to {url} ({reason}). Is the server running, and is base_url right?")
    return UnexpectedResponse(f"The answer of {url} cannot be read ({reason}). Is base_url right?")
