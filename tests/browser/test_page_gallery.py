"""The gallery: many pictures, what was expected of them, and what came out."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.asked import SAMPLES, Asked
from tests.browser.test_page_explain import drop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Locator, Page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in folders named like classes, one of them in the wrong one, one broken, and a file that is none."""
    for label, name in (("star", "03-star"), ("disk", "00-disk"), ("heart", "04-cross")):
        (tmp_path / "set" / label).mkdir(parents=True)
        shutil.copy(SAMPLES / f"{name}.png", tmp_path / "set" / label / f"photo-of-{label}.png")
    (tmp_path / "set" / "heart" / "broken.png").write_bytes(b"\x89PNG but not really")
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    return tmp_path / "set"


def thumbs(page: Page) -> Locator:
    return page.get_by_role("list", name="Explained pictures").get_by_role("listitem")


def test_a_folder_is_compared_with_its_folders_names(page: Page, folder: Path) -> None:
    page.locator("#folder").set_input_files(folder)

    expect(page.locator("#gallery-count")).to_have_text("4 pictures, 1 not as expected, 1 failed")
    expect(page.get_by_text("The expected class was read from the folder's name for 4.")).to_be_visible()
    expect(page.get_by_text("1 file that is no picture left out.")).to_be_visible()
    expect(thumbs(page)).to_have_count(4)
    expect(thumbs(page).filter(has_text="broken.png")).to_contain_text("The bytes are not a picture in a known format.")
    page.get_by_label("Show", exact=True).select_option("wrong")
    expect(thumbs(page)).to_have_count(1)
    expect(thumbs(page)).to_contain_text("✗ expected heart")


def test_a_folder_is_dropped(page: Page, folder: Path) -> None:
    drop(page, folder)

    expect(page.locator("#gallery-count")).to_have_text("4 pictures, 1 not as expected, 1 failed")


def test_several_pictures_go_in_requests_of_a_few(page: Page) -> None:
    asked = Asked(page, hold=True)
    page.get_by_role("link", name="Gallery").click()
    page.get_by_role("button", name="Take the samples").click()
    expect(page.locator("#gallery-count")).to_have_text("0 of 15 pictures")
    expect(thumbs(page)).to_have_count(15)
    asked.release()

    expect(page.locator("#gallery-count")).to_have_text("15 pictures")
    expect(page.get_by_role("progressbar", name="Pictures explained")).to_be_hidden()
    assert [len(form["image"]) for form in asked.forms] == [8, 7]
    assert {tuple(form["output"]) for form in asked.forms} == {("overlay",)}
    assert int(asked.forms[0]["max_side"][0]) <= 400


def test_right_beside_wrong_shows_a_shortcut(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=gallery&samples=true&model=shapes-shortcut&show=wrong&sort=surest")
    expect(page.get_by_text("The expected class was read from the file's name for 15.")).to_be_visible()
    expect(page.locator("#gallery-count")).to_have_text(re.compile(r"^15 pictures, \d not as expected$"))
    expect(thumbs(page).filter(has_text="watermark-star.png")).to_contain_text("✗ expected star")
    sure = [share(text) for text in thumbs(page).all_inner_texts()]
    assert sure == sorted(sure, reverse=True)
    page.get_by_label("Sort by").select_option("least")
    assert [share(text) for text in thumbs(page).all_inner_texts()] == sure[::-1]

    for score, sign in (("entropy", -1), ("margin", 1)):
        page.get_by_label("Sort by").select_option(score)
        written = thumbs(page).locator(f".{score}")
        expect(written.first).to_be_visible()
        shown = [sign * float(text.removeprefix(f"{score} ")) for text in written.all_text_contents()]
        assert len(shown) == len(sure)
        assert shown == sorted(shown)


def share(text: str) -> float:
    found = re.search(r"([\d.]+)%", text)
    assert found is not None
    return float(found[1])


def test_a_picture_opens_in_the_single_view(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=gallery&samples=true")
    expect(page.locator("#gallery-count")).to_have_text("15 pictures")  # what is under way would be asked again
    page.get_by_role("button", name="✓ as expected 03-star.png").click()

    expect(page.locator("#sentence")).to_contain_text("“star”")
    asked = Asked(page)
    page.go_back()
    expect(thumbs(page)).to_have_count(15)
    assert asked.forms == [], "the gallery was still there"


def test_a_request_that_fails_loses_nothing(open_page: Callable[..., Page]) -> None:
    page = open_page(expect_errors=True)
    refused = []

    def refuse_the_second(route: object) -> None:
        refused.append(route)
        if len(refused) == 2:
            route.abort()  # type: ignore[attr-defined]
        else:
            route.continue_()  # type: ignore[attr-defined]

    page.route(re.compile("/explain$"), refuse_the_second)
    page.get_by_role("link", name="Gallery").click()
    page.get_by_role("button", name="Take the samples").click()
    expect(page.get_by_text("The server cannot be reached.")).to_be_visible()
    expect(page.locator("#gallery-count")).to_have_text("8 of 15 pictures")
    page.get_by_role("button", name="Try again").click()

    expect(page.locator("#gallery-count")).to_have_text("15 pictures")
    assert len(refused) == 3


def test_results_are_saved_as_a_table_and_as_json(page: Page, folder: Path) -> None:
    page.locator("#folder").set_input_files(folder)
    expect(page.locator("#gallery-count")).to_have_text("4 pictures, 1 not as expected, 1 failed")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save CSV").click()
    rows = {row["file"]: row for row in csv.DictReader(io.StringIO(saved.value.path().read_text(encoding="utf-8")))}
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save JSON").last.click()
    records = {record["file"]: record for record in json.loads(saved.value.path().read_text(encoding="utf-8"))}

    assert rows.keys() == records.keys()
    assert len(rows) == 4
    wrong = rows["set/heart/photo-of-heart.png"]
    assert (wrong["expected"], wrong["predicted"], wrong["as_expected"]) == ("heart", "cross", "false")
    assert records["set/heart/photo-of-heart.png"]["probability"] == pytest.approx(float(wrong["probability"]))
    assert float(wrong["margin"]) == records["set/heart/photo-of-heart.png"]["margin"]
    assert 0 < records["set/heart/photo-of-heart.png"]["entropy"] < 1
    assert "known format" in rows["set/heart/broken.png"]["error"]
    assert records["set/star/photo-of-star.png"]["error"] is None
