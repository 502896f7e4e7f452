"""Requests of strangers: headers, bodies and numbers that no client of ours would send; and what is in the pictures."""

from __future__ import annotations

import base64
import gzip
import io
import logging
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.problems import MEDIA_TYPE
from tests.toys import encode, png
from tests.web.application import faked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx

EXPLAIN, PREDICT = "/api/v1/explain", "/api/v1/predict"
SMALL = png(size=(32, 32))
B64 = base64.b64encode(SMALL).decode()
PICTURE = f'{{"b64": "{B64}"}}'


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with faked() as application, application.client() as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_is_our_fault(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def check(response: httpx.Response, status: int, code: str, says: str = "") -> None:
    assert response.headers["Content-Type"] == MEDIA_TYPE, response.text
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert says in problem["detail"]
    assert len(response.content) < 2000, "an error does not echo what was sent"


async def raw(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post(EXPLAIN, content=SMALL, headers={"Content-Type": "image/png", **headers})


def part(head: str, content: bytes = SMALL, boundary: str = "B") -> bytes:
    return f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"


IMAGE = part('Content-Disposition: form-data; name="image"; filename="a.png"')


async def form(client: httpx.AsyncClient, body: bytes, boundary: str = "B") -> httpx.Response:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return await client.post(EXPLAIN, content=body + f"--{boundary}--\r\n".encode(), headers=headers)


# -- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "GZIP ", "br", "deflate", "zstd", "gzip, gzip", "x" * 5000, "é"])
async def test_an_encoded_body_is_not_inflated(client: httpx.AsyncClient, encoding: str) -> None:
    headers = {b"Content-Type": b"image/png", b"Content-Encoding": encoding.encode("latin-1")}
    response = await client.post(EXPLAIN, content=gzip.compress(bytes(100_000)), headers=headers)
    check(response, 415, "unsupported_media_type", "without Content-Encoding")


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
async def test_identity_is_no_encoding(client: httpx.AsyncClient, encoding: str) -> None:
    assert (await raw(client, **{"Content-Encoding": encoding})).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        *["0", "-1", "1e3", "1.5", "NaN", "Infinity", "", " ", "00", "0x10", "1_000", "1,000"],
        *["٣", "¹", "1 1", "+1", "null"],
    ],
)
async def test_absurd_timeouts(client: httpx.AsyncClient, sent: str) -> None:
    headers = {b"Content-Type": b"image/png", b"X-Request-Timeout-Ms": sent.encode()}
    check(await client.post(EXPLAIN, content=SMALL, headers=headers), 422, "invalid_option", "X-Request-Timeout-Ms")


async def test_thousands_of_headers_and_a_long_accept(client: httpx.AsyncClient) -> None:
    more = {f"X-{number}": "y" for number in range(3000)}
    assert (await raw(client, **more)).status_code == 200
    assert (await raw(client, Accept=",".join(["image/*;q=0." + "1" * 1000] * 50))).status_code == 200


# -- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [71, 1000, 100_000])
async def test_a_long_boundary(client: httpx.AsyncClient, length: int) -> None:
    boundary = "b" * length
    body = part('Content-Disposition: form-data; name="image"; filename="a.png"', boundary=boundary)
    response = await form(client, body, boundary)
    assert response.status_code in {200, 400}, response.text
    if response.status_code == 400:
        check(response, 400, "invalid_request", "multipart body")


async def test_a_form_in_a_form_is_no_picture(client: httpx.AsyncClient) -> None:
    inner = part('Content-Disposition: form-data; name="image"; filename="a.png"', boundary="C") + b"--C--\r\n"
    head = 'Content-Disposition: form-data; name="image"; filename="a"\r\nContent-Type: multipart/mixed; boundary=C'
    check(await form(client, part(head, inner)), 400, "invalid_image", "not a picture")


@pytest.mark.parametrize("count", [33, 20_000])
async def test_thousands_of_files(client: httpx.AsyncClient, count: int) -> None:
    body = part('Content-Disposition: form-data; name="image"; filename="a.png"', b"x") * count
    check(await form(client, body), 413, "too_many_images", "32 at most")


async def test_thousands_of_empty_parts(client: httpx.AsyncClient) -> None:
    check(await form(client, part('Content-Disposition: form-data; name=""', b"") * 50_000), 413, "body_too_large")


@pytest.mark.parametrize(
    ("sent", "back"),
    [
        ("../../../../etc/passwd", "etc/passwd"),
        ("..\\\\..\\\\windows\\\\win.ini", "windows/win.ini"),
        ("C:\\\\boot.ini", "boot.ini"),
        ("/etc/shadow", "etc/shadow"),
        ("....//x", "..../x"),
        ("\u202egnp.exe\u2066", "gnp.exe"),
        ("a\u0000b\u001b]0;x\u0007.png", "ab]0;x.png"),
        ("<script>alert(1)</script>.png", "<script>alert(1)<" + "/script>.png"),
        ("x" * 10_000, None),
    ],
)
async def test_filenames_come_back_harmless_and_never_in_a_header(
    client: httpx.AsyncClient, sent: str, back: str | None
) -> None:
    if back is None:
        sent = sent[:1000]
        back = "x" * 254 + "…"
    for body in ({"images": [{"b64": B64, "filename": sent.replace("\\\\", "\\")}]},):
        response = await client.post(PREDICT, json=body)
        assert response.json()["results"][0]["image"]["filename"] == back
        assert response.headers["Content-Type"] == "application/json"
        assert not [value for value in response.headers.values() if "etc" in value or "alert" in value or "xx" in value]


async def test_a_filename_of_ten_thousand_characters(client: httpx.AsyncClient) -> None:
    body = part(f'Content-Disposition: form-data; name="image"; filename="{"x" * 10_000}"')
    response = await form(client, body)
    assert response.status_code in {200, 400}
    if response.status_code == 200:
        assert response.json()["results"][0]["image"]["filename"] == "x" * 254 + "…"
    assert "xxx" not in str(response.headers)


# -- JSON and numbers -------------------------------------------------------------------------------------------------

NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e308", "-1", "99999999999999999999", "-0.1", "1" * 4000]
OPTIONS = ["top_k", "alpha", "threshold", "max_side", "smooth", "target", "against", "head", "layer", "size", "signed"]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:9])
async def test_absurd_numbers_in_every_option(client: httpx.AsyncClient, option: str, number: str) -> None:
    body = f'{{"images": [{PICTURE}], "{option}": {number}}}'
    response = await client.post(EXPLAIN, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in {400, 422}, response.text
    assert len(response.content) < 2000
    response = await raw_with(client, option, number)
    assert response.status_code == 422, response.text
    assert len(response.content) < 2000


async def raw_with(client: httpx.AsyncClient, option: str, value: str) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return await client.post(EXPLAIN, content=SMALL, params={option: value}, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000 + "]" * 100_000,
        f'{{"images": {"[" * 100_000}{"]" * 100_000}}}',
        f'{{"images": [{PICTURE}], "target": {"[" * 100_000}{"]" * 100_000}}}',
        f'{{"images": [{PICTURE}], "layer": {{"a": 1}}}}',
        f'{{"images": [{PICTURE}], "target": [{"1," * 200_000}1]}}',
        f"{{{','.join(f'{chr(34)}k{number}{chr(34)}: 1' for number in range(100_000))}}}",
        f'{{"images": [{",".join(["{}"] * 100_000)}]}}',
        '{"images": [{"b64": "\\ud800"}]}',
        '{"images": [{"b64": "\\u0000"}]}',
        f'{{"images": [{PICTURE}], "target": "\\udfff"}}',
        f'{{"images": [{PICTURE}], "target": 1{"0" * 10_000}}}',
        f'{{"images": [{PICTURE}], "alpha": 0.{"1" * 1_000_000}e}}',
    ],
    ids=lambda body: body[:30],
)
async def test_deep_and_wide_json(client: httpx.AsyncClient, body: str) -> None:
    for path in (EXPLAIN, PREDICT):
        response = await client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in {400, 413, 422}, response.text
        assert response.headers["Content-Type"] == MEDIA_TYPE
        assert len(response.content) < 3000


async def test_bytes_that_are_no_text(client: httpx.AsyncClient) -> None:
    for body in (b"\xff\xfe{", b'{"images": "\xed\xa0\x80"}', b"\x00" * 1000, gzip.compress(b"{}")):
        response = await client.post(EXPLAIN, content=body, headers={"Content-Type": "application/json"})
        check(response, 400, "invalid_request", "not a JSON object")


# -- what is in the pictures ------------------------------------------------------------------------------------------

EVIL = b"<html><script>alert('camserve')</script></html>"


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("evil.html", EVIL)
    return stream.getvalue()


def gif_and_javascript() -> bytes:
    """A picture of 10799 × 1 pixels or so, whose size spells the beginning of a comment in JavaScript."""
    data = bytearray(encode(Image.new("P", (0x2A2F, 1)), "GIF"))
    assert data[6:8] == b"/*"
    return bytes(data) + b"*/=1;" + EVIL


POLYGLOTS = {
    "PNG and ZIP": SMALL + archive(),
    "JPEG and HTML": encode(Image.open(io.BytesIO(SMALL)), "JPEG") + EVIL,
    "JPEG with HTML as a comment": encode(Image.open(io.BytesIO(SMALL)), "JPEG", comment=EVIL),
    "GIF and JavaScript": gif_and_javascript(),
    "BMP and a program": encode(Image.open(io.BytesIO(SMALL)), "BMP") + b"MZ" + EVIL,
    "TIFF and PDF": encode(Image.open(io.BytesIO(SMALL)), "TIFF") + b"%PDF-1.7 " + EVIL,
    "WebP and HTML": encode(Image.open(io.BytesIO(SMALL)), "WEBP") + EVIL,
}


@pytest.mark.parametrize("name", POLYGLOTS)
async def test_nothing_of_a_file_but_its_pixels_comes_back(client: httpx.AsyncClient, name: str) -> None:
    data = POLYGLOTS[name]
    options = {"output": ["overlay", "heatmap", "mask"], "size": "picture"}
    response = await client.post(EXPLAIN, content=data, params=options, headers={"Content-Type": "text/html"})
    check(response, 415, "unsupported_media_type")
    for kind in ("png", "jpeg", "webp"):
        headers = {"Content-Type": "application/octet-stream", "Accept": f"image/{kind}"}
        response = await client.post(EXPLAIN, content=data, headers=headers)
        assert (response.status_code, response.headers["Content-Type"]) == (200, f"image/{kind}")
        assert b"script" not in response.content
        assert Image.open(io.BytesIO(response.content)).format == kind.upper()
    response = await client.post(EXPLAIN, content=data, params=options, headers={"Content-Type": "image/gif"})
    assert response.headers["Content-Type"] == "application/json"
    (explanation,) = response.json()["results"][0]["explanations"]
    for output in options["output"]:
        drawn = base64.b64decode(explanation[output]["data"])
        assert b"script" not in drawn
        assert f"image/{str(Image.open(io.BytesIO(drawn)).format).lower()}" == explanation[output]["media_type"]


def other_formats() -> dict[str, bytes]:
    picture = Image.fromarray(np.full((16, 16, 3), 77, np.uint8))
    names = ["EPS", "PDF", "ICO", "PCX", "PPM", "SGI", "TGA", "ICNS", "JPEG2000", "DDS", "XBM", "DIB"]
    saved = {name: encode(picture.convert("1") if name == "XBM" else picture, name) for name in names}
    return saved | {
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "XML with an entity": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]><svg>&y;</svg>",
        "PSD": b"8BPS\0\1" + bytes(100),
        "FITS": b"SIMPLE  =                    T" + bytes(2850),
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "HTML": EVIL,
        "ImageMagick": b"push graphic-context\nimage over 0,0 0,0 'https://example.org/'\npop graphic-context",
        "PostScript": b"%!PS\n(/etc/passwd) (r) file",
        "gzip": gzip.compress(SMALL),
        "ZIP": archive(),
    }


OTHERS = other_formats()


@pytest.mark.parametrize("name", OTHERS)
async def test_no_other_format_is_opened(client: httpx.AsyncClient, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = OTHERS[name]

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("Image.open tries every format that Pillow knows")

    monkeypatch.setattr(Image, "open", opened)
    for content_type in ("image/png", "application/octet-stream", f"image/{name.lower().split()[0]}"):
        response = await client.post(EXPLAIN, content=data, headers={"Content-Type": content_type})
        check(response, 400, "invalid_image", "")
        detail = response.json()["detail"]
        # Kinds that people send are named, others are not.
        assert "not a picture in a known format" in detail or "is not read" in detail
