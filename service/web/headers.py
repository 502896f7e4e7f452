"""Security headers on every answer, the errors that middleware writes included."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

from service.evaluation.style import STYLE
from service.web.middleware import route_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["FOR_ERRORS", "SecurityHeaders"]

# With a key, the page opens an evaluation's report from its own memory, where the page's policy holds.
_REPORT_STYLE = f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"

# One policy for everything: what is no document ignores it, and no route can be forgotten.
# Pictures come back in answers (data:) and go out from the visitor's disk (blob:); nothing else comes from elsewhere.
_CONTENT_POLICY = (
    f"default-src 'self'; script-src 'self'; style-src 'self' {_REPORT_STYLE}; "
    "img-src 'self' data: blob:; connect-src {}; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors {}"
)
# A page in a frame loads the picture that it is told to, from wherever that picture's own server allows it.
_IMAGES_FROM_ANYWHERE = "'self' data: blob: http: https:"

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the page's address holds what is looked at
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}

# For those who write an answer without an application.
FOR_ERRORS = _HEADERS | {"Content-Security-Policy": _CONTENT_POLICY.format("'self'", "'none'")}

# Public files, among them a web component for pages of other origins, whose module scripts are fetched with CORS.
_FOR_ANY_ORIGIN = {"Cross-Origin-Resource-Policy": "cross-origin", "Access-Control-Allow-Origin": "*"}


class SecurityHeaders:
    """Sets the headers that browsers act upon.

    Only one path may be shown in a frame, for it asks nothing of a visitor. The page itself takes pictures and keys,
    and would be a target for clicks that are meant for something else.

    Args:
        app: what answers.
        embedded: the path that may be shown in a frame, by this origin and by ``frame_ancestors``.
        public: the path below which pages of any origin may load files.
        frame_ancestors: origins.
    """

    def __init__(self, app: ASGIApp, embedded: str, public: str, frame_ancestors: Sequence[str] = ()) -> None:
        self._app = app
        self._embedded, self._public = embedded, f"{public}/"
        self._policy = _CONTENT_POLICY.format("'self'", "'none'")
        self._embed_policy = _CONTENT_POLICY.format(_IMAGES_FROM_ANYWHERE, " ".join(("'self'", *frame_ancestors)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS | (_FOR_ANY_ORIGIN if path.startswith(self._public) else {}))
                policy = self._embed_policy if path == self._embedded else self._policy
                headers.setdefault("Content-Security-Policy", policy)  # a route may have a narrower one
            await send(message)

        await self._app(scope, receive, send_with_headers)
