"""Where the picture of a task is, and how it is had from there."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httpx

from service.errors import ImageTooLarge, InvalidImage, PictureNotFetched, shorten
from service.http.base64 import picture_of
from service.labelling.fetching import Fetcher, origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.settings import Settings

__all__ = ["NOBODY", "Credentials", "Pictures", "is_fault"]

_CLOUDS = ("s3://", "gs://", "azure-blob://")
_REFRESH_S = 200.0  # an access token lives for 300


def is_fault(error: Exception) -> bool:
    """Whether a picture could be had if Label Studio, or what is configured here, were as it should be."""
    return isinstance(error, _Refused)


class _Refused(PictureNotFetched):
    """Label Studio is not configured, does not answer, or does not take the token."""


@dataclass(frozen=True)
class Credentials:
    """What a project's pictures elsewhere are had with (HTTP Basic); nothing if there is no login."""

    login: str = ""
    password: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """As a request has them."""
        if not self.login:
            return {}
        both = f"{self.login}:{self.password}".encode()
        return {"Authorization": f"Basic {base64.b64encode(both).decode('ascii')}"}


NOBODY = Credentials()


class Pictures:
    """Gets pictures by what stands in a task.

    Args:
        settings: say where Label Studio is, and with which token it is asked.
    """

    def __init__(self, settings: Settings) -> None:
        self._base = (settings.label_studio_url or "").rstrip("/")
        self._max_bytes = settings.max_image_bytes
        self._fetcher = Fetcher(self._base or None, settings.max_image_bytes, storage=settings.label_studio_storage)
        token = settings.label_studio_token
        self._token = _Token(self._base, token.get_secret_value() if token else "", self._fetcher)

    async def close(self) -> None:
        """Close the connections."""
        await self._fetcher.close()

    async def get(self, value: object, task: object, project: Credentials) -> bytes:
        """Get a picture.

        Args:
            value: what stands in the task's data.
            task: its number.
            project: credentials for servers that are not Label Studio's.

        Raises:
            PictureNotFetched, InvalidImage, ImageTooLarge: it cannot be had; the message says why.
        """
        if not isinstance(value, str) or not value.strip():
            raise PictureNotFetched(
                "The task has no picture: its data does not hold a URL under the name that <Image> says."
            )
        text = value.strip()
        if text[:5].lower() == "data:":
            return await asyncio.to_thread(self._inline, text)
        if text.startswith(_CLOUDS):
            uri = base64.urlsafe_b64encode(text.encode()).decode("ascii")
            return await self._from_label_studio(f"/tasks/{quote(str(task), safe='')}/presign/?fileuri={uri}")
        if text.startswith("/") and not text.startswith("//"):
            return await self._from_label_studio(text)
        if text[:8].lower().startswith(("http://", "https://")):
            return await self._from_elsewhere(text, project)
        raise PictureNotFetched(
            f"{shorten(text)!r} is no address of a picture. A task has a path of Label Studio, an http(s), s3, gs or "
            "azure-blob URL, or a data URI."
        )

    def _inline(self, text: str) -> bytes:
        if len(text) * 3 // 4 > self._max_bytes + 1000:
            raise ImageTooLarge(f"The picture in the task has more than {self._max_bytes} bytes.")
        head, found, _ = text.partition(",")
        if not found or not head.lower().endswith(";base64"):
            raise InvalidImage("The data URI in the task is not in base64.")
        return picture_of(text, "data URI of the task")

    async def _from_elsewhere(self, url: str, project: Credentials) -> bytes:
        if self._base:
            try:
                ours = origin_of(httpx.URL(url)) == origin_of(httpx.URL(self._base))
            except (httpx.InvalidURL, ValueError):
                raise PictureNotFetched(f"{shorten(url)!r} is no URL.") from None
            if ours:
                return await self._authorised(url)
        return await self._fetcher.get(url, project.headers)

    async def _from_label_studio(self, path: str) -> bytes:
        if not self._base:
            raise _Refused(
                "The picture lies in Label Studio, and its address is not configured here. Set label_studio_url and "
                "label_studio_token."
            )
        # Where Label Studio lies below a path, some of what it says begins with that and some does not.
        begin = self._base
        below = urlsplit(begin).path
        if below and path.startswith(f"{below}/"):
            begin = begin.removesuffix(below)
        return await self._authorised(f"{begin}{path}")

    async def _authorised(self, url: str) -> bytes:
        """Get from Label Studio; a token that has run out is refreshed once."""
        for fresh in (False, True):
            try:
                return await self._fetcher.get(url, await self._token.headers(fresh=fresh))
            except PictureNotFetched as error:
                if error.status == 401 and not fresh and self._token.refreshes:
                    continue
                raise self._explained(error, url) from None
        raise AssertionError("unreachable")

    def _explained(self, error: PictureNotFetched, url: str) -> PictureNotFetched:
        """Say what to do about an answer of Label Studio's."""
        if error.status == 401:
            return _Refused(f"Label Studio refuses the picture: {self._token.advice}")
        if error.status in {403, 404} and "/data/local-files/" in url:
            return PictureNotFetched(
                f"Label Studio answers {error.status} for a local file. Start it with "
                "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true, and add the folder to the project as a storage."
            )
        if error.status == 403:
            return _Refused("Label Studio answers 403: the token's user may not see this project.")
        if error.status is None or error.status >= 500:
            return _Refused(error.message)
        return error


class _Token:
    """What Label Studio is asked with: a personal access token, which is exchanged, a legacy token, or none."""

    def __init__(self, base: str, token: str, fetcher: Fetcher) -> None:
        self._base, self._token, self._fetcher = base, token, fetcher
        self._access, self._until = "", 0.0
        self._refreshing = asyncio.Lock()

    @property
    def refreshes(self) -> bool:
        """Whether it is a personal access token: a JWT, of three parts."""
        return self._token.count(".") == 2

    @property
    def advice(self) -> str:
        """What to do where it is not taken."""
        if not self._token:
            return (
                "no token is configured. Set label_studio_token to a personal access token of one who sees the project."
            )
        if self.refreshes:
            return "it does not take the personal access token in label_studio_token. Make a new one in its settings."
        return (
            "it does not take the legacy token in label_studio_token. Legacy tokens are off by default: switch them on "
            "in its organisation's settings, or use a personal access token."
        )

    async def headers(self, *, fresh: bool) -> Mapping[str, str]:
        """Return the header to ask with; ``fresh`` where the last one was refused."""
        if not self._token:
            return {}
        if not self.refreshes:
            return {"Authorization": f"Token {self._token}"}
        async with self._refreshing:
            if fresh or time.monotonic() > self._until:
                self._access = await self._exchange()
                self._until = time.monotonic() + _REFRESH_S
        return {"Authorization": f"Bearer {self._access}"}

    async def _exchange(self) -> str:
        status, answer = await self._fetcher.post_json(f"{self._base}/api/token/refresh/", {"refresh": self._token})
        access: Any = answer.get("access") if isinstance(answer, dict) else None
        if status != 200 or not isinstance(access, str):
            raise _Refused(f"Label Studio refuses the picture: {self.advice}")
        return access
