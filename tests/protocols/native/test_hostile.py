"""Requests that nobody sends by accident, or only by accident: each gets a clear answer, and none is our fault."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import logging
import tempfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.http.base64 import decoded
from service.http.options import MAX_VALUES
from service.problems import MEDIA_TYPE
from tests.protocols.native.pictures import b64, star, wide
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXPLAIN = "/api/v1/explain"
SMALL = png(size=(32, 32))
MOST_VALUES = f"{8 * MAX_VALUES + 8 * 32} values"


@pytest.fixture(autouse=True)
def nothing_is_our_fault(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def part(name: str, content: bytes, filename: str | None = None, more: str = "") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n{more}\r\n'
    return head.encode("latin-1") + content + b"\r\n"


IMAGE = part("image", SMALL, "a.png")
END = b"--B--\r\n"


async def test_a_full_disk_is_nothing_to_large_uploads(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    padded = SMALL + 3_000_000 * b"\xff"  # what comes behind a picture's end is not looked at
    response = await send_form(client, part("image", padded, "a.png") + END)
    assert response.status_code == 200, response.text


async def send_form(client: httpx.AsyncClient, body: bytes, content_type: str = "", path: str = "") -> httpx.Response:
    headers = {"Content-Type": content_type or "multipart/form-data; boundary=B"}
    return await client.post(path or EXPLAIN, content=body, headers=headers)


async def send_json(client: httpx.AsyncClient, body: bytes, path: str = EXPLAIN) -> httpx.Response:
    return await client.post(path, content=body, headers={"Content-Type": "application/json"})


def check(response: httpx.Response, status: int, code: str, says: str) -> None:
    assert response.headers["Content-Type"] == MEDIA_TYPE, response.text
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert says in problem["detail"]
    assert len(response.content) < 2000, "an error does not echo what was sent"


# -- forms ------------------------------------------------------------------------------------------------------------

FORMS: dict[str, tuple[bytes, int, str, str]] = {
    "unknown field": (IMAGE + part("colourmap", b"jet") + END, 422, "invalid_option", "'colormap'"),
    "misspelt field": (IMAGE + part("tresholds", b"1") + END, 422, "invalid_option", "'threshold'"),
    "200 unknown fields": (
        IMAGE + b"".join(part(f"field{number}", b"x") for number in range(200)) + END,
        422,
        "invalid_option",
        "no option 'field0'",
    ),
    "option twice": (IMAGE + part("alpha", b"1") * 2 + END, 422, "invalid_option", "'alpha' is given 2 times"),
    "empty option": (IMAGE + part("alpha", b"") + END, 422, "invalid_option", "'alpha'"),
    "text in image": (part("image", b"@cat.jpg") + END, 400, "no_image", "holds text, not a file"),
    "picture without a name": (part("image", SMALL) + END, 400, "no_image", "holds text, not a file"),
    "file under another name": (part("file", SMALL, "a.png") + END, 400, "no_image", "'file' holds a file"),
    "file under an option's name": (IMAGE + part("layer", SMALL, "a.png") + END, 400, "no_image", "'layer' holds"),
    "no part": (END, 400, "no_image", "no picture"),
    "options only": (part("layer", b"layer4") + END, 400, "no_image", "no picture"),
    "33 pictures": (IMAGE * 33 + END, 413, "too_many_images", "send 32 at most"),
    "a field of a megabyte": (
        IMAGE + part("target", b"x" * 1_000_000) + END,
        413,
        "body_too_large",
        "more than 16384 bytes",
    ),
    "a megabyte of base64 as text": (part("image", b"QUJD" * 250_000) + END, 413, "body_too_large", "needs a filename"),
    "thousands of fields": (IMAGE + part("target", b"star") * 3000 + END, 413, "body_too_large", "fields"),
    "hundreds of targets": (IMAGE + part("target", b"star") * 700 + END, 422, "invalid_option", "'target'"),
    "a name of a megabyte": (IMAGE + part("x" * 1_000_000, b"1") + END, 400, "invalid_request", "malformed"),
    "a header of a megabyte": (
        part("image", SMALL, "a.png", f"X: {'y' * 1_000_000}\r\n") + END,
        400,
        "invalid_request",
        "malformed",
    ),
    "a hundred thousand headers": (
        part("image", SMALL, "a.png", "X: y\r\n" * 100_000) + END,
        400,
        "invalid_request",
        "malformed",
    ),
    "zero byte in a header": (part("image", SMALL, "a.png", "X\0Y: z\r\n") + END, 400, "invalid_request", "malformed"),
    "truncated picture": (IMAGE[:-200], 400, "invalid_request", "ends too early"),
    "truncated header": (IMAGE[:40], 400, "invalid_request", "ends too early"),
    "no closing boundary": (IMAGE, 400, "invalid_request", "ends too early"),
    "half a closing boundary": (IMAGE + b"--B-", 400, "invalid_request", "ends too early"),
    "truncated second picture": (IMAGE + IMAGE[:-200], 400, "invalid_request", "ends too early"),
    "another boundary": (b"--C\r\n\r\nx\r\n--C--\r\n", 400, "invalid_request", "malformed"),
    "no form at all": (SMALL, 400, "invalid_request", "malformed"),
    "nothing": (b"", 400, "invalid_request", "ends too early"),
    "part without a disposition": (b"--B\r\nX: y\r\n\r\nz\r\n" + IMAGE + END, 400, "invalid_request", "malformed"),
    "part without a name": (
        b"--B\r\nContent-Disposition: form-data\r\n\r\nz\r\n" + IMAGE + END,
        400,
        "invalid_request",
        "malformed",
    ),
    "an empty picture": (part("image", b"", "a.png") + END, 400, "invalid_image", "empty"),
    "a picture in base64": (
        part("image", b64(SMALL).encode(), "a.png", "Content-Transfer-Encoding: base64\r\n") + END,
        400,
        "invalid_image",
        "not a picture",
    ),
    "control characters in an option": (
        IMAGE + part("target", b"a\0\x1b[31m\xff") + END,
        422,
        "unknown_label",
        r"a\x00\x1b[31m",
    ),
    "bytes that are no UTF-8": (IMAGE + part("colormap", b"\xff\xfe") + END, 422, "unknown_colormap", "Choose one"),
}


@pytest.mark.parametrize("name", FORMS)
async def test_hostile_forms(client: httpx.AsyncClient, name: str) -> None:
    body, status, code, says = FORMS[name]
    check(await send_form(client, body), status, code, says)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="',
        f"multipart/form-data; boundary={'x' * 1000}",
        "multipart/form-data; boundary=é",
        "multipart/form-data; boundary=\0",
        "multipart/form-data;;;",
    ],
)
async def test_boundaries_that_are_none(client: httpx.AsyncClient, content_type: str) -> None:
    headers = {b"Content-Type": content_type.encode("latin-1")}
    for body in (IMAGE + END, b""):
        response = await client.post(EXPLAIN, content=body, headers=headers)
        check(response, 400, "invalid_request", "multipart")
        if content_type in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data;;;"):
            assert "names no boundary" in response.json()["detail"]


CODECS = ["undefined", "punycode", "idna", "utf-7", "utf-16", "unicode_escape", "rot13", "zlib", "no such", "x" * 500]


@pytest.mark.parametrize("charset", CODECS)
async def test_a_charset_does_no_harm(client: httpx.AsyncClient, charset: str) -> None:
    content_type = f"multipart/form-data; boundary=B; charset={charset}"
    odd = "+2AA-\\ud800"  # in some of them half a surrogate pair, which no JSON can carry
    for body in (part("image", SMALL, odd), IMAGE + part("target", odd.encode()), IMAGE + part(odd, b"x")):
        response = await send_form(client, body + END, content_type)
        assert response.status_code in {200, 400, 422}, response.text
        response.content.decode()


@pytest.mark.parametrize(
    ("filename", "cleaned"),
    [
        ("cat.jpg", "cat.jpg"),
        ("a\x01\x1b[31m\x7fb\tc.png", "a[31mbc.png"),
        ("\x01\x02", None),
        ("", None),
        ("../../etc/passwd", "etc/passwd"),
        ("C:/windows/./cat.jpg", "windows/cat.jpg"),
        ("..", None),
        ("folder/cat.jpg", "folder/cat.jpg"),
        ("\xc3\xa9\xe2\x80\xae.png", "é.png"),  # UTF-8 of é and of the mark that turns text around
        ("x" * 600, "x" * 254 + "…"),
    ],
)
async def test_filenames_come_back_cleaned(client: httpx.AsyncClient, filename: str, cleaned: str | None) -> None:
    response = await send_form(client, part("image", SMALL, filename) + END)
    assert response.status_code == 200, response.text
    assert response.json()["results"][0]["image"]["filename"] == cleaned


@pytest.mark.parametrize(
    ("filename", "cleaned"),
    [("a\0\n\r\u2028\u202eb\x9f.png", "ab.png"), ("\n", None), ("", None), (None, None), ("Ü 日本.png", "Ü 日本.png")],
)
async def test_and_so_do_those_in_json(client: httpx.AsyncClient, filename: str | None, cleaned: str | None) -> None:
    body = {"images": [{"b64": b64(SMALL), "filename": filename}]}
    response = await client.post(EXPLAIN, json=body)
    assert response.json()["results"][0]["image"]["filename"] == cleaned


# -- JSON -------------------------------------------------------------------------------------------------------------

PICTURE = f'{{"b64": "{b64(SMALL)}"}}'
NO_OBJECT = "The body is not a JSON object such as"
JSON: dict[str, tuple[str | bytes, int, str, str]] = {
    "nothing": ("", 400, "invalid_request", NO_OBJECT),
    "half": ('{"images": [', 400, "invalid_request", NO_OBJECT),
    "null": ("null", 400, "invalid_request", NO_OBJECT),
    "list": ("[]", 400, "invalid_request", NO_OBJECT),
    "string": ('"images"', 400, "invalid_request", NO_OBJECT),
    "deep list": ("[" * 5000, 400, "invalid_request", NO_OBJECT),
    "deeper list": ("[" * 100_000, 413, "body_too_large", MOST_VALUES),
    "deep object": ('{"a":' * 5000 + "1" + "}" * 5000, 400, "invalid_request", NO_OBJECT),
    "deeper object": ('{"a":' * 50_000 + "1" + "}" * 50_000, 413, "body_too_large", MOST_VALUES),
    "a long list": (f'{{"images": [{PICTURE}], "target": [{"1," * 30_000}1]}}', 413, "body_too_large", MOST_VALUES),
    "ten million empty lists": (f'{{"images": [{"[]," * 10_000_000}[]]}}', 413, "body_too_large", MOST_VALUES),
    "deep pictures": (f'{{"images": {"[" * 5000}{"]" * 5000}}}', 400, "invalid_request", NO_OBJECT),
    "not UTF-8": (b'{"images": "\xff"}', 400, "invalid_request", NO_OBJECT),
    "UTF-16": ('{"images": []}'.encode("utf-16"), 400, "invalid_request", NO_OBJECT),
    "byte order mark": (b"\xef\xbb\xbf{}", 400, "invalid_request", NO_OBJECT),
    "half a surrogate": (f'{{"images": [{PICTURE}], "target": "\\ud800"}}', 400, "invalid_request", NO_OBJECT),
    "trailing comma": (f'{{"images": [{PICTURE}],}}', 400, "invalid_request", NO_OBJECT),
    "two documents": (f'{{"images": [{PICTURE}]}} {{}}', 400, "invalid_request", NO_OBJECT),
    "a number of 5000 digits": (f'{{"images": [{PICTURE}], "target": {"9" * 5000}}}', 400, "invalid_request", ""),
    "no images": ("{}", 400, "invalid_request", "'images': "),
    "images null": ('{"images": null}', 400, "invalid_request", "'images': "),
    "images object": (f'{{"images": {PICTURE}}}', 400, "invalid_request", "'images': "),
    "images of numbers": ('{"images": [1]}', 400, "invalid_request", "'images.0'"),
    "images of strings": (f'{{"images": ["{b64(SMALL)}"]}}', 400, "invalid_request", "'images.0'"),
    "an empty image": (f'{{"images": [{PICTURE}, {{}}]}}', 400, "invalid_request", "'images.1.b64'"),
    "b64 a number": ('{"images": [{"b64": 1}]}', 400, "invalid_request", "'images.0.b64'"),
    "b64 true": ('{"images": [{"b64": true}]}', 400, "invalid_request", "'images.0.b64'"),
    "an unknown member": ('{"images": [{"b64": "", "url": "x"}]}', 400, "invalid_request", "'images.0.url'"),
    "a member of a megabyte": (
        f'{{"images": [{{"b64": "", "{"x" * 1_000_000}": 1}}]}}',
        400,
        "invalid_request",
        "'images.0.xxx",
    ),
    "a long filename": (
        f'{{"images": [{{"b64": "", "filename": "{"x" * 2000}"}}]}}',
        400,
        "invalid_request",
        "'images.0.filename': string should have at most 1024",
    ),
    "no picture": ('{"images": []}', 400, "no_image", "no picture"),
    "bad base64": ('{"images": [{"b64": "!!!"}]}', 400, "invalid_image", "'images.0.b64' is not valid base64"),
    "base64 beyond ASCII": ('{"images": [{"b64": "é"}]}', 400, "invalid_image", "not valid base64"),
    "a data URI without base64": (
        '{"images": [{"b64": "data:image/svg+xml,<svg/>"}]}',
        400,
        "invalid_image",
        "not valid base64",
    ),
    "an empty data URI": ('{"images": [{"b64": "data:image/png;base64,"}]}', 400, "invalid_image", "empty"),
    "base64 of nothing known": ('{"images": [{"b64": "QUJD"}]}', 400, "invalid_image", "not a picture"),
    "33 pictures": (f'{{"images": [{",".join([PICTURE] * 33)}]}}', 413, "too_many_images", "33 pictures"),
    "unknown option": (f'{{"images": [{PICTURE}], "colour": 1}}', 422, "invalid_option", "no option 'colour'"),
    "image for images": (f'{{"images": [], "image": {PICTURE}}}', 422, "invalid_option", "'images'"),
    "an option of a megabyte": (
        f'{{"images": [{PICTURE}], "{"x" * 1_000_000}": 1}}',
        422,
        "invalid_option",
        "no option 'xxx",
    ),
    "a layer of a megabyte": (
        f'{{"images": [{PICTURE}], "layer": "{"x" * 1_000_000}"}}',
        422,
        "unknown_layer",
        "no layer 'xxx",
    ),
    "a label of a megabyte": (
        f'{{"images": [{PICTURE}], "target": "{"9" * 1_000_000}"}}',
        422,
        "unknown_label",
        "Class index 999",
    ),
}


@pytest.mark.parametrize("name", JSON)
async def test_hostile_json(client: httpx.AsyncClient, name: str) -> None:
    body, status, code, says = JSON[name]
    content = body if isinstance(body, bytes) else body.encode()
    check(await send_json(client, content), status, code, says)
    if name not in {"a layer of a megabyte", "a label of a megabyte"}:
        check(await send_json(client, content, "/api/v1/predict"), status, code, says)


@pytest.mark.parametrize(("values", "status"), [(6000, 422), (20_001, 413)])
async def test_some_thousands_of_values_are_read_and_no_more(
    client: httpx.AsyncClient, values: int, status: int
) -> None:
    """Counted are commas and opening brackets; so many targets are read, and then are too many."""
    targets = ",".join("1" * values)
    response = await send_json(client, f'{{"images": [{PICTURE}], "target": [{targets}]}}'.encode())
    assert response.status_code == status


async def test_more_values_than_all_options_have_are_no_query(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "image/png"}
    response = await client.post(f"{EXPLAIN}?{'target=1&' * 2000}", content=SMALL, headers=headers)
    check(response, 422, "invalid_option", "all options together")


@pytest.mark.parametrize("encode", [str, " ".join, "\n\t".join])
async def test_white_space_in_base64_is_no_matter(client: httpx.AsyncClient, encode: Callable[[str], str]) -> None:
    text = json.dumps({"images": [{"b64": encode(base64.b64encode(SMALL).decode())}]})
    response = await send_json(client, text.encode())
    assert response.json()["results"][0]["image"]["sha256"] == hashlib.sha256(SMALL).hexdigest()


async def test_long_base64_is_decoded_in_pieces() -> None:
    data = np.random.default_rng(0).bytes(3 * 2**20 + 5)
    text = base64.b64encode(data).decode()
    assert decoded(text) == data
    for wrong in (text[:100] + "==" + text[100:], text[: 2**20 - 2] + "==" + text[2**20 :], "é" + text, text + "A"):
        with pytest.raises(ValueError, match=r"."):
            decoded(wrong)


async def test_a_body_that_says_it_is_as_it_is_is_read(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "image/png", "Content-Encoding": "Identity"}
    assert (await client.post(EXPLAIN, content=SMALL, headers=headers)).status_code == 200


async def test_one_bad_base64_fails_alone(client: httpx.AsyncClient) -> None:
    images = f'[{PICTURE}, {{"b64": "QUJ", "filename": "b.png"}}, {PICTURE}]'
    response = await send_json(client, f'{{"images": {images}}}'.encode())
    assert response.status_code == 200, response.text
    first, bad, last = response.json()["results"]
    assert (first["error"], last["error"]) == (None, None)
    assert (bad["error"]["code"], bad["image"]["filename"]) == ("invalid_image", "b.png")
    assert bad["error"]["detail"].startswith("'images.1.b64' is not valid base64")


async def test_of_members_given_twice_the_last_counts(client: httpx.AsyncClient) -> None:
    body = f'{{"images": [{{"b64": "QUJD"}}], "top_k": 1, "images": [{PICTURE}], "top_k": 2}}'
    response = await send_json(client, body.encode())
    assert response.status_code == 200
    assert len(response.json()["results"][0]["predictions"]) == 2


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("true", "top_k"),
        ("false", "alpha"),
        ("true", "threshold"),
        ("true", "max_side"),
        ("true", "target"),
        ("[false]", "target"),
        ("true", "against"),
    ],
)
async def test_true_is_not_one(client: httpx.AsyncClient, text: str, option: str) -> None:
    body = f'{{"images": [{PICTURE}], "{option}": {text}}}'
    check(await send_json(client, body.encode()), 422, "invalid_option", f"'{option}'")


# -- raw bodies and queries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        *[None, "", "text/plain", "text/html", "application/x-www-form-urlencoded", "multipart/mixed; boundary=x"],
        *["*/*", "application/jsonx", "video/mp4", "image", "x" * 5000, "é", ";"],
    ],
)
async def test_other_content_types(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {b"Content-Type": content_type.encode("latin-1")}
    for body in (SMALL, b""):
        response = await client.post(EXPLAIN, content=body, headers=headers)
        check(response, 415, "unsupported_media_type", "multipart/form-data")
        assert "-F image=@FILE" in response.json()["detail"]


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream"])
async def test_an_empty_body(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post(EXPLAIN, content=b"", headers={"Content-Type": content_type})
    check(response, 400, "no_image", "no picture")


@pytest.mark.parametrize(
    ("query", "status", "code", "says"),
    [
        ("colour=1", 422, "invalid_option", "no option 'colour'"),
        ("image=1", 422, "invalid_option", "no option 'image'"),
        ("images=1", 422, "invalid_option", "no option 'images'"),
        ("alpha=1&alpha=0", 422, "invalid_option", "'alpha' is given 2 times"),
        ("against=star&against=disk", 422, "invalid_option", "'against' is given 2 times"),
        ("alpha=", 422, "invalid_option", "'alpha'"),
        ("alpha", 422, "invalid_option", "'alpha'"),
        ("target=%00%ed%a0%80%ff", 422, "unknown_label", "no class"),
        ("%ff=1", 422, "invalid_option", "no option"),
        ("=1", 422, "invalid_option", "no option ''"),
        ("&".join(f"field{number}=1" for number in range(800)), 422, "invalid_option", "no option 'field0'"),
        (f"target={'x' * 60_000}", 422, "unknown_label", "no class 'xxx"),
        ("target=[star]", 422, "unknown_label", "no class '[star]'"),
        ("target=star,disk", 422, "unknown_label", "no class 'star,disk'"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_hostile_queries(client: httpx.AsyncClient, query: str, status: int, code: str, says: str) -> None:
    response = await client.post(f"{EXPLAIN}?{query}", content=SMALL, headers={"Content-Type": "image/png"})
    check(response, status, code, says)


async def test_options_in_the_query_are_checked_with_every_encoding(client: httpx.AsyncClient) -> None:
    path = f"{EXPLAIN}?colour=1"
    check(await send_form(client, IMAGE + END, path=path), 422, "invalid_option", "'colour'")
    check(await send_json(client, f'{{"images": [{PICTURE}]}}'.encode(), path), 422, "invalid_option", "'colour'")


@pytest.mark.parametrize("name", ["%00", "%2e%2e", "x" * 8000, "%ed%a0%80", "'", "%3Cscript%3E", "shapes%2f"])
async def test_hostile_model_names(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post(f"/api/v1/models/{name}/explain", content=SMALL, headers={"Content-Type": "image/png"})
    assert response.status_code == 404
    assert response.headers["Content-Type"] == MEDIA_TYPE
    assert len(response.content) < 1000


# -- pictures ---------------------------------------------------------------------------------------------------------


async def test_a_file_under_a_false_name_is_read_by_its_bytes(client: httpx.AsyncClient) -> None:
    response = await send_form(client, part("image", SMALL, "virus.exe", "Content-Type: text/html\r\n") + END)
    assert response.status_code == 200


@pytest.mark.parametrize("cut", [1, 8, 20, 40, 200, 5000])
async def test_truncated_pictures(client: httpx.AsyncClient, cut: int) -> None:
    response = await client.post(EXPLAIN, content=star()[:cut], headers={"Content-Type": "image/png"})
    check(response, 400, "invalid_image", "")


async def test_a_bomb_is_refused_before_it_is_decoded(client: httpx.AsyncClient) -> None:
    bomb = bytearray(SMALL)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # the size in a PNG's first chunk, and its checksum
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    response = await client.post(EXPLAIN, content=bytes(bomb), headers={"Content-Type": "image/png"})
    check(response, 413, "image_too_large", "3,600,000,000 pixels")


async def test_bad_ones_among_good_ones_in_every_encoding(client: httpx.AsyncClient) -> None:
    pictures = [b"nothing", star(), star()[:3000], wide(), b""]
    form = await send_form(client, b"".join(part("image", data, "a.png") for data in pictures) + END)
    body = {"images": [{"b64": b64(data), "filename": "a.png"} for data in pictures]}
    for response in (form, await send_json(client, json.dumps(body).encode())):
        assert response.status_code == 200
        results = response.json()["results"]
        assert [(each["error"] or {}).get("code") for each in results] == [
            "invalid_image",
            None,
            "invalid_image",
            None,
            "invalid_image",
        ]
        assert [len(each["explanations"]) for each in results] == [0, 1, 0, 1, 0]
        assert [len(each["predictions"]) for each in results] == [0, 5, 0, 5, 0]
        assert {each["error"]["request_id"] for each in results if each["error"]} == {response.json()["id"]}
        assert [each["image"]["sha256"] for each in results] == [hashlib.sha256(data).hexdigest() for data in pictures]
        assert [each["image"]["filename"] for each in results] == ["a.png"] * 5


async def test_after_all_that_it_still_answers(client: httpx.AsyncClient) -> None:
    response = await client.post(EXPLAIN, content=star(), headers={"Content-Type": "image/png"})
    assert response.json()["results"][0]["predictions"][0]["label"] == "star"
