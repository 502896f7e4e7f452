"""What is refused of what is sent for evaluations, with which words; and what is left of it: nothing."""

from __future__ import annotations

import errno
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.jobs.material import PICTURES
from tests.jobs.asking import ROUTE, folders, image, png, post
from tests.web.application import faked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from tests.jobs.computed import Held
    from tests.web.application import Application


class TestRefused:
    @pytest.mark.parametrize(
        ("files", "data", "status", "code"),
        [
            ([image(field="picture")], {}, 400, "invalid_request"),
            ([image(data=b"")], {}, 400, "no_image"),
            ([image(str(n)) for n in range(4)], {}, 413, "too_many_images"),
            ([image(data=bytes(100_001))], {}, 413, "body_too_large"),
            ([image(), image("a.png", png(9), "mask")], {}, 422, "invalid_option"),
            ([image(), image("b.png", field="mask")], {}, 422, "invalid_option"),
            ([image(), image("coco.json", b"[]", "annotations")], {}, 422, "invalid_option"),
            ([image(), image(field="mask"), image("c", b"{}", "annotations")], {}, 400, "invalid_request"),
            ([image()], {"model": "dogs"}, 404, "unknown_model"),
            ([image()], {"layer": "nowhere"}, 422, "unknown_layer"),
            ([image()], {"method": "guesscam"}, 422, "unknown_method"),
            ([image()], {"purpose": "fun"}, 422, "invalid_option"),
            ([image()], {"seed": "-1"}, 422, "invalid_option"),
            ([image()], {"seed": ["1", "2"]}, 422, "invalid_option"),
            ([image()], {"colour": "blue"}, 422, "invalid_option"),
            ([image()], {"annotations": "text"}, 400, "invalid_request"),
        ],
    )
    async def test_with_words_and_nothing_left(
        self,
        held: Held,
        application: Application,
        client: httpx.AsyncClient,
        files: list[Any],
        data: dict[str, Any],
        status: int,
        code: str,
    ) -> None:
        answer = await post(client, *files, data=data)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert (
            str(application.state["evaluations"]._store and application.state["evaluations"]._store.root)
            not in answer.text
        )
        assert folders(application) == []
        assert held.orders == []

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ({"model": ["pets", "pets"]}, "'model': it may be given once."),
            ({"seed": ["1", "2"]}, "'seed': it may be given once."),
            ({"purpose": ["class"] * 4}, "'purpose': at most 3 may be given, not 4."),
        ],
    )
    async def test_what_is_given_too_often(self, client: httpx.AsyncClient, data: dict[str, Any], words: str) -> None:
        assert (await post(client, data=data)).json()["detail"] == words

    async def test_no_form(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(ROUTE, json={"images": []})
        assert answer.json()["code"] == "unsupported_media_type"

    async def test_too_much_work(self, held: Held) -> None:
        async with faked(max_evaluation_forward=100) as application, application.client() as client:
            answer = await post(client)
        assert (answer.status_code, answer.json()["code"]) == (413, "request_too_costly")
        assert held.orders == []

    async def test_a_full_disk(self, held: Held, application: Application, client: httpx.AsyncClient) -> None:
        assert (await post(client)).status_code == 202
        await held.begun()
        application.state["evaluations"]._store._rows.execute("PRAGMA query_only = ON")
        full = await post(client)
        assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (503, "unavailable", "60")
        assert len(folders(application)) == 1

    @pytest.mark.parametrize(
        ("number", "words"),
        [(errno.ENOSPC, "There is no room on the disk here"), (errno.EAGAIN, "This machine cannot")],
    )
    async def test_a_machine_that_cannot_look_at_it(
        self,
        held: Held,
        application: Application,
        client: httpx.AsyncClient,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        words: str,
    ) -> None:
        async def look(_module: str, _said: bytes, hear: Callable[[dict[str, Any]], None]) -> int:
            hear({"errno": number})
            return 0

        monkeypatch.setattr("service.jobs.sent.run", look)
        refused = await post(client)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.json()["detail"].startswith(words)
        assert folders(application) == []
        assert held.orders == []

    @pytest.mark.usefixtures("held")
    async def test_a_folder_that_cannot_be_one(self, tmp_path: Path) -> None:
        """Nobody is told that another process has it."""
        (tmp_path / "evaluations").write_text("no folder")
        async with faked(data_dir=tmp_path) as application, application.client() as client:
            refused = await post(client)
        assert refused.json()["detail"].startswith("This machine cannot take an evaluation now.")

    async def test_names_lead_nowhere(self, held: Held, application: Application, client: httpx.AsyncClient) -> None:
        names = ["../../x.png", "/etc/passwd", "..\\y.png"]
        taken = await post(client, *(image(name) for name in names))
        assert taken.status_code == 202
        await held.begun()
        (folder,) = folders(application)
        files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        assert files == {f"pictures/{name}" for name in ("00000", "00001", "00002", "material.json")}
        told = json.loads((folder / PICTURES / "material.json").read_text())
        assert [each["name"] for each in told["images"]] == ["x.png", "etc/passwd", "y.png"]

    @pytest.mark.usefixtures("held")
    async def test_a_long_body_is_no_others_room(self) -> None:
        """It goes to the disk, so that it may be longer than all that is held in memory."""
        async with faked(max_body_bytes=1024, max_inflight_bytes=1024) as application, application.client() as client:
            noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            stream = io.BytesIO()
            Image.fromarray(noise).save(stream, "PNG")
            assert len(stream.getvalue()) > 10_000
            assert (await post(client, image(data=stream.getvalue()))).status_code == 202
