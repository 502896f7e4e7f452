"""Where the picture of a task is, with a server in Label Studio's place that wants its tokens."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from service.errors import PictureNotFetched
from service.protocols.label_studio.pictures import NOBODY, Credentials, Pictures, is_fault
from service.settings import Settings
from tests.labelling.server import PICTURE, Server, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PERSONAL, LEGACY = "eyJ.eyJ.sig", "0123456789abcdef0123456789abcdef01234567"
UPLOAD = "/data/upload/1/4a793b91-%C3%A4.jpg"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as server:
        server.answers["/api/token/refresh/"] = response(200, json.dumps({"access": "fresh"}).encode())
        for path in (UPLOAD, "/data/local-files/?d=a/b.png", presigned("s3://bucket/a b.png")):
            server.answers[path] = response(200, PICTURE)
        yield server


def presigned(uri: str) -> str:
    return f"/tasks/7/presign/?fileuri={base64.urlsafe_b64encode(uri.encode()).decode()}"


async def get(server: Server | None, value: Any, token: str | None = None, project: Credentials = NOBODY) -> bytes:
    settings = Settings(label_studio_url=server.url if server else None, label_studio_token=token)
    pictures = Pictures(settings)
    try:
        return await pictures.get(value, 7, project)
    finally:
        await pictures.close()


def sent(server: Server, path: str) -> str:
    """The credentials that came with a request."""
    (head,) = [head for head in server.heads if head.split(" ")[1] == path]
    found = [line for line in head.splitlines() if line.lower().startswith("authorization:")]
    return found[0].partition(": ")[2] if found else ""


class TestTokens:
    async def test_none(self, server: Server) -> None:
        assert await get(server, UPLOAD) == PICTURE
        assert sent(server, UPLOAD) == ""

    async def test_a_legacy_token(self, server: Server) -> None:
        assert await get(server, UPLOAD, LEGACY) == PICTURE
        assert sent(server, UPLOAD) == f"Token {LEGACY}"

    async def test_a_personal_access_token_is_exchanged(self, server: Server) -> None:
        assert await get(server, UPLOAD, PERSONAL) == PICTURE
        assert sent(server, UPLOAD) == "Bearer fresh"
        assert PERSONAL not in sent(server, UPLOAD)

    async def test_it_is_exchanged_once_and_again_when_it_has_run_out(self, server: Server) -> None:
        pictures = Pictures(Settings(label_studio_url=server.url, label_studio_token=PERSONAL))
        for _ in range(3):
            await pictures.get(UPLOAD, 7, NOBODY)
        assert sum("refresh" in head for head in server.heads) == 1
        server.answers[UPLOAD] = response(401)
        with pytest.raises(PictureNotFetched, match="personal access token") as refused:
            await pictures.get(UPLOAD, 7, NOBODY)
        assert is_fault(refused.value)
        assert sum("refresh" in head for head in server.heads) == 2
        await pictures.close()

    @pytest.mark.parametrize(
        ("token", "advice"), [(None, "no token"), (LEGACY, "Legacy tokens are off by default"), (PERSONAL, "new one")]
    )
    async def test_one_that_is_refused(self, server: Server, token: str | None, advice: str) -> None:
        server.answers |= {UPLOAD: response(401), "/api/token/refresh/": response(401)}
        with pytest.raises(PictureNotFetched, match=advice) as refused:
            await get(server, UPLOAD, token)
        assert is_fault(refused.value)
        assert (token or "none") not in refused.value.message

    def test_it_is_not_shown(self) -> None:
        assert PERSONAL not in repr(Settings(label_studio_token=PERSONAL))


class TestPlaces:
    async def test_uploads_and_local_files(self, server: Server) -> None:
        for value in (UPLOAD, "/data/local-files/?d=a/b.png", f" {UPLOAD} "):
            assert await get(server, value, LEGACY) == PICTURE

    async def test_below_a_path(self, server: Server) -> None:
        server.answers[f"/ls{UPLOAD}"] = response(200, PICTURE)
        pictures = Pictures(Settings(label_studio_url=f"{server.url}/ls/"))
        for value in (UPLOAD, f"/ls{UPLOAD}"):
            assert await pictures.get(value, 7, NOBODY) == PICTURE
        await pictures.close()

    async def test_clouds_are_asked_of_label_studio(self, server: Server) -> None:
        assert await get(server, "s3://bucket/a b.png", LEGACY) == PICTURE
        assert sent(server, presigned("s3://bucket/a b.png")) == f"Token {LEGACY}"
        for cloud in ("gs://b/x", "azure-blob://b/x"):
            server.answers[presigned(cloud)] = response(303, Location=UPLOAD)
            assert await get(server, cloud) == PICTURE

    async def test_a_url_of_label_studio_itself(self, server: Server) -> None:
        assert await get(server, f"{server.url}{UPLOAD}", LEGACY, Credentials("me", "secret")) == PICTURE
        assert sent(server, UPLOAD) == f"Token {LEGACY}"

    async def test_neither_token_nor_anything_else_goes_to_other_hosts_of_this_network(self, server: Server) -> None:
        async with Server().running() as other:
            with pytest.raises(PictureNotFetched, match="machine or its network"):
                await get(server, f"{other.url}/a.png", LEGACY, Credentials("me", "secret"))
            assert other.heads == []

    async def test_data(self) -> None:
        assert await get(None, "data:image/png;base64," + base64.b64encode(PICTURE).decode()) == PICTURE

    @pytest.mark.parametrize("status", [403, 404])
    async def test_a_local_file_that_is_not_served(self, server: Server, status: int) -> None:
        server.answers["/data/local-files/?d=x"] = response(status)
        with pytest.raises(PictureNotFetched, match="LOCAL_FILES_SERVING_ENABLED") as refused:
            await get(server, "/data/local-files/?d=x")
        assert not is_fault(refused.value)

    @pytest.mark.parametrize(("status", "fault"), [(403, True), (404, False), (500, True), (502, True)])
    async def test_what_label_studio_may_answer_otherwise_another_time(
        self, server: Server, status: int, fault: bool
    ) -> None:
        server.answers[UPLOAD] = response(status)
        with pytest.raises(PictureNotFetched) as refused:
            await get(server, UPLOAD)
        assert is_fault(refused.value) == fault

    async def test_it_is_not_there(self) -> None:
        gone = Server()
        gone.url = "http://127.0.0.1:9"
        with pytest.raises(PictureNotFetched, match="cannot be reached") as refused:
            await get(gone, UPLOAD)
        assert is_fault(refused.value)

    async def test_a_storage_in_this_network_that_the_operator_names(self, server: Server) -> None:
        async with Server().running() as storage:
            storage.answers["/photos/a.png"] = response(200, PICTURE)
            where = f"{storage.url}/photos/a.png"
            with pytest.raises(PictureNotFetched, match="label_studio_storage"):
                await get(server, where, PERSONAL)
            host = storage.url.removeprefix("http://")
            settings = Settings(label_studio_url=server.url, label_studio_token=PERSONAL, label_studio_storage=host)
            pictures = Pictures(settings)
            assert await pictures.get(where, 7, NOBODY) == PICTURE
            await pictures.close()
            assert PERSONAL not in "".join(storage.heads)


def test_basic_credentials_of_a_project() -> None:
    assert Credentials("me", "secret").headers == {"Authorization": "Basic bWU6c2VjcmV0"}
    assert NOBODY.headers == {}
