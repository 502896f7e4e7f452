"""The walk-throughs of docs/labelling.md.

``PICTURES_FOLDER=docs/images scripts/test-label-studio -k walkthroughs`` takes the document's pictures again.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.docs.documents import ROOT, blocks
from tests.label_studio.conftest import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from tests.label_studio.conftest import LabelStudio

    Shown = Callable[[str], None]

pytestmark = pytest.mark.slow

CONFIGS = [block.text for block in blocks(ROOT / "docs" / "labelling.md") if block.language == "xml"]
SCENES = sorted(file.name for file in SAMPLES.glob("[01]*.png") if ".mask" not in file.name)


@pytest.fixture
def shown(page: Page, tmp_path: Path) -> Shown:
    """Take a picture of the page, for the document."""
    page.set_viewport_size({"width": 1280, "height": 720})
    folder = Path(os.environ.get("PICTURES_FOLDER", tmp_path))

    def taken(name: str) -> None:
        page.wait_for_timeout(1500)
        with Image.open(io.BytesIO(page.screenshot())) as image:
            image.convert("RGB").save(folder / f"{name}.webp", quality=82, method=6)
        assert (folder / f"{name}.webp").stat().st_size < 100_000

    return taken


def one(results: list[dict[str, Any]], type_: str) -> dict[str, Any]:
    (found,) = [each for each in results if each["type"] == type_]
    return found


def test_predictions(label_studio: LabelStudio, camserve: str, page: Page, shown: Shown) -> None:
    project = label_studio.connected(camserve, CONFIGS[0], "03-star.png", "11-gear.png")
    page.goto(f"{label_studio.url}/projects/{project}/settings/ml")
    page.get_by_text("Connected", exact=True).wait_for()
    shown("label-studio-connected")
    page.goto(f"{label_studio.url}/projects/{project}/data")
    page.locator("input[type=checkbox]").first.click()
    page.get_by_role("button", name="Tasks Actions").click()
    page.get_by_text("Retrieve Predictions").wait_for()
    star, gear = label_studio.retrieve(project)
    assert [one(each["result"], "choices")["value"]["choices"] for each in (star, gear)] == [["star"], ["gear"]]
    label_studio.opened(page, project, star["task"])
    page.get_by_text("0.95").first.wait_for()
    shown("label-studio")


def test_a_mask_by_a_click(label_studio: LabelStudio, camserve: str, page: Page, shown: Shown) -> None:
    project = label_studio.connected(camserve, CONFIGS[1], "03-star.png")
    label_studio.set_up(project, show_collab_predictions=False)
    (task,) = label_studio.get(f"/api/tasks/?project={project}")["tasks"]
    place = label_studio.opened(page, project, task["id"])
    page.get_by_text("Auto-Annotation").click()
    page.locator(".lsf-label", has_text="star").first.click()
    page.locator(".lsf-tool_smart").click()
    with page.expect_response(lambda response: "interactive" in response.url):
        page.mouse.click(place["x"] + place["width"] * 0.58, place["y"] + place["height"] * 0.58)
    page.get_by_text("1 suggestion").wait_for()
    shown("label-studio-click")


def test_the_heatmap_beside_the_picture(label_studio: LabelStudio, camserve: str, page: Page, shown: Shown) -> None:
    project = label_studio.connected(camserve, CONFIGS[2], "03-star.png")
    (star,) = label_studio.retrieve(project)
    assert {each["to_name"] for each in star["result"] if each["type"] == "bitmasklabels"} == {"seen"}
    label_studio.opened(page, project, star["task"])
    assert page.evaluate("[...document.images].filter(image => image.width > 200).length") == 2
    shown("label-studio-heatmap")


def test_the_least_sure_first(label_studio: LabelStudio, camserve: str, page: Page, shown: Shown) -> None:
    project = label_studio.connected(camserve, CONFIGS[3], *SCENES)
    predictions = label_studio.retrieve(project)
    label_studio.set_up(project, model_version=predictions[0]["model_version"])
    columns = label_studio.get("/api/dm/columns/", params={"project": project})["columns"]
    wanted = {"id", "image", "total_predictions", "predictions_score"}
    hidden = [f"tasks:{each['id']}" for each in columns if each["id"] not in wanted]
    view = {"title": "Least sure first", "type": "list", "ordering": ["tasks:predictions_score"]}
    data = {**view, "hiddenColumns": {"explore": hidden, "labeling": []}, "columnsDisplayType": {}}
    made = label_studio.post("/api/dm/views/", json={"project": project, "data": data})
    tasks = label_studio.get("/api/tasks/", params={"project": project, "view": made["id"], "fields": "all"})["tasks"]
    by_score = sorted(predictions, key=lambda each: float(each["score"]))
    assert [each["id"] for each in tasks] == [each["task"] for each in by_score]
    page.goto(f"{label_studio.url}/projects/{project}/data?tab={made['id']}")
    page.get_by_text(f"{by_score[0]['score']:.3f}").first.wait_for()
    shown("label-studio-order")


def test_from_files(label_studio: LabelStudio, page: Page, shown: Shown, tmp_path: Path) -> None:
    photos, tasks = label_studio.files / "photos", tmp_path / "tasks.json"
    photos.mkdir()
    for name in SCENES:
        shutil.copy(SAMPLES / name, photos)
    flags = ["--regions", "--image-url", "/data/local-files/?d=photos/", "--out", str(tasks)]
    subprocess.run([sys.executable, "-m", "service.cli", "export", "label-studio", str(photos), *flags], check=True)
    label_config = re.sub(
        r"<Label value=", '<Label background="#0060c0" value=', (tmp_path / "tasks-config.xml").read_text()
    )
    project = label_studio.post("/api/projects/", json={"title": "shapes", "label_config": label_config})["id"]
    label_studio.post(
        "/api/storages/localfiles/", json={"project": project, "path": str(photos), "use_blob_urls": True}
    )
    with tasks.open("rb") as file:
        label_studio.post(f"/api/projects/{project}/import", files={"tasks": (tasks.name, file)})
    found = label_studio.get("/api/tasks/", params={"project": project, "page_size": 100})["tasks"]
    assert len(found) == len(SCENES) == len(json.loads(tasks.read_text()))
    (heart,) = [each for each in found if "heart" in each["data"]["image"]]
    label_studio.opened(page, project, heart["id"])
    shown("label-studio-imported")
