"""What can be taken along from the page: files, and commands that give what is on screen."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.asked import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

QUESTION = "layer=layer2&method=layercam&target=4&against=3&colormap=hot&opacity=0.3"


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """A sample, asked about in a way of its own."""
    page = open_page(f"/?sample=03-star.png&{QUESTION}", permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#sentence")).to_contain_text("“cross”")
    return page


def saved(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).first.click()
    return download.value.suggested_filename, download.value.path().read_bytes()


def copied(page: Page, button: str) -> str:
    page.get_by_role("button", name=button).click()
    expect(page.locator("#copied")).to_have_text("Copied.")
    text = page.evaluate("navigator.clipboard.readText()")
    assert isinstance(text, str)
    return text


def test_the_view_as_a_picture(page: Page) -> None:
    name, content = saved(page, "Save PNG")

    assert name == "03-star_cross_layer2_layercam.png"
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (192, 192)
        assert len(picture.convert("RGB").getcolors(192 * 192) or []) > 1000


def test_the_answer(page: Page) -> None:
    name, content = saved(page, "Save JSON")

    assert name.endswith(".json")
    (explanation,) = json.loads(content)["results"][0]["explanations"]
    assert (explanation["layer"], explanation["target"]["label"]) == ("layer2", "cross")


def test_the_map_is_one_that_numpy_reads(page: Page) -> None:
    with page.expect_response("**/explain") as answered:
        name, content = saved(page, "Save .npy")

    (explanation,) = answered.value.json()["results"][0]["explanations"]
    raw = np.frombuffer(base64.b64decode(explanation["map"]["data"]), "<f4").reshape(explanation["map"]["shape"])
    assert name.endswith(".npy")
    loaded = np.load(io.BytesIO(content))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, raw)
    assert loaded.max() == pytest.approx(explanation["maximum"])


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def like_the_screen(answer: dict[str, Any]) -> bool:
    (explanation,) = answer["results"][0]["explanations"]
    asked = (
        explanation["layer"],
        explanation["method"],
        explanation["target"]["index"],
        explanation["against"]["index"],
    )
    return asked == ("layer2", "layercam", 4, 3) and bool(explanation["overlay"]["data"])


def test_curl_of_a_sample(page: Page, tmp_path: Path) -> None:
    assert like_the_screen(json.loads(run(["bash", "-c", copied(page, "Copy as curl")], tmp_path)))


def test_python_of_a_sample(page: Page, tmp_path: Path) -> None:
    said = run([sys.executable, "-c", copied(page, "Copy as Python")], tmp_path)

    assert said.splitlines()[0].startswith("03-star.png star 0.9")
    assert said.splitlines()[1].startswith("layer2 layercam cross")
    with Image.open(tmp_path / "03-star.png-0.png") as overlay:
        assert overlay.size == (192, 192)


@pytest.mark.parametrize("name", ['it\'s; a, "star" $HOME.png', pytest.param("plain.png", marks=pytest.mark.slow)])
def test_commands_with_a_file_whatever_its_name(open_page: Callable[..., Page], tmp_path: Path, name: str) -> None:
    shutil.copy(SAMPLES / "03-star.png", tmp_path / name)
    page = open_page(f"/?{QUESTION}", permissions=["clipboard-read", "clipboard-write"])
    page.locator("#file").set_input_files(tmp_path / name)
    page.locator(".class", has_text="cross").click()
    page.get_by_role("button", name="vs star").click()
    expect(page.locator("#sentence")).to_contain_text("rather than “star”")

    assert like_the_screen(json.loads(run(["bash", "-c", copied(page, "Copy as curl")], tmp_path)))
    assert "\nlayer2 layercam cross" in run([sys.executable, "-c", copied(page, "Copy as Python")], tmp_path)


def test_the_grid_as_commands(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page("/?tab=grid&sample=03-star.png&by=classes", permissions=["clipboard-read", "clipboard-write"])
    expect(page.get_by_role("table").get_by_role("button")).to_have_count(6)

    (result,) = json.loads(run(["bash", "-c", copied(page, "Copy as curl")], tmp_path))["results"]
    assert len(result["explanations"]) == 6
    assert len(run([sys.executable, "-c", copied(page, "Copy as Python")], tmp_path).splitlines()) == 1 + 6


def test_the_gallery_as_commands(open_page: Callable[..., Page], tmp_path: Path) -> None:
    link = "/?tab=gallery&samples=true&model=shapes-shortcut&show=wrong"
    page = open_page(link, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#gallery-count")).to_have_text("15 pictures, 3 not as expected")

    said = run(["bash", "-c", copied(page, "Copy as curl")], tmp_path).strip()
    answers = [json.loads(line)["results"][0] for line in said.splitlines()]
    assert len(answers) == 3
    assert {answer["image"]["filename"] for answer in answers} >= {"watermark-star.png", "watermark-arrow.png"}
    said = run([sys.executable, "-c", copied(page, "Copy as Python")], tmp_path)
    assert "watermark-star.png disk 0.8" in said


@pytest.mark.slow
def test_pictures_of_ones_own_as_commands(open_page: Callable[..., Page], tmp_path: Path) -> None:
    (tmp_path / "it's a set").mkdir()
    for name in ("03-star.png", "08-heart.png"):
        shutil.copy(SAMPLES / name, tmp_path / "it's a set" / f"a, {name}")
    page = open_page("/", permissions=["clipboard-read", "clipboard-write"])
    page.locator("#folder").set_input_files(tmp_path / "it's a set")
    expect(page.locator("#gallery-count")).to_have_text("2 pictures")

    said = run(["bash", "-c", copied(page, "Copy as curl")], tmp_path)
    labels = [json.loads(line)["results"][0]["predictions"][0]["label"] for line in said.strip().splitlines()]
    assert labels == ["star", "heart"]
    assert "heart 0.9" in run([sys.executable, "-c", copied(page, "Copy as Python")], tmp_path)


def test_commands_with_names_that_a_shell_or_curl_would_read(open_page: Callable[..., Page], tmp_path: Path) -> None:
    names = ['a "b" $HOME.png', "back\\slash;type=x, y.png", "it's.png"]
    for name in names:
        shutil.copy(SAMPLES / "03-star.png", tmp_path / name)
    page = open_page("/", permissions=["clipboard-read", "clipboard-write"])
    # As one would drop them: Chromium's own file dialogue takes a backslash for a folder.
    page.evaluate(
        """([names, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            for (const name of names) transfer.items.add(new File([bytes], name, { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }""",
        [names, base64.b64encode((SAMPLES / "03-star.png").read_bytes()).decode()],
    )
    expect(page.locator("#gallery-count")).to_have_text("3 pictures")

    said = run(["bash", "-c", copied(page, "Copy as curl")], tmp_path).strip()
    answers = [json.loads(line)["results"][0] for line in said.splitlines()]
    assert [answer["predictions"][0]["label"] for answer in answers] == ["star"] * 3
    assert run([sys.executable, "-c", copied(page, "Copy as Python")], tmp_path).count(" star 0.9") == 3


def test_the_link(page: Page) -> None:
    assert copied(page, "Copy link") == page.url
    expect(page.locator("#command")).to_have_text(page.url)
