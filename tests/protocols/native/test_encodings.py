"""The same request in the three encodings gets the same answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.protocols.native.pictures import b64, star, wide
from tests.toys import encode, png

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXPLAIN = "/api/v1/explain"

# As JSON; forms and queries carry the same as text.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"layer": ["layer4"], "target": [3], "top_k": 3},
    {"layer": ["layer3", "default"], "target": ["star", 0, "top-2"], "output": ["map"]},
    {"against": "disk", "target": ["predicted"], "output": ["heatmap", "overlay", "mask", "map", "regions"]},
    {"against": 0, "output": ["mask", "regions"], "threshold": 0.25, "size": "model"},
    {"output": ["heatmap"], "size": "layer", "colormap": "viridis", "image_format": "webp", "max_side": 64},
    {"output": ["overlay"], "alpha": 0.3, "image_format": "png", "max_side": 100, "method": ["gradcam"]},
    {"target": [1, 1, "STAR", "Top-1"], "top_k": 12, "output": ["regions"], "threshold": 0.9},
]


def as_text(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [str(each) for each in value] if isinstance(value, list) else str(value)
        for name, value in options.items()
    }


def compared(response: httpx.Response) -> dict[str, Any]:
    """The answer without what is different for every request."""
    assert response.status_code == 200, response.text
    body = response.json()
    assert body.pop("id") == response.headers["X-Request-ID"]
    assert body.pop("timing")["batch_size"] == 1
    assert isinstance(body, dict)
    return body


async def as_form(client: httpx.AsyncClient, picture: bytes, options: Mapping[str, Any]) -> httpx.Response:
    return await client.post(EXPLAIN, files={"image": ("a.png", picture)}, data=as_text(options))


async def as_json(client: httpx.AsyncClient, picture: bytes, options: Mapping[str, Any]) -> httpx.Response:
    return await client.post(EXPLAIN, json={"images": [{"b64": b64(picture), "filename": "a.png"}], **options})


async def as_body(client: httpx.AsyncClient, picture: bytes, options: Mapping[str, Any]) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return await client.post(EXPLAIN, params=as_text(options), content=picture, headers=headers)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "defaults")
@pytest.mark.parametrize("picture", [star, wide])
async def test_three_encodings_one_answer(client: httpx.AsyncClient, picture: Any, options: dict[str, Any]) -> None:
    form = compared(await as_form(client, picture(), options))
    json = compared(await as_json(client, picture(), options))
    body = compared(await as_body(client, picture(), options))
    assert json == form
    assert body["results"][0]["image"].pop("filename") is None
    assert form["results"][0]["image"].pop("filename") == "a.png"
    assert body == form


@pytest.mark.parametrize("options", OPTIONS[:3], ids=lambda options: "-".join(options) or "defaults")
async def test_a_data_uri_and_broken_lines_are_base64_too(client: httpx.AsyncClient, options: dict[str, Any]) -> None:
    plain = b64(star())
    lines = "\r\n".join(plain[start : start + 76] for start in range(0, len(plain), 76))
    uris = [f"data:image/png;base64,{plain}", f"data:;base64,{plain}", f"data:image/png;charset=utf-8;base64,{lines}"]
    answers = [
        compared(await client.post(EXPLAIN, json={"images": [{"b64": text}], **options}))
        for text in (plain, lines, *uris)
    ]
    assert all(answer == answers[0] for answer in answers)


async def test_one_value_stands_for_a_list_of_one(client: httpx.AsyncClient) -> None:
    listed: dict[str, list[Any]] = {"layer": ["layer3"], "target": [3], "method": ["gradcam"], "output": ["map"]}
    single = {name: value[0] for name, value in listed.items()}
    assert compared(await as_json(client, star(), single)) == compared(await as_json(client, star(), listed))


async def test_numbers_may_be_text_in_json(client: httpx.AsyncClient) -> None:
    numbers = {"target": [3], "against": 0, "alpha": 0.25, "top_k": 2, "max_side": 64, "output": ["overlay"]}
    text = as_text(numbers)
    assert compared(await as_json(client, star(), text)) == compared(await as_json(client, star(), numbers))


@pytest.mark.parametrize("encoding", [as_form, as_json, as_body])
async def test_leaving_an_option_out_is_its_default(client: httpx.AsyncClient, encoding: Any) -> None:
    defaults = {
        "layer": ["default"],
        "target": ["predicted"],
        "method": ["gradcam"],
        "output": ["heatmap"],
        "size": "picture",
        "colormap": "turbo",
        "alpha": 0.5,
        "threshold": 0.5,
        "image_format": "auto",
        "top_k": 5,
        "max_side": 1024,
        "signed": False,
        "smooth": 0,
        "augment": "none",
    }
    assert compared(await encoding(client, wide(), {})) == compared(await encoding(client, wide(), defaults))


async def test_the_query_counts_with_every_encoding_and_the_body_counts_more(client: httpx.AsyncClient) -> None:
    query = "?top_k=2&target=disk&target=ring"
    form = await client.post(EXPLAIN + query, files={"image": ("a.png", star())}, data={"target": "star"})
    json = await client.post(EXPLAIN + query, json={"images": [{"b64": b64(star())}], "target": ["star"]})
    for response in (form, json):
        (result,) = response.json()["results"]
        assert len(result["predictions"]) == 2
        assert [each["target"]["label"] for each in result["explanations"]] == ["star"]


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/anything", "IMAGE/PNG", "application/octet-stream"])
async def test_the_bytes_decide_not_the_content_type(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post(EXPLAIN, content=star(), headers={"Content-Type": content_type})
    assert compared(response)["results"][0]["predictions"][0]["label"] == "star"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_by_any_spelling(client: httpx.AsyncClient, content_type: str) -> None:
    body = f'{{"images": [{{"b64": "{b64(star())}"}}]}}'
    response = await client.post(EXPLAIN, content=body.encode(), headers={"Content-Type": content_type})
    assert compared(response)["results"][0]["predictions"][0]["label"] == "star"


@pytest.mark.parametrize("end", [b"--B--\r\n", b"--B--", b"--B--\r\nepilogue"])
async def test_a_form_may_end_in_any_lawful_way(client: httpx.AsyncClient, end: bytes) -> None:
    head = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    body = head + star() + b"\r\n" + end
    response = await client.post(EXPLAIN, content=body, headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert compared(response)["results"][0]["predictions"][0]["label"] == "star"


@pytest.mark.parametrize(
    ("disposition", "kind", "name"),
    [
        ('name="image"', "image/png", None),
        ('name="image"', "IMAGE/X-ANYTHING; charset=binary", None),
        ('name="image"', "application/octet-stream", None),
        ("name=\"image\"; filename*=UTF-8''k%C3%A4tzchen.png", "image/png", "kätzchen.png"),
        ("name=\"image\"; filename*=UTF-8'de'a%22b%3B%5C.png", "text/plain", 'a"b;/.png'),
        ("name=\"image\"; filename*=iso-8859-1''k%E4tzchen.png", "", "kätzchen.png"),
        ("name=\"image\"; filename*=nonsense''%FF.png", "image/png", "ÿ.png"),
        ('name="image"; filename*=UTF-8\'\'other.png; filename="plain.png"', "image/png", "plain.png"),
        ('name="image"; filename=""', "", None),
    ],
)
async def test_a_part_is_a_picture_by_its_content_type_or_any_file_name(
    client: httpx.AsyncClient, disposition: str, kind: str, name: str | None
) -> None:
    head = f"--B\r\nContent-Disposition: form-data; {disposition}\r\n"
    head += f"Content-Type: {kind}\r\n\r\n" if kind else "\r\n"
    option = b'\r\n--B\r\nContent-Disposition: form-data; name="top_k"\r\nContent-Type: text/plain\r\n\r\n2\r\n--B--'
    for picture in (star(), encode(Image.new("RGB", (300, 200)), "BMP")):  # the latter larger than a field may be
        body = head.encode() + picture + option
        response = await client.post(EXPLAIN, content=body, headers={"Content-Type": "multipart/form-data; boundary=B"})
        result = compared(response)["results"][0]
        assert (result["image"]["filename"], len(result["predictions"])) == (name, 2)


@pytest.mark.parametrize("kind", ["", "Content-Type: text/plain\r\n"])
async def test_a_part_that_says_it_is_text_is_none(client: httpx.AsyncClient, kind: str) -> None:
    body = f'--B\r\nContent-Disposition: form-data; name="image"\r\n{kind}\r\ncat.png\r\n--B--'.encode()
    response = await client.post(EXPLAIN, content=body, headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert (response.status_code, response.json()["code"]) == (400, "no_image")


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_every_format_in_every_encoding(client: httpx.AsyncClient, name: str) -> None:
    flat = Image.new("RGB", (40, 30), (200, 100, 50))
    picture = encode(flat, name)
    for encoding in (as_form, as_json, as_body):
        image = compared(await encoding(client, picture, {}))["results"][0]["image"]
        assert (image["width"], image["height"]) == (40, 30)


async def test_several_pictures_as_parts_and_as_json(client: httpx.AsyncClient) -> None:
    pictures = [star(), wide(), png(), star()]
    names = ["a.png", "b.png", "c.png", "d.png"]
    data = as_text({"target": ["top-2"], "output": ["map"]})
    sent = [("image", (name, picture)) for name, picture in zip(names, pictures, strict=True)]
    form = await client.post(EXPLAIN, files=sent, data=data)
    images = [{"b64": b64(picture), "filename": name} for name, picture in zip(names, pictures, strict=True)]
    json = await client.post(EXPLAIN, json={"images": images, "target": "top-2", "output": "map"})
    assert form.status_code == json.status_code == 200
    one, other = form.json()["results"], json.json()["results"]
    assert [each["image"] for each in one] == [each["image"] for each in other]
    assert [each["image"]["filename"] for each in one] == names
    # Batches may be cut differently, so that numbers may differ in the last digit.
    for first, second in zip(one, other, strict=True):
        for a, b in zip(first["explanations"], second["explanations"], strict=True):
            assert a["target"]["index"] == b["target"]["index"]
            assert a["maximum"] == pytest.approx(b["maximum"], rel=1e-3)
