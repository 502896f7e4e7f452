"""Every option: its values, its bounds, and what it changes in the answer."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from PIL import Image

from service.cam.methods import METHODS
from service.imaging.colormaps import COLORMAPS
from service.options import OPTIONS
from service.vocabulary import Output
from tests.protocols.native.pictures import STAR, array, ask, b64, explain, explanation, opened, rgba, star, wide
from tests.toys import encode

if TYPE_CHECKING:
    import httpx

pytestmark = pytest.mark.asyncio(loop_scope="session")

OUTPUTS: tuple[str, ...] = get_args(Output)
EXPLAIN = "/api/v1/explain"


# -- bounds -----------------------------------------------------------------------------------------------------------

GOOD: dict[str, list[Any]] = {
    "layer": ["default", "layer1.0.conv1", ["layer4"]],
    "target": ["predicted", "PREDICTED", "top-1", "TOP-12", 0, 11, "11", "star", " Star "],
    "against": [None, 0, "11", "STAR"],
    "method": [name for name, row in METHODS.items() if row.refusal is None],
    "output": [*OUTPUTS, ["map", "map"]],
    "size": ["picture", "model", "layer"],
    "colormap": [*COLORMAPS],
    "alpha": [0, 1, 0.5, "1e-3"],
    "threshold": [0, 1, 0.5],
    "image_format": ["auto", "png", "jpeg", "webp"],
    "top_k": [1, 12, "3", 4.0],
    "max_side": [16, 8192],
    "head": [None],
    "signed": [True, False, "true", "false"],
    "smooth": [0, 1, "3"],
    "augment": ["none", "flip"],
    "registration": ["measured", "stretch"],
    "fuse": [None],
    "labels": [[]],
    "scores": [True, "false"],
    "verify": [True, "false"],
    "region": [None, [0, 0, 5, 5.5], [[0, 0], [4, 0], [0, 4]], "[0, 0, 5, 5]", "[[0, 0], [4, 0], [0, 4]]"],
}
BAD: dict[str, list[Any]] = {
    "layer": ["layer9", "", "LAYER4", [], None, 4, True, "x" * 100_000, ["layer4"] * 65],
    "target": [
        *["nothing", "", 12, -1, "-1", 10**30, "top-0", "top-13", "top--1", "top-", "top-1.5", "²"],
        *[[], None, 1.5, True, [None], [[3]], {"index": 3}, ["star"] * 257],
    ],
    "against": ["nothing", "", 12, -1, "predicted", "top-1", True, [3], {}, 1.5],
    "method": ["grad", "", "GradCAM", [], None, 1, True],
    "output": ["heat", "", "Heatmap", [], None, 1, True, ["map", "png"]],
    "size": ["original", "", "Picture", None, 1, True, ["picture"]],
    "colormap": ["rainbow", "", "Turbo", None, 1, True, "x" * 65],
    "alpha": [-0.01, 1.01, "nan", "inf", "-inf", "", "half", None, True, [0.5], 10**30],
    "threshold": [-0.01, 1.01, "nan", "inf", "", None, True],
    "image_format": ["gif", "jpg", "PNG", "", None, 1, True],
    "top_k": [0, -1, 13, 100_001, 2.5, "2.5", "nan", "", "many", None, True, [1], 10**30],
    "max_side": [15, 8193, 0, -64, 64.5, "", None, True, 10**30, "1e3"],
    "head": ["", "0", 1, -1, "logits", True, [0], {}],
    "signed": ["", "maybe", 2, None, [True]],
    "smooth": [-1, 65, 1.5, "", "many", None, True, [2]],
    "augment": ["", "Flip", "rotate", None, 1, True, ["flip"]],
    "registration": ["", "Measured", "stretched", None, 1, True, ["stretch"]],
    "fuse": ["", "sum", "Max", 1, True, ["max"], "max"],
    "labels": ["", "red car", ["red car", "bicycle"], [""], [1], [None], None, True, "x" * 1001, ["red"] * 257],
    "scores": ["", "maybe", 2, None, [True]],
    "verify": ["", "maybe", 2, None, [True]],
    "region": ["", "here", [], [1, 2, 3], [4, 0, 3, 5], "[0, 0, 0, 5]", [[0, 0], [1, 1]], 1, True, {}, ["a"] * 4],
}


async def test_the_tables_have_every_option() -> None:
    assert set(GOOD) == set(BAD) == set(OPTIONS)


@pytest.mark.parametrize("option", GOOD)
async def test_values_that_are_accepted(client: httpx.AsyncClient, option: str) -> None:
    for value in GOOD[option]:
        response = await ask(client, **{option: value})
        assert response.status_code == 200, (value, response.text)


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option, values in BAD.items() for value in values],
    ids=lambda value: repr(value)[:20],
)
async def test_values_that_are_refused(client: httpx.AsyncClient, option: str, value: Any) -> None:
    response = await ask(client, **{option: value})
    problem = response.json()
    assert response.status_code == 422, problem
    assert len(problem["detail"]) < 500
    kind = {"target": "class", "against": "class"}.get(option, option)
    assert option in problem["detail"] or kind in problem["detail"].lower(), problem["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
@pytest.mark.parametrize("option", ["target", "against", "alpha", "threshold", "top_k", "max_side"])
async def test_numbers_that_are_none(client: httpx.AsyncClient, option: str, number: str) -> None:
    content = f'{{"images": [{{"b64": "{b64(star())}"}}], "{option}": {number}}}'.encode()
    response = await client.post(EXPLAIN, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in {400, 422}
    response = await client.post(f"{EXPLAIN}?{option}={number}", content=star(), headers={"Content-Type": "image/png"})
    assert response.status_code == 422


@pytest.mark.parametrize("option", ["target", "against"])
@pytest.mark.parametrize("value", ["--5", "-" * 15 + "5"])
async def test_many_signs_are_no_number(client: httpx.AsyncClient, option: str, value: str) -> None:
    response = await ask(client, None, **{option: value})
    assert response.status_code == 422
    assert response.json()["code"] == "unknown_label"


async def test_too_many_explanations(client: httpx.AsyncClient) -> None:
    assert (await ask(client, layer=["layer4"] * 8, target=["top-8"], output="map")).status_code == 200
    response = await ask(client, layer=["layer4"] * 5, target=["top-12", "star"], output="map")
    assert response.status_code == 422
    assert "65 explanations" in response.json()["detail"]


# -- target, against, layer -------------------------------------------------------------------------------------------


async def targets(client: httpx.AsyncClient, *wanted: int | str) -> list[int]:
    result = await explain(client, target=list(wanted), output=["map"])
    return [each["target"]["index"] for each in result["explanations"]]


async def test_targets(client: httpx.AsyncClient) -> None:
    ranking = [entry["index"] for entry in (await explain(client, top_k=12))["predictions"]]
    assert ranking[0] == STAR
    assert await targets(client, "predicted") == [STAR]
    assert await targets(client, 7) == await targets(client, "7") == [7]
    assert await targets(client, "hourglass") == await targets(client, "HourGlass") == [7]
    assert await targets(client, "top-3") == ranking[:3]
    assert await targets(client, "top-12") == ranking
    assert await targets(client, "top-2", 9, "ring", "predicted") == [*ranking[:2], 9, 5, ranking[0]]
    assert await targets(client, 3, 3) == [3, 3]


async def test_each_class_has_a_map_of_its_own(client: httpx.AsyncClient) -> None:
    result = await explain(client, target=["star", "disk"], output=["map"])
    star_map, disk_map = (array(each["map"]) for each in result["explanations"])
    assert not np.allclose(star_map, disk_map)
    alone = await explanation(client, target=["disk"], output=["map"])
    np.testing.assert_allclose(array(alone["map"]), disk_map, rtol=1e-4, atol=1e-6)


async def test_against_explains_the_difference_of_two_logits(client: httpx.AsyncClient) -> None:
    plain = await explanation(client, target="star", output="map")
    rather = await explanation(client, target="star", against="disk", output="map")
    assert plain["against"] is None
    disk = next(entry for entry in (await explain(client, top_k=12))["predictions"] if entry["label"] == "disk")
    assert {"rank": disk["rank"], **rather["against"]} == disk
    assert rather["target"] == plain["target"]
    assert not np.allclose(array(rather["map"]), array(plain["map"]))


async def test_a_class_against_itself_leaves_nothing_to_explain(client: httpx.AsyncClient) -> None:
    only = await explanation(client, target="star", against="STAR", output=[*OUTPUTS])
    assert only["empty"] is True
    assert only["maximum"] == 0
    assert only["peak"] is None
    assert only["regions"] == []
    assert not array(only["map"]).any()
    assert not np.asarray(opened(only["mask"])).any()
    opened(only["heatmap"])
    opened(only["overlay"])


async def test_default_is_the_layer_that_the_catalogue_recommends(client: httpx.AsyncClient) -> None:
    by_name = await explanation(client, layer="layer4", output="map")
    assert await explanation(client, layer="default", output="map") == by_name
    assert await explanation(client, output="map") == by_name


# -- output -----------------------------------------------------------------------------------------------------------


async def test_what_is_not_asked_for_is_null(client: httpx.AsyncClient) -> None:
    for count in range(1, len(OUTPUTS) + 1):
        for wanted in itertools.combinations(OUTPUTS, count):
            only = await explanation(client, output=list(wanted), size="layer")
            assert {name for name in OUTPUTS if only[name] is not None} == set(wanted)


async def test_the_heatmap_is_transparent_where_the_model_saw_nothing(client: httpx.AsyncClient) -> None:
    only = await explanation(client, wide(), output=["heatmap", "mask"])
    opacity = rgba(only["heatmap"])[..., 3]
    assert opacity.shape == (192, 320)
    expected = np.zeros((192, 320), bool)
    expected[:, 64:256] = True
    np.testing.assert_array_equal(opacity > 0, expected)
    mask = np.asarray(opened(only["mask"]))
    assert not mask[~expected].any()
    assert mask.max() >= 250, "the hottest pixel of the mask is near white"
    y, x = np.unravel_index(mask.argmax(), mask.shape)
    assert abs(x + 0.5 - only["peak"]["x"]) <= 16
    assert abs(y + 0.5 - only["peak"]["y"]) <= 16


async def test_a_jpeg_heatmap_is_black_there(client: httpx.AsyncClient) -> None:
    only = await explanation(client, wide(), image_format="jpeg")
    pixels = np.asarray(opened(only["heatmap"]).convert("RGB"))
    assert pixels[:, :48].max() < 16
    assert pixels[:, 272:].max() < 16
    assert pixels[:, 64:256].max() > 100


async def test_regions_lie_on_the_picture_and_hold_the_peak(client: httpx.AsyncClient) -> None:
    only = await explanation(client, wide(), output="regions")
    regions = only["regions"]
    assert regions
    for region in regions:
        assert set(region) == {"box", "polygon", "score", "area"}
        box = region["box"]
        assert 64 <= box["left"] < box["right"] <= 256
        assert 0 <= box["top"] < box["bottom"] <= 192
        assert len(region["polygon"]) >= 3
        for x, y in region["polygon"]:
            assert box["left"] - 0.01 <= x <= box["right"] + 0.01
            assert box["top"] - 0.01 <= y <= box["bottom"] + 0.01
        assert 0.5 <= region["score"] <= 1
        assert 0 < region["area"] <= 192 / 320
    assert [region["score"] for region in regions] == sorted((region["score"] for region in regions), reverse=True)
    first, peak = regions[0]["box"], only["peak"]
    assert regions[0]["score"] == pytest.approx(1)
    assert first["left"] <= peak["x"] <= first["right"]
    assert first["top"] <= peak["y"] <= first["bottom"]


async def test_a_higher_threshold_draws_smaller_regions(client: httpx.AsyncClient) -> None:
    areas = [
        sum(region["area"] for region in (await explanation(client, output="regions", threshold=threshold))["regions"])
        for threshold in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] == pytest.approx(1), "everything that the model saw is at least 0"
    assert areas[-1] > 0, "the peak itself is always inside"
    assert len(set(areas)) == len(areas)


# -- size and max_side ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "width", "height"), [("picture", 320, 192), ("model", 96, 96), ("layer", 12, 12)])
async def test_size_is_the_grid_of_the_pictures(client: httpx.AsyncClient, size: str, width: int, height: int) -> None:
    only = await explanation(client, wide(), size=size, output=["heatmap", "overlay", "mask"])
    for name in ("heatmap", "overlay", "mask"):
        assert opened(only[name]).size == (width, height)


@pytest.mark.parametrize(
    ("max_side", "width", "height"), [(16, 16, 10), (100, 100, 60), (319, 319, 191), (320, 320, 192), (8192, 320, 192)]
)
async def test_max_side_bounds_the_longest_side(
    client: httpx.AsyncClient, max_side: int, width: int, height: int
) -> None:
    only = await explanation(client, wide(), max_side=max_side, output=["heatmap", "overlay", "mask"])
    for name in ("heatmap", "overlay", "mask"):
        assert opened(only[name]).size == (width, height)


@pytest.mark.parametrize(("orientation", "size"), [(1, (1024, 768)), (6, (768, 1024))])
async def test_an_overlay_on_a_large_photo_is_as_sharp_as_its_size_allows(
    client: httpx.AsyncClient, orientation: int, size: tuple[int, int]
) -> None:
    """The model needs an eighth of twelve megapixels, in which these stripes would be gone."""
    stripes = np.tile(np.repeat(np.array([60, 200], np.uint8), 8), 4000 // 16)
    photo = Image.fromarray(np.broadcast_to(stripes[None, :, None], (3000, 4000, 3)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    only = await explanation(
        client, encode(photo, "JPEG", exif=exif, quality=95), output="overlay", alpha=0, image_format="png"
    )
    overlay = np.asarray(opened(only["overlay"]).convert("L")).astype(float)
    upright = photo.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else photo
    expected = np.asarray(upright.resize(size, Image.Resampling.BILINEAR).convert("L")).astype(float)
    assert overlay.shape == expected.shape
    assert expected.std() > 40
    assert np.abs(overlay - expected).mean() < 8


async def test_coordinates_stay_in_the_pixels_of_the_picture(client: httpx.AsyncClient) -> None:
    options = {"output": ["heatmap", "map", "regions"]}
    answers = [
        await explain(client, wide(), **options, **changed)
        for changed in ({}, {"max_side": 16}, {"size": "model"}, {"size": "layer"})
    ]
    for answer in answers:
        (only,) = answer["explanations"]
        del only["heatmap"]
        assert answer == answers[0]


async def test_1024_is_the_longest_side_by_default(client: httpx.AsyncClient) -> None:
    large = encode(Image.new("RGB", (2048, 512), (90, 90, 90)), "PNG")
    assert opened((await explanation(client, large))["heatmap"]).size == (1024, 256)


# -- colours and formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COLORMAPS)
async def test_warm_is_important(client: httpx.AsyncClient, name: str) -> None:
    only = await explanation(client, colormap=name, output=["heatmap", "mask"], size="layer")
    hottest = np.unravel_index(np.asarray(opened(only["mask"])).argmax(), (12, 12))
    coldest = np.unravel_index(np.asarray(opened(only["mask"])).argmin(), (12, 12))
    pixels = rgba(only["heatmap"])[..., :3]
    np.testing.assert_array_equal(pixels[hottest], COLORMAPS[name].table[255])
    np.testing.assert_array_equal(pixels[coldest], COLORMAPS[name].table[0])


async def test_alpha_is_the_opacity_of_the_heatmap(client: httpx.AsyncClient) -> None:
    options = {"output": ["heatmap", "overlay"], "image_format": "png"}
    plain = np.asarray(Image.open(io.BytesIO(wide())).convert("RGB")).astype(float)
    for alpha in (0, 0.25, 1):
        only = await explanation(client, wide(), alpha=alpha, **options)
        overlay = rgba(only["overlay"])[..., :3]
        heat = rgba(only["heatmap"]).astype(float)
        seen = heat[..., 3:] > 0
        expected = np.where(seen, (1 - alpha) * plain + alpha * heat[..., :3], plain)
        np.testing.assert_allclose(overlay, expected, atol=0.51)


@pytest.mark.parametrize("image_format", ["auto", "png", "jpeg", "webp"])
async def test_image_format(client: httpx.AsyncClient, image_format: str) -> None:
    only = await explanation(client, image_format=image_format, output=["heatmap", "overlay", "mask"])
    kinds = [opened(only[name]).format for name in ("heatmap", "overlay", "mask")]
    expected = {"auto": ["PNG", "JPEG", "PNG"]}.get(image_format, [image_format.upper()] * 3)
    assert kinds == expected


async def test_auto_is_a_palette_and_a_grey_picture(client: httpx.AsyncClient) -> None:
    only = await explanation(client, output=["heatmap", "mask"])
    assert opened(only["heatmap"]).mode == "P"
    assert opened(only["mask"]).mode == "L"


async def test_webp_and_png_show_the_same_heatmap(client: httpx.AsyncClient) -> None:
    png = rgba((await explanation(client, wide(), image_format="png"))["heatmap"])
    webp = rgba((await explanation(client, wide(), image_format="webp"))["heatmap"])
    np.testing.assert_array_equal(png[png[..., 3] > 0], webp[png[..., 3] > 0])
    np.testing.assert_array_equal(png[..., 3], webp[..., 3])


# -- the overlay as the response --------------------------------------------------------------------------------------


async def overlay(client: httpx.AsyncClient, accept: str, query: str = "", **parts: Any) -> httpx.Response:
    if not parts:
        parts = {"content": star()}
    headers = {"Accept": accept} | ({"Content-Type": "image/png"} if "content" in parts else {})
    return await client.post(f"{EXPLAIN}{query}", headers=headers, **parts)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_accept_a_picture_and_get_the_overlay(client: httpx.AsyncClient, kind: str) -> None:
    response = await overlay(client, f"image/{kind}", "?alpha=0.7&colormap=jet&max_side=100&output=map")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == f"image/{kind}"
    assert response.headers["X-Request-ID"]
    picture = Image.open(io.BytesIO(response.content))
    assert picture.format == kind.upper()
    in_json = await explanation(client, output="overlay", image_format=kind, alpha=0.7, colormap="jet", max_side=100)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGBA")), rgba(in_json["overlay"]))


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "image/png, */*",
        "image/png;q=0.5, application/json",
        "image/png;q=0.5, application/*;q=0.6",
        "image/*, application/json;q=1.0",
        "image/png;q=0",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "text/html",
        "image/gif",
        "",
    ],
)
async def test_whoever_can_read_json_gets_it(client: httpx.AsyncClient, accept: str) -> None:
    assert (await overlay(client, accept)).headers["Content-Type"] == "application/json"


async def test_the_first_picture_type_that_is_known_counts(client: httpx.AsyncClient) -> None:
    response = await overlay(client, "image/avif, image/webp, image/png")
    assert response.headers["Content-Type"] == "image/webp"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/png, */*;q=0.1", "png"),
        ("application/json;q=0.5, image/webp", "webp"),
        ("image/png;q=0.2, image/webp ; q=0.9, image/jpeg;q=0.5", "webp"),
        ("image/*", "jpeg"),
        ("image/*, image/jpeg;q=0", "png"),
        ("image/*;q=0.3, image/webp;q=0.4, application/json;q=0.2", "webp"),
        ("IMAGE/PNG;Q=0.8, application/json;q=0.7", "png"),
        ("image/png;q=nonsense, */*;q=0.9", "png"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "webp"),
    ],
)
async def test_what_is_accepted_more_gladly_counts(client: httpx.AsyncClient, accept: str, kind: str) -> None:
    assert (await overlay(client, accept)).headers["Content-Type"] == f"image/{kind}"


async def test_two_explanations_are_no_picture(client: httpx.AsyncClient) -> None:
    for query in ("?target=top-2", "?layer=layer3&layer=layer4"):
        response = await overlay(client, "image/png", query)
        assert response.status_code == 422
        assert response.headers["Content-Type"] == "application/problem+json"
        assert "exactly one picture and one explanation, and there are 1 and 2" in response.json()["detail"]


async def test_two_pictures_are_no_picture(client: httpx.AsyncClient) -> None:
    for second in (star(), b"broken"):
        files = [("image", ("a.png", star())), ("image", ("b.png", second))]
        response = await overlay(client, "image/png", files=files)
        assert response.status_code == 422
        assert "there are 2 and" in response.json()["detail"]


async def test_an_error_stays_a_problem(client: httpx.AsyncClient) -> None:
    response = await overlay(client, "image/png", content=b"broken")
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"


# -- top_k ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 5, 12])
async def test_top_k(client: httpx.AsyncClient, top_k: int) -> None:
    predictions = (await explain(client, top_k=top_k))["predictions"]
    assert [entry["rank"] for entry in predictions] == list(range(1, top_k + 1))
    assert predictions == (await explain(client, top_k=12))["predictions"][:top_k]
