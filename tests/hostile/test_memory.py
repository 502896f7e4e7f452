"""What the front process holds at its height, whatever comes in: a real server under everything at once."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from tests.hostile.bombs import black_webp, png
from tests.protocols.native.pictures import star
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.alone]

MIB = 2**20
SIDE = 3000
THREADS = 4
BODY, INFLIGHT = 8 * MIB, 32 * MIB
SETTINGS = {
    "--model": "shapes",
    "--max-image-pixels": SIDE * SIDE,
    "--max-open-pixels": SIDE * SIDE,
    "--max-body-bytes": BODY,
    "--max-inflight-bytes": INFLIGHT,
    "--decode-threads": THREADS,
    "--request-timeout-s": 300,
}
KEPT = (THREADS + 1) * 64 * MIB  # blocks below 32 MiB that were freed: glibc keeps some for each thread
SLACK = 192 * MIB  # buffers of connections, drawn pictures on their way out, what the allocator keeps


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(*(str(part) for pair in SETTINGS.items() for part in pair)) as server:
        yield server


def high_water_bytes(server: Server, *, reset: bool = False) -> int:
    folder = Path(f"/proc/{server.process.pid}")
    if reset:
        (folder / "clear_refs").write_text("5", encoding="ascii")
    status = (folder / "status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


async def explain(client: httpx.AsyncClient, picture: bytes) -> int:
    # Drawn at full size, so that every picture would be kept whole until its map is there.
    options = {"output": "overlay", "max_side": str(SIDE)}
    headers = {"Content-Type": "image/png"}
    return (await client.post("/api/v1/explain", content=picture, params=options, headers=headers)).status_code


async def test_many_large_pictures_at_once(server: Server) -> None:
    """24 pictures of 9 megapixels: kept whole they would be 860 MB, and decoded by 4 threads 600 MB more."""
    pictures = [png(SIDE, SIDE), png(SIDE, SIDE, colour=4), black_webp(SIDE, SIDE), png(SIDE, 2 * SIDE)]
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=24)) as client:
        assert await explain(client, star()) == 200
        before = high_water_bytes(server, reset=True)
        statuses = await asyncio.gather(*(explain(client, pictures[index % 4]) for index in range(24)))
    assert statuses == [200, 200, 200, 413] * 6
    # docs/operations.md: 16 bytes for each pixel that is decoded, 32 for each that is drawn, and 3 of what overlays are
    # laid on; there is room for one.
    assert high_water_bytes(server) - before < (32 + 3) * SIDE * SIDE + KEPT + SLACK


async def test_many_damaged_pictures_in_one_request(server: Server) -> None:
    """The error of each is answered at the end; with its trace it would hold the picture until then."""
    damaged = png(SIDE, SIDE)[:-2000]
    before = high_water_bytes(server, reset=True)
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        files = [("image", ("a.png", damaged))] * 31 + [("image", ("a.png", star()))]
        response = await client.post("/api/v1/explain", files=files)
    codes = [result["error"] and result["error"]["code"] for result in response.json()["results"]]
    assert codes == ["invalid_image"] * 31 + [None]
    assert high_water_bytes(server) - before < 16 * SIDE * SIDE + KEPT + SLACK


class Upload:
    """A JSON request whose last bytes wait until they are asked for."""

    END = b'"}]}'

    def __init__(self, server: Server) -> None:
        self._host, self._port = urlsplit(server.url).hostname, urlsplit(server.url).port

    async def begin(self) -> int:
        """Send all but the end; return the status of an answer that comes all the same, or 0."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        head = (
            "POST /api/v1/explain HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {BODY}\r\n\r\n"
        )
        start = b'{"images": [{"b64": "'
        with contextlib.suppress(ConnectionError):  # refused and hung up: the answer is there to be read
            self._writer.write(head.encode() + start + b"A" * (BODY - len(start) - len(self.END)))
            await self._writer.drain()
        try:
            async with asyncio.timeout(10):
                return await self._status()
        except TimeoutError:
            return 0

    async def finish(self) -> int:
        self._writer.write(self.END)
        return await self._status()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _status(self) -> int:
        return int((await self._reader.readline()).split()[1])


async def test_many_large_bodies_at_once(server: Server) -> None:
    """32 bodies of 8 MiB: 256 MiB, of which there is room for 32."""
    before = high_water_bytes(server, reset=True)
    uploads = [Upload(server) for _ in range(32)]
    statuses = await asyncio.gather(*(upload.begin() for upload in uploads))
    waiting = [upload for upload, status in zip(uploads, statuses, strict=True) if status == 0]
    assert set(statuses) == {0, 429}
    assert 1 <= len(waiting) <= INFLIGHT // BODY
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.get("/livez")).status_code == 200
    assert {await upload.finish() for upload in waiting} == {400}  # what is in them is no picture
    # What is being read, and of one of them at a time the text and the bytes in it.
    assert high_water_bytes(server) - before < INFLIGHT + 6 * BODY + SLACK
    await asyncio.gather(*(upload.close() for upload in uploads))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        assert (await client.post("/api/v1/predict", files={"image": ("a.png", star())})).status_code == 200
