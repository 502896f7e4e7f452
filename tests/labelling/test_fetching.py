"""Pictures from URLs: what is refused, whoever asks for it, and the bounds of what is not."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from service.errors import ImageTooLarge, PictureNotFetched
from service.labelling import addresses
from service.labelling.addresses import is_public
from service.labelling.fetching import Fetcher
from tests.labelling.server import PICTURE, Server, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE_S = 30.0


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as server:
        server.answers["/a.png"] = response(200, PICTURE)
        yield server


@pytest.fixture
async def other() -> AsyncIterator[Server]:
    async with Server().running() as server:
        server.answers["/a.png"] = response(200, PICTURE)
        yield server


@pytest.fixture
async def fetcher(server: Server) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(server.url, 10_000, PATIENCE_S)
    yield fetcher
    await fetcher.close()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::1", False),
        ("nonsense", False),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    assert is_public(address) == public


async def test_the_trusted_server_may_be_on_this_machine(fetcher: Fetcher, server: Server) -> None:
    assert await fetcher.get(f"{server.url}/a.png", {"Authorization": "Token x"}) == PICTURE
    assert "authorization: token x" in server.heads[0].lower()
    assert f"host: {server.url.removeprefix('http://')}" in server.heads[0].lower()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "127.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]"]
)
async def test_no_other_one_is(fetcher: Fetcher, other: Server, host: str) -> None:
    port = other.url.rpartition(":")[2]
    with pytest.raises(PictureNotFetched):
        await fetcher.get(f"http://{host}:{port}/a.png")
    assert other.heads == []


async def test_a_redirect_into_this_network_is_refused(fetcher: Fetcher, server: Server, other: Server) -> None:
    server.answers["/moved"] = response(302, Location=f"{other.url}/a.png")
    with pytest.raises(PictureNotFetched, match="machine or its network"):
        await fetcher.get(f"{server.url}/moved")
    assert other.heads == []


async def test_a_host_that_the_operator_names_may_be_in_this_network(server: Server, other: Server) -> None:
    named = other.url.replace("127.0.0.1", "localhost")
    fetcher = Fetcher(server.url, 10_000, PATIENCE_S, storage=[named.removeprefix("http://").upper()])
    server.answers["/to"] = response(302, location=f"{named}/a.png?X-Amz-Signature=s")
    other.answers["/a.png?X-Amz-Signature=s"] = response(200, PICTURE)
    try:
        assert await fetcher.get(f"{server.url}/to", {"Authorization": "Token x"}) == PICTURE
        assert await fetcher.get(f"{named}/a.png") == PICTURE
        assert "authorization" not in "".join(other.heads).lower()
        for unnamed in (f"{other.url}/a.png", "http://localhost/a.png", f"{named[:-1]}/a.png"):
            with pytest.raises(PictureNotFetched, match="label_studio_storage"):
                await fetcher.get(unnamed)
    finally:
        await fetcher.close()


async def test_without_a_port_it_is_the_usual_one(server: Server) -> None:
    fetcher = Fetcher(None, 10_000, PATIENCE_S, storage=["localhost", "[::1]"])
    try:
        for named in ("http://localhost/a.png", "http://localhost:80/a.png", "https://[::1]/a.png"):
            with pytest.raises(PictureNotFetched, match=r"cannot be reached|answers"):
                await fetcher.get(named)
        for unnamed in (server.url.replace("127.0.0.1", "localhost"), "http://localhost:443/", "http://127.0.0.1/"):
            with pytest.raises(PictureNotFetched, match="label_studio_storage"):
                await fetcher.get(unnamed)
    finally:
        await fetcher.close()


async def test_redirects_on_the_same_server_are_followed(fetcher: Fetcher, server: Server) -> None:
    server.answers |= {"/one": response(302, Location="/two"), "/two": response(307, Location="a.png")}
    assert await fetcher.get(f"{server.url}/one", {"Authorization": "Token x"}) == PICTURE
    assert all("token x" in head.lower() for head in server.heads)


async def test_redirects_end(fetcher: Fetcher, server: Server) -> None:
    server.answers["/round"] = response(302, Location="/round")
    with pytest.raises(PictureNotFetched, match="5 times"):
        await fetcher.get(f"{server.url}/round")
    assert len(server.heads) == 6


class TestElsewhere:
    """Of hosts of the internet, none of which there is here: names and addresses are made to lead to this machine."""

    @pytest.fixture(autouse=True)
    def internet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.2")

    @pytest.fixture
    def names(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
        """What names lead to, one after the other."""
        known: dict[str, list[str]] = {}

        async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> Any:
            if host not in known:
                if host[0].isdigit():
                    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
                raise socket.gaierror
            found = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found.split()]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
        return known

    @pytest.fixture
    async def site(self) -> AsyncIterator[Server]:
        """A server at 127.0.0.2, which stands for one of the internet."""
        site = Server()
        server = await asyncio.start_server(site._serve, "127.0.0.2", 0)
        site.url = f"http://pictures.example:{server.sockets[0].getsockname()[1]}"
        site.answers["/a.png"] = response(200, PICTURE)
        async with server:
            yield site

    async def test_the_address_that_was_checked_is_asked(
        self, fetcher: Fetcher, site: Server, names: dict[str, list[str]]
    ) -> None:
        """A name that leads to this network when it is looked up again is not looked up again."""
        names["pictures.example"] = ["127.0.0.2", "127.0.0.1"]
        assert await fetcher.get(f"{site.url}/a.png") == PICTURE
        assert "host: pictures.example" in site.heads[0].lower()
        with pytest.raises(PictureNotFetched, match="machine or its network"):
            await fetcher.get(f"{site.url}/a.png")

    async def test_one_bad_address_among_good_ones_is_enough(
        self, fetcher: Fetcher, site: Server, names: dict[str, list[str]]
    ) -> None:
        names["pictures.example"] = ["127.0.0.2 127.0.0.1"]
        with pytest.raises(PictureNotFetched, match="machine or its network"):
            await fetcher.get(f"{site.url}/a.png")
        assert site.heads == []

    async def test_the_name_that_the_server_hears_is_the_one_that_is_looked_up(
        self, fetcher: Fetcher, site: Server, names: dict[str, list[str]]
    ) -> None:
        """Python's own look-up would take ``faß`` for ``fass``, another host."""
        names["xn--fa-hia.example"], names["fass.example"] = ["127.0.0.2"], ["127.0.0.1"]
        port = site.url.rpartition(":")[2]
        assert await fetcher.get(f"http://FAß.example:{port}/a.png") == PICTURE
        assert f"host: xn--fa-hia.example:{port}" in site.heads[0].lower()

    async def test_credentials_do_not_go_where_it_redirects_to(
        self, fetcher: Fetcher, server: Server, site: Server, names: dict[str, list[str]]
    ) -> None:
        names["pictures.example"] = ["127.0.0.2"]
        server.answers["/stored"] = response(302, Location=f"{site.url}/a.png")
        assert await fetcher.get(f"{server.url}/stored", {"Authorization": "Token x"}) == PICTURE
        assert "authorization" not in site.heads[0].lower()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (response(200, Content_Length="99999"), "more than 10000 bytes"),
        (response(200, b"x" * 20_000, Content_Length=""), "more than 10000 bytes"),
        (response(200, b"x", Content_Encoding="gzip"), "compressed"),
        (response(200, b"x", Content_Length="50"), "broke off"),
        (response(404), "answers 404"),
        (response(204), "answers 204"),
        (response(302), "redirects|http"),
        (response(302, Location="ftp://x/y"), "no http"),
        (response(302, Location="http://["), "no URL|no host|no http"),
        (b"nonsense\r\n\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_answers_that_are_no_picture(fetcher: Fetcher, server: Server, answer: bytes, why: str) -> None:
    server.answers["/bad"] = answer
    with pytest.raises((PictureNotFetched, ImageTooLarge), match=why):
        await fetcher.get(f"{server.url}/bad")


async def test_no_answer_is_not_waited_for_for_ever(server: Server) -> None:
    server.answers["/bad"] = None
    fetcher = Fetcher(server.url, 10_000, 1.0)
    with pytest.raises(PictureNotFetched, match="within 1 s"):
        await fetcher.get(f"{server.url}/bad")
    await fetcher.close()


@pytest.mark.parametrize(
    "url", ["", "x", "file:///etc/passwd", "ftp://h/x", "http://", "http://[::1", "http:///x", "gopher://h"]
)
async def test_what_is_no_http_url(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(PictureNotFetched):
        await fetcher.get(url)


async def test_no_signature_and_no_password_is_told(fetcher: Fetcher, server: Server) -> None:
    address = server.url.replace("http://", "http://user:secret@")
    with pytest.raises(PictureNotFetched) as refused:
        await fetcher.get(f"{address}/gone?signature=secret")
    assert "secret" not in refused.value.message
