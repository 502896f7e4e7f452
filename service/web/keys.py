"""API keys: whom they admit, for what, and how often. Checked before anything of a body is read.

A key is 256 random bits, so its digest cannot be searched for, however fast the hash is. A slow hash, which passwords
need, would only cost every request some milliseconds, and strangers could make the service spend them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import math
import secrets
import time
import typing
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.requests import Request

from service import settings
from service.errors import AddressNotAllowed, Forbidden, RateLimited, ServiceError, Unauthorized
from service.web.middleware import error_response, route_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    from service.settings import KeyConfig
    from service.web.protocol_table import ProtocolTable

__all__ = ["Authentication", "digest_of", "make_key"]

# What a proxy adds to a request, by custom or by RFC 7239.
_PROXIED = ("forwarded", "via", "x-forwarded-for", "x-real-ip")
_ALL: frozenset[settings.Scope] = frozenset(typing.get_args(settings.Scope))


def make_key() -> str:
    """Return a new key; the prefix is for those who search leaked text for keys."""
    return f"camserve_{secrets.token_urlsafe(32)}"


def digest_of(key: str) -> str:
    """Return what the settings keep of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class Authentication:
    """Admits requests by their API key, and tells routes what the key is good for: ``request.state.scopes``.

    It stands before the routes and denies by default, so that a new route cannot be left open by oversight. Where there
    are no keys, everybody may do everything.
    """

    def __init__(
        self,
        app: ASGIApp,
        table: ProtocolTable,
        keys: Sequence[KeyConfig] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._table = table
        self._keys = [_Key(config, clock) for config in keys]
        self._for_all: frozenset[settings.Scope] = frozenset() if keys else _ALL

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        if (networks := self._table.addresses(path)) is not None:
            await self._by_address(networks, scope, receive, send)
            return
        key = self._known(Headers(scope=scope).getlist("authorization"), basic=self._table.takes_basic(path))
        scope["state"] |= _facts(key) if key else {"scopes": self._for_all}
        needed = self._table.scope_needed(scope["method"], path) if self._keys else None
        if needed is None:
            await self._app(scope, receive, send)
            return
        try:
            admitted = _admitted(key, needed)
        except ServiceError as error:
            await error_response(Request(scope), error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            admitted.leave()

    async def _by_address(
        self, networks: Sequence[settings.Network], scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope["state"] |= {"scopes": frozenset({"infer"})}
        if reason := _why_not_from_here(networks, scope):
            error = AddressNotAllowed(f"This is answered without a key, to few: {reason}.")
            await error_response(Request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, headers: list[str], *, basic: bool) -> _Key | None:
        """Return the key that the header carries. How long it takes does not tell which, or how much of it is right.

        Two headers are none: a proxy in front may have looked at the other one.
        """
        scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        if scheme.lower() == "bearer":
            tokens = [token.strip()]
        elif scheme.lower() == "basic" and basic:
            tokens = _user_info(token)
        else:
            return None
        digests = [digest_of(each) for each in tokens]
        matches = [key for key in self._keys for digest in digests if hmac.compare_digest(key.config.sha256, digest)]
        return matches[0] if matches else None


def _user_info(encoded: str) -> list[str]:
    """Return password and user name of HTTP Basic: in a URL, a key may stand in either place."""
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return []
    return [part for part in (password, user) if part]


def _why_not_from_here(networks: Sequence[settings.Network], scope: Scope) -> str | None:
    """Say why a caller is not let in by its address, or None where it is."""
    headers = Headers(scope=scope)
    if any(name in headers for name in _PROXIED):
        return "the request came through a proxy, whose address says nothing. Ask directly"
    if "origin" in headers:
        return "a page in a browser asks. Ask with a key, below /integrations"
    shown = scope["client"][0] if scope.get("client") else "none"
    try:
        address = ipaddress.ip_address(shown)
    except ValueError:
        return f"the caller's address, {shown!r}, is none"
    address = getattr(address, "ipv4_mapped", None) or address
    if any(address in network for network in networks):
        return None
    return f"{address} is not among its addresses. Add it to the setting cvat_allow"


def _facts(key: _Key) -> dict[str, Any]:
    """Return what routes may know of a key."""
    config = key.config
    return {"key": config.name, "scopes": config.scopes, "weight": config.weight, "charge": key.charge}


def _admitted(key: _Key | None, needed: settings.Scope) -> _Key:
    """Let the key in, or raise why not."""
    if key is None:
        raise Unauthorized("Send an API key that this service knows, as the header 'Authorization: Bearer KEY'.")
    if needed not in key.config.scopes:
        raise Forbidden(f"This needs an API key with the scope {needed!r}, which yours lacks.", scope=needed)
    key.enter()
    return key


class _Key:
    """A key, and how much of its limits is used up: requests as they come in, their work once it is known."""

    def __init__(self, config: KeyConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self._clock = clock
        self._running = 0
        self._requests = _Bucket(config.requests_per_minute, clock)
        self._work = _Bucket(config.cost_per_minute, clock)

    def enter(self) -> None:
        """Count a request.

        Raises:
            RateLimited: too many run, or too many came; ``retry_after_s`` says when the next may.
        """
        most = self.config.max_concurrent
        if most is not None and self._running >= most:
            raise RateLimited(f"{most} requests of this API key are running, and more may not. Wait for one to end.")
        if wait := self._requests.take(1):
            rate = self.config.requests_per_minute
            raise RateLimited(f"This API key may ask {rate} times a minute. Ask again in {wait} s.", retry_after_s=wait)
        self._running += 1

    def leave(self) -> None:
        """Count a request as over."""
        self._running -= 1

    def charge(self, work: float) -> None:
        """Count the work of a request.

        Raises:
            RateLimited: it is more than the key has left; ``retry_after_s`` says when there is enough.
        """
        if wait := self._work.take(work):
            raise RateLimited(
                f"This request takes {work:,.0f} of the {self.config.cost_per_minute:,.0f} units of work that this API "
                f"key may ask for in a minute, and it has asked for others. Ask again in {wait} s, or for less.",
                retry_after_s=wait,
            )


class _Bucket:
    """A minute's worth of something, full at first; none has no bound."""

    def __init__(self, rate: float | None, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._left = rate or 0.0
        self._filled_at = clock()

    def take(self, amount: float) -> int:
        """Take ``amount`` out and return 0; or take nothing, and return whole seconds until there is enough.

        What is more than the bucket holds is taken from a full one, and owed.
        """
        if self._rate is None:
            return 0
        now = self._clock()
        self._left = min(self._rate, self._left + (now - self._filled_at) * self._rate / 60)
        self._filled_at = now
        missing = min(amount, self._rate) - self._left
        if missing > 0:
            return max(1, math.ceil(missing * 60 / self._rate))
        self._left -= amount
        return 0
