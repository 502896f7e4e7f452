"""One map of several layers: the page's control for ``fuse``, and what a real server makes of it."""

from __future__ import annotations

import base64
import io
import json
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from tests.browser.asked import SAMPLES, Asked
from tests.browser.test_page_export import copied, run, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from playwright.sync_api import Locator, Page

LAYERS = ["layer2", "layer4"]  # what the catalogue recommends
FUSED = "/?sample=03-star.png&fuse=max"


def control(page: Page) -> Locator:
    return page.get_by_label("One map of several layers")


def option(page: Page, layer: str) -> Locator:
    """A layer in the picker that is open."""
    return page.locator(f".picker:popover-open [data-value='{layer}']").first


def explain(server: str, **options: object) -> dict[str, Any]:
    """What the API says itself about the picture."""
    files = {"image": ("03-star.png", (SAMPLES / "03-star.png").read_bytes())}
    answer = httpx.post(f"{server}/api/v1/explain", files=files, data=options, timeout=60)
    result: dict[str, Any] = answer.raise_for_status().json()["results"][0]
    return result


def values(explanation: dict[str, Any]) -> NDArray[np.float32]:
    """The raw map, (h, w)."""
    data = np.frombuffer(base64.b64decode(explanation["map"]["data"]), "<f4")
    return data.reshape(explanation["map"]["shape"])


@pytest.mark.parametrize("how", ["max", *(pytest.param(how, marks=pytest.mark.slow) for how in ("mean", "product"))])
def test_the_recommended_layers_become_one_map(open_page: Callable[..., Page], server: str, how: str) -> None:
    page = open_page("/?sample=03-star.png")
    expect(page.locator("#sentence")).to_contain_text("at layer4,")
    asked = Asked(page)
    page.get_by_text("More options").click()
    control(page).select_option(how)

    expect(page.locator("#sentence")).to_contain_text(
        "finds evidence for “star” (95.1%), at layer2+layer4, by Grad-CAM"
    )
    assert (asked.forms[-1]["layer"], asked.forms[-1]["fuse"]) == (LAYERS, [how])
    assert parse_qs(urlsplit(page.url).query)["fuse"] == [how]
    expect(page.get_by_role("button", name="Layers")).to_have_text("layer2 + layer4")
    _, content = saved(page, "Save .npy")
    [explanation] = explain(server, layer=LAYERS, fuse=how, output="map")["explanations"]
    np.testing.assert_array_equal(np.load(io.BytesIO(content)), values(explanation))


def test_the_strongest_of_two_layers_is_nowhere_less_than_the_finer_one(
    open_page: Callable[..., Page], server: str
) -> None:
    page = open_page(FUSED)
    expect(page.locator("#sentence")).to_contain_text("at layer2+layer4")
    _, content = saved(page, "Save .npy")
    fused = np.load(io.BytesIO(content))
    finer = values(explain(server, layer="layer2", output="map")["explanations"][0])

    assert fused.shape == finer.shape
    assert fused.max() == pytest.approx(1)
    assert (fused >= finer / finer.max() - 1e-5).all()
    assert not np.allclose(fused, finer / finer.max(), atol=0.01), "the other layer has its share"


def test_which_layers_is_chosen_and_one_alone_is_not_fused(open_page: Callable[..., Page]) -> None:
    page = open_page(FUSED)
    expect(page.locator("#sentence")).to_contain_text("at layer2+layer4")
    asked = Asked(page)
    page.get_by_role("button", name="Layers").click()
    option(page, "layer2").click()
    expect(page.locator("#sentence")).to_contain_text("at layer4,")
    option(page, "layer3").click()
    expect(page.locator("#sentence")).to_contain_text("at layer4+layer3,")
    option(page, "layer4").click()
    page.get_by_role("button", name="Done").click()

    expect(page.locator("#sentence")).to_contain_text("at layer3,")
    assert asked.forms[0]["layer"] == ["layer4"]
    assert "fuse" not in asked.forms[0]
    expect(page.get_by_text("Fusing takes two layers or more")).to_be_visible()
    page.get_by_text("More options").click()
    control(page).select_option("")
    expect(page.locator("#layer")).to_have_text("layer4")
    expect(page.locator("#sentence")).to_contain_text("at layer4,")


def test_the_grid_has_one_row_and_its_cells_lead_to_the_fused_map(open_page: Callable[..., Page]) -> None:
    page = open_page(f"{FUSED}&tab=grid")
    table = page.get_by_role("table")
    expect(table.get_by_role("rowheader")).to_have_text(["layer2+layer4"])
    expect(table.get_by_role("button")).to_have_count(4)
    table.get_by_role("button", name="layer2+layer4, LayerCAM, star").click()

    expect(page.locator("#sentence")).to_contain_text("at layer2+layer4, by LayerCAM")


def test_the_gallery_asks_for_it_too(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=gallery&fuse=mean")
    asked = Asked(page)
    page.get_by_role("button", name="Take the samples").click()
    expect(page.locator("#gallery-count")).to_have_text("15 pictures")

    assert {(*form["layer"], *form["fuse"]) for form in asked.forms} == {(*LAYERS, "mean")}


def test_a_method_that_looks_at_no_layer_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page(FUSED)
    expect(page.locator("#sentence")).to_contain_text("at layer2+layer4")
    page.get_by_role("button", name="Method").click()
    expect(page.get_by_role("option", name="FullGrad")).to_contain_text("there are no layers to fuse")
    expect(page.get_by_role("option", name="FullGrad")).to_be_disabled()


def test_it_is_in_the_commands(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page(FUSED, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#sentence")).to_contain_text("at layer2+layer4")

    (result,) = json.loads(run(["bash", "-c", copied(page, "Copy as curl")], tmp_path))["results"]
    assert [explanation["layer"] for explanation in result["explanations"]] == ["layer2+layer4"]
    said = run([sys.executable, "-c", copied(page, "Copy as Python")], tmp_path)
    assert said.splitlines()[1].startswith("layer2+layer4 gradcam star")
