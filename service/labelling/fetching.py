"""Pictures from a URL: bounded in time, size and redirects, and from nowhere but where it was decided that one may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from service.errors import ImageTooLarge, PictureNotFetched, shorten
from service.labelling.addresses import public_addresses, resolved

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Fetcher", "origin_of"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_HOPS = 5
_TRIED = 2  # addresses of a host
_MAX_JSON_BYTES = 64 * 1024
_PORTS = {"http": 80, "https": 443}


def origin_of(url: httpx.URL) -> tuple[str, str, int]:
    """Return scheme, host as it stands in DNS, and port."""
    return url.scheme, url.raw_host.decode("ascii").lower(), url.port or _PORTS.get(url.scheme, 0)


class Fetcher:
    """Gets files over HTTP.

    Args:
        trusted: URL of a server that may be in this network; None if there is none.
        storage: other hosts that may be, as ``host`` or ``host:port``.
        max_bytes: of a file.
        timeout_s: for all of it, redirects included.
    """

    def __init__(
        self, trusted: str | None, max_bytes: int, timeout_s: float = 20.0, storage: Sequence[str] = ()
    ) -> None:
        self._trusted_url, self._max_bytes, self._timeout_s = trusted, max_bytes, timeout_s
        self._storage = frozenset((split.hostname, split.port) for split in (urlsplit(f"//{host}") for host in storage))
        self._client: httpx.AsyncClient | None = None
        self._starting = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:
        """Get a file. The headers go to the host of ``url``, and not where that redirects to.

        Raises:
            PictureNotFetched: it is refused, or cannot be had; the message says why.
            ImageTooLarge: it has too many bytes.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._followed(url, dict(headers or {}))
        except TimeoutError:
            raise PictureNotFetched(f"{_shown(url)} did not come within {self._timeout_s:g} s.") from None

    async def post_json(self, url: str, body: object) -> tuple[int, Any]:
        """Post JSON to the trusted server; return the status, and what it answers if that is JSON, else None.

        Raises:
            PictureNotFetched: it cannot be reached.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._sent("POST", httpx.URL(url), {}, json=body)
                try:
                    data = await self._body(response, _MAX_JSON_BYTES)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise PictureNotFetched(f"{_shown(url)} did not answer within {self._timeout_s:g} s.") from None
        try:
            return response.status_code, httpx.Response(200, content=data).json()
        except ValueError:
            return response.status_code, None

    async def _followed(self, url: str, headers: dict[str, str]) -> bytes:
        here = _parsed(url)
        for _ in range(_MAX_HOPS + 1):
            response = await self._sent("GET", here, headers)
            try:
                if response.status_code not in _REDIRECTS:
                    return await self._picture(response, here)
                location = response.headers.get("location", "")
            finally:
                await response.aclose()
            try:
                there = here.join(location)
            except httpx.InvalidURL:
                raise PictureNotFetched(f"{_shown(str(here))} redirects to something that is no URL.") from None
            if origin_of(there) != origin_of(here):
                headers = {}
            here = _parsed(str(there))
        raise PictureNotFetched(f"{_shown(url)} redirects more than {_MAX_HOPS} times.")

    async def _picture(self, response: httpx.Response, url: httpx.URL) -> bytes:
        if response.status_code != 200:
            error = PictureNotFetched(f"{_shown(str(url))} answers {response.status_code}.")
            error.status = response.status_code
            raise error
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise PictureNotFetched(f"{_shown(str(url))} comes compressed, though that was not asked for.")
        return await self._body(response, self._max_bytes)

    async def _body(self, response: httpx.Response, max_bytes: int) -> bytes:
        announced = response.headers.get("content-length", "0")
        data = bytearray()
        if not announced.isdecimal() or int(announced[:20]) <= max_bytes:
            async for chunk in self._chunks(response):
                data += chunk
                if len(data) > max_bytes:
                    break
            else:
                return bytes(data)
        raise ImageTooLarge(f"The file has more than {max_bytes} bytes. Use a smaller picture.")

    async def _chunks(self, response: httpx.Response) -> Any:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            raise PictureNotFetched(f"The file broke off: {_cause(error)}.") from None

    async def _sent(self, method: str, url: httpx.URL, headers: Mapping[str, str], **body: Any) -> httpx.Response:
        """Send a request to an address that was checked, with the host's name for the server and its certificate."""
        scheme, host, port = origin_of(url)
        addresses = await (resolved(host, port) if self._is_trusted(url) else public_addresses(host, port))
        client = await self._started()
        failed = ""
        for address in addresses[:_TRIED]:
            request = client.build_request(
                method,
                url.copy_with(host=address, userinfo=b""),
                headers={**headers, "Host": url.netloc.decode("ascii").rpartition("@")[2]},
                extensions={"sni_hostname": host} if scheme == "https" else {},
                **body,
            )
            try:
                return await client.send(request, stream=True)
            except httpx.HTTPError as error:
                failed = _cause(error)
        raise PictureNotFetched(f"{_shown(str(url))} cannot be reached: {failed}.")

    def _is_trusted(self, url: httpx.URL) -> bool:
        origin = scheme, host, port = origin_of(url)
        if self._trusted_url is not None and origin == origin_of(_parsed(self._trusted_url)):
            return True
        return (host, port) in self._storage or ((host, None) in self._storage and port == _PORTS[scheme])

    async def _started(self) -> httpx.AsyncClient:
        """Return the client, made when it is first needed: it takes as long as some requests, and many need none."""
        async with self._starting:
            if self._client is None:
                self._client = await asyncio.to_thread(_make_client)
            return self._client


def _make_client() -> httpx.AsyncClient:
    # No proxy of the environment: it would resolve the host's name again.
    return httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(20.0, connect=5.0),
        headers={"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "camserve"},
    )


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise PictureNotFetched(f"{_shown(url)} is no URL.") from None
    if parsed.scheme not in _PORTS or not parsed.host:
        raise PictureNotFetched(f"{_shown(url)} is no http(s) URL.")
    return parsed


def _shown(url: str) -> str:
    """Return a URL for a message: without its query, which may be a signature, and without a password."""
    front = url.partition("?")[0]
    scheme, found, rest = front.partition("://")
    if found and "@" in rest.partition("/")[0]:
        front = f"{scheme}://{rest.partition('@')[2]}"
    return repr(shorten(front))


def _cause(error: Exception) -> str:
    return shorten(str(error) or type(error).__name__)
