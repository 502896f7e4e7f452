"""What Label Studio asks and gets, with the embedded model."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from service.engine.request import Request, Upload
from tests.protocols.label_studio.wire import (
    EVERYTHING,
    GEAR,
    LABELS,
    PREFIX,
    STAR,
    asked,
    by_control,
    click,
    config,
    mask_of,
    opacity_of,
    setup,
    task,
    uri,
)
from tests.toys import encode

if TYPE_CHECKING:
    import httpx

    from tests.web.application import Application

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASK = '<KeyPointLabels name="ask" toName="image" smart="true" smartOnly="true"><Label value="star"/></KeyPointLabels>'
BRUSH = f'<BrushLabels name="brush" toName="image" smart="false">{LABELS}</BrushLabels>'
SMART = config(ASK, BRUSH)


async def predicted(client: httpx.AsyncClient, *tasks: Any, place: str = "", **more: Any) -> list[dict[str, Any]]:
    response = await client.post(f"{PREFIX}{place}/predict", json=asked(list(tasks), **more))
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


async def version_of(client: httpx.AsyncClient, place: str = "", label_config: str = EVERYTHING) -> str:
    response = await client.post(f"{PREFIX}{place}/setup", json=setup(label_config))
    assert response.status_code == 200, response.text
    version: str = response.json()["model_version"]
    return version


CHOICES = '<Choice value="star"/><Choice value="gear"/>'


class TestHealthAndSetup:
    @pytest.mark.parametrize("place", ["", "/shapes", "/shapes/layer3", "/shapes/layer3/layercam"])
    async def test_it_is_up(self, client: httpx.AsyncClient, place: str) -> None:
        health = (await client.get(f"{PREFIX}{place}/health")).json()
        assert (health["status"], health["model"], health["state"]) == ("UP", "shapes", "ready")
        assert health["model_class"] == ("LayerCAM" if "layercam" in place else "Grad-CAM")

    async def test_the_version_differs_where_predictions_would(self, client: httpx.AsyncClient) -> None:
        places = ["", "/shapes/layer3", "/shapes/layer4/layercam"]
        versions = [await version_of(client, place) for place in places]
        threshold = config(f'<RectangleLabels name="b" toName="image" threshold="0.3">{LABELS}</RectangleLabels>')
        versions.append(await version_of(client, label_config=threshold))
        likely = [f'<Choices name="c" toName="image" threshold="{share}">{CHOICES}</Choices>' for share in (0.2, 0.3)]
        versions += [await version_of(client, label_config=config(each)) for each in likely]
        assert len(set(versions)) == 6
        assert await version_of(client, "/shapes") == await version_of(client, "/shapes/default/gradcam") == versions[0]
        assert (await client.get(f"{PREFIX}/versions")).json() == {"versions": versions[:1]}

    @pytest.mark.parametrize("place", ["", "/shapes/layer3/hirescam"])
    async def test_predictions_have_the_same(self, client: httpx.AsyncClient, place: str) -> None:
        results = await predicted(client, task(1, uri(STAR)), task(2, "nothing"), place=place)
        assert {result["model_version"] for result in results} == {await version_of(client, place)}

    @pytest.mark.parametrize("label_config", ["", "<View></View>", "<View/>", "<View><Nonsense x='1'/></View>", None])
    async def test_a_project_with_nothing_in_it(self, client: httpx.AsyncClient, label_config: Any) -> None:
        assert await version_of(client, label_config=label_config)

    async def test_labels_without_a_class_are_named_once(
        self, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        label_config = config('<Choices name="c" toName="image"><Choice value="orca"/><Choice value="STAR"/></Choices>')
        with caplog.at_level(logging.WARNING, "camserve.label_studio"):
            for _ in range(2):
                await version_of(client, label_config=label_config)
        (record,) = [record for record in caplog.records if record.name == "camserve.label_studio"]
        assert "'orca'" in record.getMessage()
        assert "STAR" not in record.getMessage()

    @pytest.mark.parametrize(
        ("place", "status", "code"),
        [
            ("/shape", 404, "unknown_model"),
            ("/shapes/layer9", 422, "unknown_layer"),
            ("/shapes/layer4/gradcan", 422, "unknown_method"),
            ("/shapes/layer4/legrad", 422, "method_not_applicable"),
        ],
    )
    async def test_an_address_that_names_nothing(
        self, client: httpx.AsyncClient, place: str, status: int, code: str
    ) -> None:
        for name, body in (("setup", setup()), ("predict", asked([task(1, uri(STAR))]))):
            response = await client.post(f"{PREFIX}{place}/{name}", json=body)
            assert (response.status_code, response.json()["code"]) == (status, code)

    async def test_the_webhook_takes_anything(self, client: httpx.AsyncClient) -> None:
        for content in (b"", b"nonsense", b'{"action": "ANNOTATION_CREATED"}'):
            assert (await client.post(f"{PREFIX}/shapes/webhook", content=content)).status_code == 200


class TestRegions:
    """What is drawn lies where the engine says, in the editor's terms: the map's regions, its mask and its peak."""

    @pytest_asyncio.fixture(loop_scope="session")
    async def drawn(self, application: Application) -> Any:
        request = Request(
            [Upload(STAR.read_bytes())], targets=("star",), outputs=("regions", "mask"), image_format="png"
        )
        return (await application.explainer.answer(request)).images[0].explanations[0]

    async def test_every_control(self, client: httpx.AsyncClient, drawn: Any) -> None:
        (prediction,) = await predicted(client, task(1, uri(STAR)))
        found = by_control(prediction)
        assert set(found) == {"kind", "box", "outline", "brush", "soft", "peak", "words"}
        assert prediction["score"] == pytest.approx(drawn.target.probability)
        ids = [result["id"] for result in prediction["result"]]
        assert len(set(ids)) == len(ids)
        for result in prediction["result"]:
            assert (result["to_name"], result["score"]) == ("image", pytest.approx(drawn.target.probability))
            if result["type"] not in {"choices", "textarea"}:
                assert [result[name] for name in ("original_width", "original_height", "image_rotation")] == [
                    192,
                    192,
                    0,
                ]
                assert result["value"][result["type"]] == ["star"]
        assert found["kind"][0]["value"] == {"choices": ["Star"]}
        assert found["words"][0]["value"]["text"][0] == f"star {drawn.target.probability:.2f}"

    async def test_boxes_and_outlines_are_the_regions(self, client: httpx.AsyncClient, drawn: Any) -> None:
        found = by_control((await predicted(client, task(1, uri(STAR))))[0])
        (region,) = drawn.rendered.regions
        (box,), (outline,) = found["box"], found["outline"]
        percent = {"x": region.box.left, "y": region.box.top, "width": region.box.width, "height": region.box.height}
        for name, pixels in percent.items():
            assert box["value"][name] == pytest.approx(100 * pixels / 192)
        assert box["value"]["rotation"] == 0
        assert np.allclose(outline["value"]["points"], 100 * np.array(region.polygon) / 192)
        assert outline["value"]["closed"] is True

    async def test_a_brush_is_the_mask_above_the_threshold_and_a_bitmask_all_of_it(
        self, client: httpx.AsyncClient, drawn: Any
    ) -> None:
        import io

        with Image.open(io.BytesIO(drawn.rendered.mask.data)) as image:
            levels = np.asarray(image).astype(int)
        found = by_control((await predicted(client, task(1, uri(STAR))))[0])
        opacity = opacity_of(found["soft"][0])
        assert np.abs(levels - opacity).max() <= 1, "of other classes beside it, the last bits of a map are others"
        assert (mask_of(found["brush"][0]) == (opacity >= 127.5)).all()
        peak = found["peak"][0]["value"]
        x, y = drawn.rendered.peak.x, drawn.rendered.peak.y
        assert (peak["x"], peak["y"]) == pytest.approx((100 * x / 192, 100 * y / 192))

    @pytest.mark.parametrize("threshold", [0.2, 0.8])
    async def test_the_threshold_of_the_project(self, client: httpx.AsyncClient, threshold: float) -> None:
        brush = f'<BrushLabels name="brush" toName="image" threshold="{threshold}">{LABELS}</BrushLabels>'
        soft = f'<BitmaskLabels name="soft" toName="image">{LABELS}</BitmaskLabels>'
        found = by_control((await predicted(client, task(1, uri(STAR)), label_config=config(brush, soft)))[0])
        assert (mask_of(found["brush"][0]) == (opacity_of(found["soft"][0]) >= 255 * threshold)).all()

    async def test_a_turned_photo_is_upright(self, client: httpx.AsyncClient) -> None:
        wide = Image.open(STAR).convert("RGB").resize((120, 80))
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by a quarter
        data = encode(wide, "JPEG", exif=exif)
        found = by_control((await predicted(client, task(1, uri(data))))[0])
        for name in ("box", "brush"):
            assert [found[name][0][key] for key in ("original_width", "original_height")] == [80, 120]
        assert mask_of(found["brush"][0]).shape == opacity_of(found["soft"][0]).shape == (120, 80)

    async def test_the_likeliest_label_of_the_project_is_explained(self, client: httpx.AsyncClient) -> None:
        """Not the likeliest class of the model, which the project does not have."""
        only = config(BRUSH.replace('<Label value="star" background="green"/>', ""))
        (prediction,) = await predicted(client, task(1, uri(STAR)), label_config=only)
        assert prediction["score"] < 0.1
        assert [result["value"]["brushlabels"] for result in prediction["result"]] in ([["gear"]], [])

    async def test_no_label_of_the_project_is_known(self, client: httpx.AsyncClient) -> None:
        only = config('<RectangleLabels name="box" toName="image"><Label value="whale"/></RectangleLabels>')
        (prediction,) = await predicted(client, task(1, uri(STAR)), label_config=only)
        assert prediction["result"] == []
        assert prediction["score"] > 0.9

    async def test_several_choices_from_a_probability_on(self, client: httpx.AsyncClient) -> None:
        choices = "".join(f'<Choice value="{name}"/>' for name in ("star", "gear", "cross"))
        all_of_them = f'<Choices name="c" toName="image" choice="multiple" threshold="0">{choices}</Choices>'
        one = f'<Choices name="c" toName="image" choice="multiple">{choices}</Choices>'
        for control, number in ((all_of_them, 3), (one, 1)):
            (prediction,) = await predicted(client, task(1, uri(STAR)), label_config=config(control))
            (result,) = prediction["result"]
            assert result["value"]["choices"][0] == "star"
            assert len(result["value"]["choices"]) == number

    async def test_an_alias_is_what_the_editor_writes(self, client: httpx.AsyncClient) -> None:
        control = '<Choices name="c" toName="image"><Choice value="Stern" alias="star"/></Choices>'
        (prediction,) = await predicted(client, task(1, uri(STAR)), label_config=config(control))
        assert prediction["result"][0]["value"] == {"choices": ["star"]}

    async def test_a_list_of_pictures(self, client: httpx.AsyncClient) -> None:
        kinds = '<Choices name="kind" toName="image"><Choice value="star"/><Choice value="gear"/></Choices>'
        each = kinds.replace('name="kind"', 'name="each" perItem="true"')
        label_config = config(kinds, each, BRUSH, image='valueList="$images"')
        tasks = {"id": 1, "data": {"images": [uri(GEAR), uri(STAR)]}}
        found = by_control((await predicted(client, tasks, label_config=label_config))[0])
        assert [(result["item_index"], result["value"]["brushlabels"]) for result in found["brush"]] == [
            (0, ["gear"]),
            (1, ["star"]),
        ]
        assert [(result["item_index"], result["value"]["choices"]) for result in found["each"]] == [
            (0, ["gear"]),
            (1, ["star"]),
        ]
        (whole,) = found["kind"]
        assert "item_index" not in whole


class TestTasksThatFail:
    @pytest.mark.parametrize(
        ("image", "reason"),
        [
            (uri(b"no picture"), "not a picture"),
            ("data:image/png;base64,@@@", "base64"),
            ("data:image/png,abc", "base64"),
            ("http://127.0.0.1:1/a.png", "machine or its network"),
            ("http://localhost/a.png", "machine or its network"),
            ("ftp://host/a.png", "no address of a picture"),
            ("//host/a.png", "no address of a picture"),
            ("a.png", "no address of a picture"),
            ("", "no picture"),
            (None, "no picture"),
            (7, "no picture"),
            (["x"], "no picture"),
        ],
        ids=lambda value: str(value)[:30],
    )
    async def test_they_say_why_and_the_others_have_theirs(
        self, client: httpx.AsyncClient, image: Any, reason: str
    ) -> None:
        good, bad, other = await predicted(client, task(1, uri(STAR)), task(2, image), task(3, uri(GEAR)))
        assert by_control(good)["kind"][0]["value"] == {"choices": ["Star"]}
        assert by_control(other)["kind"][0]["value"] == {"choices": ["gear"]}
        (why,) = bad["result"]
        assert (why["from_name"], why["type"]) == ("words", "textarea")
        assert reason in why["value"]["text"][0]
        assert (bad["score"], bad["model_version"]) == (0, good["model_version"])

    async def test_without_a_text_field_the_log_says_it(
        self, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        (prediction,) = await predicted(client, task(7, "nothing"), label_config=config(BRUSH))
        assert prediction["result"] == []
        assert "task 7 fails" in caplog.text

    async def test_a_picture_in_label_studio_waits_for_its_address(self, client: httpx.AsyncClient) -> None:
        """An empty prediction would be kept, and never asked for again."""
        response = await client.post(f"{PREFIX}/predict", json=asked([task(1, "/data/upload/1/a.png")]))
        assert response.status_code == 424
        assert "label_studio_url" in response.json()["detail"]
        (one,) = await predicted(client, task(1, "/data/upload/1/a.png"), task(2, uri(STAR)))
        assert one["result"] == [], "the one answer to several tasks, at which they are asked for one by one"

    async def test_nothing_to_predict(self, client: httpx.AsyncClient) -> None:
        assert await predicted(client) == []


async def test_numbers_of_any_length(client: httpx.AsyncClient) -> None:
    data = f'{{"image": "{uri(STAR)}", "n": {"9" * 5000}}}'
    body = f'{{"tasks": [{{"id": 1, "data": {data}}}], "label_config": {json.dumps(config(BRUSH))}}}'
    response = await client.post(f"{PREFIX}/predict", content=body)
    assert response.status_code in {200, 400}, response.text


HOSTILE = {
    "no JSON": b"{",
    "a list": b"[]",
    "no tasks": b"{}",
    "tasks of another kind": b'{"tasks": 1}',
    "a task of another kind": b'{"tasks": ["x"]}',
    "deep": b'{"tasks": ' + b"[" * 90_000,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_bodies_that_are_none(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post(f"{PREFIX}/predict", content=body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("value", [b"[]", b"{}", b"0" + b",0" * 10])
async def test_too_many_values(client: httpx.AsyncClient, value: bytes) -> None:
    response = await client.post(f"{PREFIX}/predict", content=b'{"tasks": [' + (value + b",") * 100_000 + b"0]}")
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert "Choose fewer tasks." in response.json()["detail"]


class TestInteractive:
    async def part(self, client: httpx.AsyncClient, *marks: Any, label_config: str = SMART) -> dict[str, Any]:
        (prediction,) = await predicted(
            client, task(1, uri(STAR)), label_config=label_config, context={"result": list(marks)}
        )
        return prediction

    async def test_a_click_gets_the_part_of_the_map_under_it(self, client: httpx.AsyncClient) -> None:
        prediction = await self.part(client, click(58, 58))
        (result,) = prediction["result"]
        whole = by_control((await predicted(client, task(1, uri(STAR)), label_config=config(BRUSH)))[0])["brush"][0]
        assert (result["type"], result["from_name"]) == ("brushlabels", "brush")
        assert result["value"]["brushlabels"] == ["star"]
        assert (mask_of(result) != mask_of(whole)).sum() <= 2, "there is but one part"
        assert prediction["model_version"] == await version_of(client, label_config=SMART)

    async def test_a_click_where_nothing_is_gets_little_or_nothing(self, client: httpx.AsyncClient) -> None:
        prediction = await self.part(client, click(2, 98))
        masks = [mask_of(result) for result in prediction["result"]]
        assert all(mask[188, 3] for mask in masks)

    async def test_the_class_is_the_chosen_label(self, client: httpx.AsyncClient) -> None:
        (result,) = (await self.part(client, click(58, 58, "gear")))["result"] or [None]
        assert result is None or result["value"]["brushlabels"] == ["gear"]

    async def test_a_negative_click_cuts(self, client: httpx.AsyncClient) -> None:
        (whole,) = (await self.part(client, click(52, 58)))["result"]
        (cut,) = (await self.part(client, click(52, 58), click(64, 58, positive=False)))["result"]
        assert mask_of(cut).sum() < mask_of(whole).sum()
        assert mask_of(cut)[111, 99]
        assert not mask_of(cut)[111, 123]
        assert not mask_of(cut)[:, 112:].any(), "half way between the clicks, at 58 %"

    async def test_a_rectangle_is_drawn_around_what_is_meant(self, client: httpx.AsyncClient) -> None:
        box = {**click(40, 40), "type": "rectanglelabels"}
        box["value"] = {"x": 40, "y": 40, "width": 15, "height": 50, "rotation": 0, "rectanglelabels": ["star"]}
        (result,) = (await self.part(client, box))["result"]
        rows, columns = np.nonzero(mask_of(result))
        assert 76 <= columns.min() <= columns.max() < 107
        assert 76 <= rows.min() <= rows.max() < 174

    async def test_a_brush_stroke(self, client: httpx.AsyncClient) -> None:
        from service.labelling.rle import encode as run_lengths

        stroke = np.zeros((192, 192), np.bool_)
        stroke[108:112, 100:120] = True
        mark = {**click(0, 0), "type": "brushlabels"}
        mark["value"] = {"format": "rle", "rle": run_lengths(stroke), "brushlabels": ["star"]}
        (result,) = (await self.part(client, mark))["result"]
        assert mask_of(result)[110, 110]
        erased = {**mark, "value": {**mark["value"], "rle": run_lengths(np.zeros_like(stroke))}}
        assert (await self.part(client, erased))["result"] == []
        (same,) = (await self.part(client, mark, {**erased, "is_positive": False}))["result"]
        assert same["value"] == result["value"], "a stroke of which nothing is left cuts nothing"

    @pytest.mark.parametrize("type_", ["rectanglelabels", "polygonlabels", "keypointlabels", "bitmasklabels"])
    async def test_other_controls_answer_too(self, client: httpx.AsyncClient, type_: str) -> None:
        tag = {
            "rectanglelabels": "RectangleLabels",
            "polygonlabels": "PolygonLabels",
            "keypointlabels": "KeyPointLabels",
            "bitmasklabels": "BitmaskLabels",
        }[type_]
        label_config = config(ASK, f'<{tag} name="answer" toName="image">{LABELS}</{tag}>')
        (result,) = (await self.part(client, click(58, 58), label_config=label_config))["result"]
        (brush,) = (await self.part(client, click(58, 58)))["result"]
        mask, value = mask_of(brush), result["value"]
        assert (result["type"], value[type_]) == (type_, ["star"])
        rows, columns = np.nonzero(mask)
        if type_ == "rectanglelabels":
            edges = [value["x"], value["y"], value["x"] + value["width"], value["y"] + value["height"]]
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert edges == pytest.approx([100 * edge / 192 for edge in expected])
        elif type_ == "keypointlabels":
            assert mask[int(value["y"] * 1.92), int(value["x"] * 1.92)]
        elif type_ == "polygonlabels":
            from shapely import Polygon

            assert Polygon(value["points"]).area == pytest.approx(mask.mean() * 100 * 100, rel=0.1)
        else:
            assert ((opacity_of(result) > 0) != mask).sum() <= 2

    async def test_without_a_label_the_likeliest_is_meant(self, client: httpx.AsyncClient) -> None:
        (result,) = (await self.part(client, click(58, 58, None)))["result"]
        assert result["value"]["brushlabels"] == ["star"]

    @pytest.mark.parametrize(
        "context",
        [{}, {"result": []}, {"result": None}, {"result": 5}, {"result": "x"}, {"result": [1, {"type": "x"}]}],
    )
    async def test_nothing_was_marked(self, client: httpx.AsyncClient, context: Any) -> None:
        (prediction,) = await predicted(client, task(1, uri(STAR)), label_config=SMART, context=context)
        assert prediction["result"] == []

    async def test_only_what_is_not_meant_was_marked(self, client: httpx.AsyncClient) -> None:
        assert (await self.part(client, click(58, 58, positive=False)))["result"] == []

    @pytest.mark.parametrize(
        ("marks", "label_config", "why"),
        [
            ([click(58, 58)], config(ASK), "nothing to answer with"),
            ([click(58, 58, "whale")], config(BRUSH.replace("gear", "whale")), "no class for the label 'whale'"),
            ([{**click(1, 1), "value": {"x": "a", "y": 1, "keypointlabels": ["star"]}}], SMART, "no number"),
            ([{**click(1, 1), "type": "brushlabels", "value": {"rle": [1], "brushlabels": ["star"]}}], SMART, "brush"),
            ([click(58, 58)] * 101, SMART, "More than 100 places are marked"),
        ],
    )
    async def test_what_cannot_be_answered_says_why(
        self, client: httpx.AsyncClient, marks: Any, label_config: str, why: str
    ) -> None:
        body = asked([task(1, uri(STAR))], label_config, {"result": marks})
        response = await client.post(f"{PREFIX}/predict", json=body)
        assert response.status_code == 422
        assert why in response.json()["detail"]

    async def test_what_only_people_use_is_not_filled_in(self, client: httpx.AsyncClient) -> None:
        (prediction,) = await predicted(client, task(1, uri(STAR)), label_config=SMART)
        assert {result["from_name"] for result in prediction["result"]} == {"brush"}
