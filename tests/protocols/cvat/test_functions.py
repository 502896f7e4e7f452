"""CVAT's functions on the real engine: what a CVAT server lists and calls, with the embedded models."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from service.problems import STATUS
from service.protocols.cvat import shapes as written
from tests.protocols.cvat.calls import HEADERS, PREFIX, call, called, mask_of, read_functions
from tests.protocols.native.pictures import SAMPLES, explain, star, wide
from tests.toys import encode
from tests.web.application import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.web.application import Application

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHAPES = "shapes"
LABELS = ("disk", "square", "triangle", "star", "cross", "ring", "crescent", "hourglass", "heart", "arrow", "lightning")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def application() -> AsyncIterator[Application]:
    async with served() as application:
        yield application


@pytest_asyncio.fixture(loop_scope="session")
async def client(application: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with application.client() as client:
        yield client


def rotated() -> bytes:
    """The wide picture as a camera that was held upright stores it."""
    with Image.open(io.BytesIO(wide())) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        image.rotate(90, expand=True).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def two() -> bytes:
    """A star on the left of a picture, and a gear on the right of it."""
    canvas = Image.new("RGB", (512, 256), (90, 90, 90))
    for name, left in (("03-star.png", 32), ("11-gear.png", 256)):
        with Image.open(SAMPLES / name) as image:
            canvas.paste(image, (left, 32))
    return encode(canvas, "PNG")


# -- the list ---------------------------------------------------------------------------------------------------------


async def test_the_list_has_five_functions_of_every_model(client: httpx.AsyncClient) -> None:
    response = await client.get(f"{PREFIX}/api/functions", headers=HEADERS)
    assert response.status_code == 200
    functions = read_functions(response.json())
    kinds = ("tag", "rectangle", "polygon", "mask", "click")
    assert set(functions) == {f"{model}-{kind}" for model in (SHAPES, "shapes-shortcut") for kind in kinds}
    assert set(LABELS) <= set(functions["shapes-mask"])
    assert functions["shapes-click"] == []
    click = response.json()["shapes-click"]["metadata"]["annotations"]
    assert (click["type"], click["version"]) == ("interactor", "2"), "older ones CVAT warns of"
    assert click["min_neg_points"] == "0", "or negative clicks are not offered"


async def test_one_function_is_as_in_the_list(client: httpx.AsyncClient) -> None:
    listed = (await client.get(f"{PREFIX}/api/functions")).json()
    for name in listed:
        assert (await client.get(f"{PREFIX}/api/functions/{name}")).json() == listed[name]


# -- detectors --------------------------------------------------------------------------------------------------------


async def test_a_tag(client: httpx.AsyncClient) -> None:
    (only,) = await called(client, "shapes-tag")
    native = (await explain(client))["predictions"][0]
    assert only == {"confidence": f"{native['probability']:.4f}", "label": "star", "type": "tag"}


async def test_rectangles_and_polygons_are_the_native_regions(client: httpx.AsyncClient) -> None:
    native = (await explain(client, wide(), output=["regions"]))["explanations"][0]["regions"]
    boxes = await called(client, "shapes-rectangle", wide())
    outlines = await called(client, "shapes-polygon", wide())
    assert [each["points"] for each in boxes] == [
        pytest.approx([region["box"][side] for side in ("left", "top", "right", "bottom")]) for region in native
    ]
    assert [each["points"] for each in outlines] == [
        [coordinate for point in region["polygon"] for coordinate in point] for region in native
    ]
    assert {each["type"] for each in boxes} == {"rectangle"}
    assert {each["type"] for each in outlines} == {"polygon"}
    assert all(len(each["points"]) >= 6 for each in outlines)
    assert {each["label"] for each in boxes + outlines} == {"star"}


async def test_a_mask_is_the_native_mask_at_a_half(client: httpx.AsyncClient) -> None:
    for picture in (star(), wide(), rotated()):
        result = await explain(client, picture, output=["mask"], image_format="png")
        width, height = result["image"]["width"], result["image"]["height"]
        with Image.open(io.BytesIO(base64.b64decode(result["explanations"][0]["mask"]["data"]))) as image:
            native = np.asarray(image) >= 128
        shapes = await called(client, "shapes-mask", picture)
        together = np.zeros((height, width), np.bool_)
        for shape in shapes:
            mask = mask_of(shape, width, height)
            assert mask.any(axis=1).any()
            assert not (together & mask).any(), "areas do not overlap"
            together |= mask
            assert len(shape["points"]) >= 6, "the polygon that CVAT takes where masks are converted"
        assert (together != native).sum() <= 2


async def test_the_threshold_is_of_the_probability(client: httpx.AsyncClient) -> None:
    assert await called(client, "shapes-mask", threshold=0.99) == []
    assert await called(client, "shapes-tag", threshold=0.99) == []
    named = [each["label"] for each in await called(client, "shapes-tag", two(), threshold=0.0001)]
    assert len(named) > 1
    listed = await called(client, "shapes-rectangle", two(), threshold=0.0001)
    assert list(dict.fromkeys(each["label"] for each in listed)) == [
        label for label in named if label in {each["label"] for each in listed}
    ], "best first"
    assert len({each["label"] for each in listed}) > 1


@pytest.mark.parametrize("fields", [{"threshold": None}, {"job": 5, "frame": 3}, {"pos_points": [], "obj_bbox": None}])
async def test_what_is_not_needed_is_ignored(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    assert [each["label"] for each in await called(client, "shapes-tag", **fields)] == ["star"]


async def test_a_picture_without_areas_has_no_shapes(client: httpx.AsyncClient) -> None:
    for kind in ("mask", "rectangle", "polygon"):
        shapes = await called(client, f"shapes-{kind}", encode(Image.new("RGB", (64, 48)), "PNG"), threshold=0.99)
        assert shapes == []


async def test_masks_of_too_many_pixels_are_refused(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_MOST_BITS", 1000)
    response = await call(client, "shapes-mask")
    assert (response.status_code, response.json()["code"]) == (413, "request_too_costly")
    assert "polygons" in response.json()["error"]
    assert await called(client, "shapes-polygon")


# -- the interactor ---------------------------------------------------------------------------------------------------


async def clicked(client: httpx.AsyncClient, picture: bytes, *wanted: tuple[float, float], **fields: Any) -> Any:
    answer = await called(
        client, "shapes-click", picture, **{"neg_points": [], "obj_bbox": None, **fields}, pos_points=wanted
    )
    assert set(answer) == {"mask"}
    return np.array(answer["mask"], bool)


async def peak(client: httpx.AsyncClient, picture: bytes) -> tuple[float, float]:
    found = (await explain(client, picture))["explanations"][0]["peak"]
    return found["x"], found["y"]


async def test_a_click_on_the_object_masks_its_area(client: httpx.AsyncClient) -> None:
    for picture, size in ((star(), None), (wide(), (192, 320)), (rotated(), (192, 320))):
        x, y = await peak(client, picture)
        mask = await clicked(client, picture, (x, y))
        (shape, *_) = await called(client, "shapes-mask", picture)
        assert size is None or mask.shape == size, "of the upright picture, whole"
        assert (mask != mask_of(shape, mask.shape[1], mask.shape[0])).sum() <= 2
        assert mask[int(y), int(x)]


async def test_negative_clicks_cut(client: httpx.AsyncClient) -> None:
    x, y = await peak(client, star())
    whole = await clicked(client, star(), (x, y))
    ys, xs = np.nonzero(whole)
    away = (float(xs.max()), float(ys[xs.argmax()]))
    cut = await clicked(client, star(), (x, y), neg_points=[away])
    assert cut[int(y), int(x)]
    assert not cut[int(away[1]), int(away[0])]
    assert (whole & cut == cut).all()
    assert cut.sum() < whole.sum()


async def test_a_box_bounds_the_mask(client: httpx.AsyncClient) -> None:
    x, y = await peak(client, star())
    mask = await clicked(client, star(), (x, y), obj_bbox=[[x - 10, y - 8], [x + 10, y + 8]])
    ys, xs = np.nonzero(mask)
    assert xs.min() >= int(x - 10)
    assert xs.max() <= x + 10
    assert ys.min() >= int(y - 8)
    assert ys.max() <= y + 8


async def test_a_box_alone_is_a_click_in_its_middle(client: httpx.AsyncClient) -> None:
    x, y = await peak(client, star())
    box = [[x + 20, y + 20], [x - 20, y - 20]]
    given: list[dict[str, Any]] = [
        {"pos_points": None, "neg_points": None},
        {"pos_points": []},
        {"pos_points": [[x, y]]},
    ]
    answers = [await called(client, "shapes-click", star(), obj_bbox=box, **clicks) for clicks in given]
    assert np.array(answers[0]["mask"]).any()
    assert answers[0] == answers[1] == answers[2]


async def test_a_click_beside_the_area_finds_the_one_that_begins_there(client: httpx.AsyncClient) -> None:
    result = await explain(client, star(), output=["mask"], image_format="png", target=["top-3"])
    grids = []
    for each in result["explanations"]:
        with Image.open(io.BytesIO(base64.b64decode(each["mask"]["data"]))) as image:
            grids.append(np.asarray(image))
    # Where the best class has something, and none of the three has as much as a half.
    weak = (grids[0] > 40) & (grids[0] < 110) & (np.max(grids, axis=0) < 120)
    assert weak.any()
    y, x = (int(each[0]) for each in np.nonzero(weak))
    mask = await clicked(client, star(), (x + 0.5, y + 0.5))
    assert mask[y, x]
    assert mask.sum() > (grids[0] >= 128).sum()


async def test_a_click_where_nothing_is_gives_an_empty_mask_of_the_picture(client: httpx.AsyncClient) -> None:
    for click in ((1.0, 1.0), (318.0, 5.0), (-5.0, -5.0), (1e300, 4.0)):
        mask = await clicked(client, wide(), click)
        assert mask.shape == (192, 320)
        assert not mask.any()


async def test_the_mask_of_a_large_picture_comes_as_its_part_with_bounds(client: httpx.AsyncClient) -> None:
    with Image.open(io.BytesIO(star())) as image:
        large = encode(image.convert("RGB").resize((image.width * 12, image.height * 12)), "PNG")
        height, width = image.height * 12, image.width * 12
    x, y = await peak(client, large)
    answer = await called(client, "shapes-click", large, pos_points=[[x, y]], neg_points=[])
    left, top, right, bottom = answer["bounds"]
    mask = np.array(answer["mask"])
    assert mask.shape == (bottom - top + 1, right - left + 1)
    assert mask[int(y) - top, int(x) - left] == 1
    assert all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    assert 0 <= left < right < width
    assert 0 <= top < bottom < height
    nothing = await called(client, "shapes-click", large, pos_points=[[-9, -9]], neg_points=[])
    assert nothing == {"mask": [[0]], "bounds": [0, 0, 0, 0]}


# -- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "fields", "code"),
    [
        ("shapes-masks", {}, "unknown_function"),
        ("shapes", {}, "unknown_function"),
        ("", {}, "unknown_function"),
        ("shapes-tag", {"image": "@@@"}, "invalid_image"),
        ("shapes-tag", {"image": base64.b64encode(b"no picture").decode()}, "invalid_image"),
        ("shapes-tag", {"image": ""}, "invalid_image"),
        ("shapes-tag", {"image": None}, "invalid_request"),
        ("shapes-tag", {"threshold": 2}, "invalid_option"),
        ("shapes-tag", {"threshold": "much"}, "invalid_option"),
        ("shapes-click", {}, "invalid_option"),
        ("shapes-click", {"pos_points": []}, "invalid_option"),
        ("shapes-click", {"pos_points": [[1]]}, "invalid_option"),
        ("shapes-click", {"pos_points": [[1, 2]] * 101}, "invalid_option"),
        ("shapes-click", {"pos_points": [[1, 2]] * 2000}, "body_too_large"),
    ],
)
async def test_mistakes_are_named(client: httpx.AsyncClient, function: str, fields: dict[str, Any], code: str) -> None:
    response = await call(client, function, **fields)
    assert (response.status_code, response.json()["code"]) == (STATUS[code], code)
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["error"].endswith((".", "?"))
    assert response.json()["request_id"] == response.headers["X-Request-ID"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"text"', b"\xff", b'{"image": NaN}'])
async def test_a_body_that_is_no_call(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"x-nuclio-function-name": "shapes-tag"}
    response = await client.post(f"{PREFIX}/api/function_invocations", content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


async def test_a_call_that_names_no_function(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{PREFIX}/api/function_invocations", json={"image": ""})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert "x-nuclio-function-name" in response.json()["error"]


async def test_a_function_that_is_not_there(client: httpx.AsyncClient) -> None:
    response = await client.get(f"{PREFIX}/api/functions/shapes-musk")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_function")
    assert "shapes-mask" in json.dumps(response.json())


async def test_the_picture_may_be_a_data_uri(client: httpx.AsyncClient) -> None:
    uri = "data:image/png;base64," + base64.b64encode(star()).decode()
    assert [each["label"] for each in await called(client, "shapes-tag", image=uri)] == ["star"]
