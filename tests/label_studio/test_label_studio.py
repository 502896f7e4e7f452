"""Label Studio itself with camserve as its backend: connected, drawn, clicked in, exported."""

from __future__ import annotations

import io
import json
import time
import zipfile
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.label_studio.conftest import SAMPLES
from tests.protocols.label_studio.wire import asked, click, mask_of, task

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.label_studio.conftest import LabelStudio

pytestmark = pytest.mark.slow

LABELS = '<Label value="star" background="#00a000"/><Label value="gear" background="#0060c0"/>'
ASK = f'<KeyPointLabels name="ask" toName="image" smart="true" smartOnly="true">{LABELS}</KeyPointLabels>'
CONFIG = f"""
<View>
  <Image name="image" value="$image"/>
  {ASK}
  <BrushLabels name="brush" toName="image" smart="false">{LABELS}</BrushLabels>
  <RectangleLabels name="box" toName="image" smart="false">{LABELS}</RectangleLabels>
  <Choices name="kind" toName="image"><Choice value="star"/><Choice value="gear"/></Choices>
  <TextArea name="words" toName="image"/>
</View>
"""


@pytest.fixture(scope="module")
def project(label_studio: LabelStudio, camserve: str) -> int:
    return label_studio.connected(camserve, CONFIG, "03-star.png", "11-gear.png")


@pytest.fixture(scope="module")
def predictions(label_studio: LabelStudio, project: int) -> list[dict[str, Any]]:
    return label_studio.retrieve(project)


def colour(page: Page, place: dict[str, float], x: float, y: float) -> tuple[int, int, int]:
    """The colour at a place of the picture, in per cent of it."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    at = round(place["x"] + place["width"] * x / 100), round(place["y"] + place["height"] * y / 100)
    found: Any = shot.getpixel(at)
    return tuple(found)


def brush_of(prediction: dict[str, Any]) -> dict[str, Any]:
    (found,) = [each for each in prediction["result"] if each["type"] == "brushlabels"]
    return dict(found)


def test_predictions_come_once(
    label_studio: LabelStudio, project: int, predictions: list[dict[str, Any]], camserve: str
) -> None:
    assert len(predictions) == 2
    assert [each["score"] > 0.5 for each in predictions] == [True, True]
    versions = httpx.get(f"{camserve}/integrations/label-studio/versions", timeout=60).json()["versions"]
    assert {each["model_version"] for each in predictions} == set(versions)
    again = label_studio.retrieve(project)
    assert [each["id"] for each in again] == [each["id"] for each in predictions], "none is made twice"


def test_they_are_drawn(
    page: Page, label_studio: LabelStudio, project: int, predictions: list[dict[str, Any]], tmp_path: Path
) -> None:
    star = next(each for each in predictions if brush_of(each)["value"]["brushlabels"] == ["star"])
    place = label_studio.opened(page, project, star["task"])
    page.screenshot(path=tmp_path / "drawn.png")
    mask = mask_of(brush_of(star))
    shown = np.asarray(Image.open(SAMPLES / "03-star.png").convert("RGB")).astype(int)
    pale = shown[..., 0] > shown[..., 1] + 20  # the background, which is rather red
    rows, columns = np.nonzero(mask & pale)
    inside = (columns[len(rows) // 2] + 0.5) * 100 / 192, (rows[len(rows) // 2] + 0.5) * 100 / 192
    red, green, _ = colour(page, place, *inside)
    assert green > red, "the brush is as green as its label"
    red, green, _ = colour(page, place, 20, 90)
    assert red > green, "elsewhere the picture is as it was"


def test_a_click_in_the_browser(page: Page, label_studio: LabelStudio, camserve: str, tmp_path: Path) -> None:
    """In a project that shows no predictions, since a click on a region would choose that."""
    project = label_studio.connected(camserve, CONFIG, "03-star.png")
    label_studio.set_up(project, show_collab_predictions=False)
    (one,) = label_studio.get(f"/api/tasks/?project={project}")["tasks"]
    place = label_studio.opened(page, project, one["id"])
    page.get_by_text("Auto-Annotation").click()
    page.locator(".lsf-tool_smart").click()
    page.locator(".lsf-label", has_text="star").first.click()
    page.wait_for_timeout(500)
    with page.expect_response(lambda response: "interactive" in response.url) as answered:
        page.mouse.click(place["x"] + place["width"] * 0.58, place["y"] + place["height"] * 0.58)
    page.wait_for_timeout(1500)
    page.screenshot(path=tmp_path / "clicked.png")
    body = answered.value.json()
    assert "errors" not in body, body
    (part,) = body["data"]["result"]
    assert (part["type"], part["value"]["brushlabels"]) == ("brushlabels", ["star"])
    assert mask_of(part)[111, 111]
    red, green, _ = colour(page, place, 46, 52)
    assert green > red, "what is suggested is drawn beside the star, where the picture is red"


def exported(label_studio: LabelStudio, project: int, form: str, ending: str) -> bytes:
    """Export a project that has one annotation; return its one file, which comes in an archive or alone."""
    response = label_studio.client.get(f"/api/projects/{project}/export", params={"exportType": form})
    assert response.is_success, response.text
    if not zipfile.is_zipfile(io.BytesIO(response.content)):
        return response.content
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(ending)]
        return archive.read(name)


def test_an_accepted_annotation_is_exported_as_the_mask(label_studio: LabelStudio, camserve: str) -> None:
    """In a project without points: where there are some, Label Studio's COCO calls every category "default"."""
    project = label_studio.connected(camserve, CONFIG.replace(ASK, ""), "03-star.png")
    (star,) = label_studio.retrieve(project)
    accepted = {"result": star["result"], "parent_prediction": star["id"]}
    label_studio.post(f"/api/tasks/{star['task']}/annotations/", json=accepted)
    mask = mask_of(brush_of(star))

    image = Image.open(io.BytesIO(exported(label_studio, project, "BRUSH_TO_PNG", ".png"))).convert("L")
    assert ((np.asarray(image) > 0) == mask).all()

    document = json.loads(exported(label_studio, project, "COCO", ".json"))
    names = {each["id"]: each["name"] for each in document["categories"]}
    assert {names[each["category_id"]] for each in document["annotations"]} == {"star"}
    (box,) = [each["value"] for each in star["result"] if each["type"] == "rectanglelabels"]
    pixels = [value * 1.92 for value in (box["x"], box["y"], box["width"], box["height"])]
    assert any(np.allclose(each["bbox"], pixels, atol=1) for each in document["annotations"])


def test_a_click_is_answered_fast(label_studio: LabelStudio, project: int, camserve: str) -> None:
    """In less than 300 ms with SqueezeNet, the way to Label Studio for the picture included."""
    one = label_studio.get(f"/api/tasks/?project={project}&page_size=1")["tasks"][0]
    label_config = CONFIG.replace('"star"', '"tabby"')
    mark = {"result": [click(50, 50, "tabby")]}
    body = asked([task(one["id"], one["data"]["image"])], label_config, mark)
    seconds = [1.0]
    while min(seconds) >= 0.3 and len(seconds) < 30:  # what the machine does beside it is no part of it
        began = time.perf_counter()
        response = httpx.post(f"{camserve}/integrations/label-studio/squeezenet/predict", json=body, timeout=60)
        seconds.append(time.perf_counter() - began)
        assert response.status_code == 200, response.text
    assert min(seconds) < 0.3, seconds


def test_things_that_happen_are_taken_note_of(label_studio: LabelStudio, project: int, camserve: str) -> None:
    response = httpx.post(
        f"{camserve}/integrations/label-studio/webhook", json={"action": "ANNOTATION_CREATED"}, timeout=60
    )
    assert response.status_code == 200
    trained = label_studio.client.post(f"/api/ml/{label_studio.get(f'/api/ml/?project={project}')[0]['id']}/train")
    assert trained.is_success, trained.text
