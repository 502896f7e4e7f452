"""The grid: one picture at several layers by several methods, or for several classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.asked import Asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page


def test_layers_by_methods_in_one_request(page: Page) -> None:
    asked = Asked(page)
    page.get_by_role("link", name="Grid").click()
    expect(page.get_by_text("Choose a picture or take a sample")).to_be_visible()
    page.get_by_role("button", name="star", exact=True).click()

    table = page.get_by_role("table")
    expect(table.get_by_role("columnheader")).to_have_text(["Grad-CAM", "HiResCAM", "LayerCAM", "Eigen-CAM"])
    expect(table.get_by_role("rowheader")).to_have_text(["layer2", "layer4"])
    expect(table.get_by_role("button")).to_have_count(8)
    assert len(asked.forms) == 1
    assert asked.forms[0]["output"] == ["overlay"]
    for picture in table.get_by_role("img").all():
        assert picture.evaluate("picture => picture.decode().then(() => picture.naturalWidth)") == 192


def test_layers_by_classes_and_an_empty_cell_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=grid&sample=03-star.png")
    expect(page.get_by_role("table").get_by_role("button")).to_have_count(8)
    page.get_by_role("radio", name="classes").check()

    table = page.get_by_role("table")
    expect(table.get_by_role("columnheader").first).to_contain_text("“star” (95.1%)")
    expect(table.get_by_role("button")).to_have_count(6)
    expect(table.get_by_role("button", name="layer2, Grad-CAM, square: an empty map")).to_contain_text("empty")


def test_rows_and_columns_are_chosen(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=grid&sample=03-star.png")
    table = page.get_by_role("table")
    expect(table.get_by_role("button")).to_have_count(8)
    page.get_by_role("button", name="Rows").click()
    page.get_by_role("option", name="layer2").first.click()
    page.get_by_role("button", name="Done").click()
    expect(table.get_by_role("rowheader")).to_have_text(["layer4"])
    page.get_by_role("button", name="Choose the columns").click()
    page.get_by_role("option", name="XGrad-CAM").click()

    expect(table.get_by_role("columnheader")).to_have_count(5)
    page.wait_for_url("**row=layer4&column=gradcam&**column=xgradcam")


def test_a_cell_leads_to_the_single_view_and_back(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=grid&sample=03-star.png&by=classes")
    expect(page.get_by_role("table").get_by_role("button")).to_have_count(6)
    asked = Asked(page)
    page.get_by_role("button", name="layer2, Grad-CAM, cross").click()

    expect(page.locator("#sentence")).to_contain_text("“cross”")
    expect(page.locator("#sentence")).to_contain_text("at layer2, by Grad-CAM")
    page.go_back()
    expect(page.get_by_role("button", name="layer2, Grad-CAM, cross")).to_be_visible()
    assert len(asked.forms) == 1, "the grid was still there"


def test_a_link_that_asks_for_no_class_of_the_model_is_got_rid_of(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=grid&sample=03-star.png&target=text:a+red+star", expect_errors=True)
    expect(page.get_by_role("alert")).to_contain_text("the sentence 'a red star' cannot be looked for")
    page.get_by_role("button", name="Use the defaults").click()
    expect(page.locator("#grid-caption")).to_contain_text("“star”")
    page.go_back()
    expect(page.get_by_role("alert")).to_contain_text("the sentence 'a red star' cannot be looked for")
