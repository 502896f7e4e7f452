"""The Host and the Origin of a request: what HTTP asks of them, and which of them a service without keys answers.

A page in a visitor's browser can reach what listens on the visitor's loopback address: by making its own name point
there, which shows in ``Host``, or by posting without reading the answer, which shows in ``Origin``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.requests import Request

from service.errors import HostNotAllowed, InvalidRequest, OriginNotAllowed, ServiceError
from service.settings import is_loopback
from service.web.middleware import error_response, route_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["HostCheck", "check_host"]

# RFC 3986's host, with or without a port; the name alone is what counts.
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:\d{0,5})?")
_SHOWN = 100


def check_host(headers: list[tuple[bytes, bytes]], version: str, target: bytes) -> None:
    """Check the header ``Host`` of a request, and replace it by what an absolute target says, as RFC 9112 asks.

    Args:
        headers: of the request, their names in lower case.
        version: of HTTP, such as ``1.1``; requests of HTTP/1.0 may do without.
        target: as the request line has it.

    Raises:
        InvalidRequest: there is none, there are several, or it is no host.
    """
    places = [place for place, (name, _) in enumerate(headers) if name == b"host"]
    if len(places) > 1 or (not places and version != "1.0"):
        raise InvalidRequest("A request has one header 'Host'; this one has none, or several. Send one.")
    if places and _name_in(headers[places[0]][1].decode("latin-1")) is None:
        raise InvalidRequest("The header 'Host' is no host name or address. Send what the URL has.")
    if places and b"://" in target and not target.startswith((b"/", b"*")):
        authority = re.split(rb"[/?#]", target.partition(b"://")[2], maxsplit=1)[0]
        headers[places[0]] = (b"host", authority.rpartition(b"@")[2])


def _name_in(authority: str) -> str | None:
    """Return the host of ``host:port`` in lower case, without brackets; None for what is none."""
    found = _AUTHORITY.fullmatch(authority)
    return found[1].lower().strip("[]") if found else None


class HostCheck:
    """Refuses requests whose ``Host`` or ``Origin`` is not this service's own, nor one that the settings allow.

    Args:
        app: what to protect.
        hosts: allowed besides the loopback's names; ``*`` is any.
        origins: allowed besides those of ``hosts`` and the loopback's names; ``*`` is any.
        public: the path below which any page may load files, whatever its origin.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str], public: str) -> None:
        self._app = app
        self._hosts, self._origins = frozenset(hosts), frozenset(origins)
        self._public = f"{public}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
        else:
            await error_response(Request(scope), error)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServiceError | None:
        headers = Headers(scope=scope)
        host, origins = headers.get("host"), headers.getlist("origin")
        if host is not None and not self._knows(host):  # without one it is HTTP/1.0, which no browser speaks
            return HostNotAllowed(
                f"This service does not answer to the host {host[:_SHOWN]!r}. Ask for localhost or 127.0.0.1; "
                "or add the name to the setting allowed_hosts."
            )
        if route_path(scope).startswith(self._public):
            return None
        refused = next((origin for origin in origins if not self._may_ask(origin.lower(), host)), None)
        if refused is not None:
            return OriginNotAllowed(
                f"Pages of the origin {refused[:_SHOWN]!r} may not ask this service. "
                "If they should, add it to the setting cors_origins."
            )
        return None

    def _knows(self, host: str) -> bool:
        name = _name_in(host)
        return name is not None and ("*" in self._hosts or name in self._hosts or is_loopback(name))

    def _may_ask(self, origin: str, host: str | None) -> bool:
        """Whether pages of an origin may ask: listed ones, this service's own, and those of hosts that it answers to.

        With any host allowed, the own page is still told from others: its origin is what the request asks for.
        """
        scheme, found, authority = origin.partition("://")
        if {"*", origin} & self._origins:
            return True
        if not found or scheme not in ("http", "https"):
            return False
        own = host is not None and authority == host.lower()
        name = _name_in(authority)
        return own or (name is not None and (name in self._hosts or is_loopback(name)))
