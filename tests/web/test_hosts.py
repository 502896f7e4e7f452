"""Whom a service without keys on a loopback address answers: nobody's page but those that the settings allow."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from service.settings import KeyConfig, Settings
from service.web.keys import digest_of
from tests.toys import png
from tests.web.application import faked

PREDICT = "/api/v1/predict"


async def status(headers: dict[str, str], **settings: Any) -> tuple[int, str]:
    """The status of a picture's answer, and the code of an error."""
    async with faked(**{"allowed_hosts": (), **settings}) as application, application.client() as client:
        sent = {"Content-Type": "image/png", "Host": "localhost", **headers}
        response = await client.post(PREDICT, content=png(), headers=sent)
        return response.status_code, response.json()["code"] if response.is_error else ""


OURS = ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000"]
THEIRS = ["evil.test", "localhost.evil.test", "evil.test:8000", "192.168.0.7", "127.0.0.1.evil.test"]


@pytest.mark.parametrize("host", OURS)
async def test_names_of_this_machine_are_answered(host: str) -> None:
    assert await status({"Host": host}) == (200, "")


@pytest.mark.parametrize("host", THEIRS)
async def test_other_names_may_point_here_and_are_not(host: str) -> None:
    assert await status({"Host": host}) == (403, "host_not_allowed")
    assert await status({"Host": host}, allowed_hosts=(host.partition(":")[0],)) == (200, "")
    assert await status({"Host": host}, allowed_hosts=("*",)) == (200, "")


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443", "http://localhost:8000"]
)
async def test_pages_of_this_machine_may_ask(origin: str) -> None:
    assert await status({"Origin": origin}) == (200, "")


@pytest.mark.parametrize(
    "origin", ["https://evil.test", "null", "http://localhost.evil.test", "file://localhost", "chrome-extension://a"]
)
async def test_pages_from_elsewhere_may_not(origin: str) -> None:
    assert await status({"Origin": origin}) == (403, "origin_not_allowed")


async def test_listed_origins_and_hosts_may_ask() -> None:
    origin = "https://tool.test"
    assert await status({"Origin": origin}, cors_origins=(origin,)) == (200, "")
    assert await status({"Origin": "https://tool.test:8443"}, cors_origins=(origin,)) == (403, "origin_not_allowed")
    assert await status({"Origin": origin}, cors_origins=("*",)) == (200, "")
    assert await status({"Origin": origin}, allowed_hosts=("tool.test",)) == (200, "")


async def test_with_any_host_the_own_page_is_told_from_others() -> None:
    own = {"Host": "proxied.test", "Origin": "https://proxied.test"}
    assert await status(own, allowed_hosts=("*",)) == (200, "")
    assert await status(own | {"Origin": "https://evil.test"}, allowed_hosts=("*",)) == (403, "origin_not_allowed")


async def test_the_viewers_files_may_be_loaded_by_any_page() -> None:
    async with faked() as application, application.client() as client:
        response = await client.get("/static/camserve-viewer.js", headers={"Origin": "https://evil.test"})
        assert response.status_code == 200


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0", "expose_without_keys": True}])
async def test_where_others_reach_it_the_proxy_decides(settings: dict[str, Any]) -> None:
    assert await status({"Host": "evil.test", "Origin": "https://evil.test"}, **settings) == (200, "")


async def test_with_keys_the_key_decides() -> None:
    key = KeyConfig(name="a", sha256=digest_of("k"))
    sent = {"Host": "evil.test", "Origin": "https://evil.test"}
    assert await status(sent, keys=(key,)) == (401, "unauthorized")
    assert await status(sent | {"Authorization": "Bearer k"}, keys=(key,)) == (200, "")


@pytest.mark.parametrize("host", ["https://a.test", "a.test/", "a.test:8000"])
def test_what_is_no_host_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(ValidationError, match="without scheme, port or path"):
        Settings(allowed_hosts=(host,))
