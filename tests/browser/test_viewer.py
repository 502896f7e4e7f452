"""The web component, in a real Chromium: what it paints, reads, says and asks."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from service.imaging.colormaps import COLORMAPS
from tests.browser.asked import Asked
from tests.browser.conftest import Listening
from tests.browser.ready import wait_until_painted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from playwright.sync_api import BrowserContext, Page, Route

    OpenPage = Callable[..., Page]

# A picture of 400 × 200 grey pixels whose outer quarters the model did not see; the map has four plain bands.
GREY = 100
WIDTH, HEIGHT = 400, 200
VIEW = {"left": 100, "top": 0, "right": 300, "bottom": 200}
BANDS = {125: 0, 175: 51, 225: 153, 275: 255}  # the middle of each band, in pixels of the picture, and its level
MAXIMUM = 2.5
OPACITY = 0.4

# No part of the tests' page but the viewer; its policy is that of all pages.
MOUNT = """async (width) => {
  await import("/static/camserve-viewer.js");
  const viewer = Object.assign(document.createElement("camserve-viewer"), { id: "viewer" });
  viewer.style.width = width;
  viewer.heard = [];
  for (const kind of ["hover", "explained", "error"]) {
    viewer.addEventListener(`camserve-${kind}`, ({ detail }) => viewer.heard.push([kind, detail]));
  }
  const place = document.querySelector("camserve-viewer");
  if (place) place.replaceWith(viewer);
  else document.body.replaceChildren(viewer);
}"""
SHOW = """async ({ picture, explained, palette, looks }) => {
  const bytes = picture && Uint8Array.from(atob(picture), (character) => character.charCodeAt(0));
  if (picture) viewer.picture = new Blob([bytes]);
  Object.assign(viewer, { explained, palette }, looks);
}"""
# Settled: decoded, unpacked and painted.
SETTLE = """async () => {
  await viewer.toBlob().catch(() => null);
  for (let frame = 0; frame < 3; frame++) await new Promise(requestAnimationFrame);
}"""
PIXELS = """(id) => {
  const shown = viewer.shadowRoot.getElementById(id);
  const copy = Object.assign(document.createElement("canvas"), { width: shown.width, height: shown.height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(shown, 0, 0);
  const { width, height, data } = context.getImageData(0, 0, copy.width, copy.height);
  return { width, height, data: btoa(Array.from(data, (value) => String.fromCharCode(value)).join("")) };
}"""


def png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


def table(name: str) -> str:
    return base64.b64encode(COLORMAPS[name].table.tobytes()).decode()


def levels(bands: dict[int, int] = BANDS) -> NDArray[np.uint8]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for middle, level in bands.items():
        mask[:, middle - 25 : middle + 25] = level
    return mask


def explained(mask: str | None = None, **changes: object) -> dict[str, Any]:
    """An answer's parts, as the page hands them to the viewer."""
    picture = {"media_type": "image/png", "width": WIDTH, "height": HEIGHT, "data": mask or png(levels())}
    target = {"index": 3, "label": "star", "probability": 0.95, "logit": 4.0}
    explanation: dict[str, Any] = {"layer": "layer4", "method": "gradcam", "target": target, "against": None}
    explanation |= {"empty": False, "note": None}
    explanation |= {"reason": None, "signed": False, "minimum": 0.0, "maximum": MAXIMUM, "sum": 1.0}
    explanation |= {"peak": {"x": 275.5, "y": 100.5}, "overlay": None, "mask": picture, **changes}
    return {"image": {"width": WIDTH, "height": HEIGHT}, "view": VIEW, "explanation": explanation}


def show(page: Page, answer: dict[str, Any] | None = None, palette: str = "viridis", **looks: object) -> None:
    picture = png(np.full((HEIGHT, WIDTH, 3), GREY, np.uint8))
    shown = {"picture": picture, "explained": answer or explained(), "palette": table(palette)}
    page.evaluate(SHOW, shown | {"looks": {"opacity": OPACITY} | looks})
    page.evaluate(SETTLE)


def look(page: Page, **looks: object) -> None:
    page.evaluate("(looks) => Object.assign(viewer, looks)", looks)
    page.evaluate(SETTLE)


def pixels(page: Page, canvas: str = "view") -> NDArray[np.uint8]:
    """What a canvas of the viewer shows, (h, w, RGBA)."""
    read = page.evaluate(PIXELS, canvas)
    data = np.frombuffer(base64.b64decode(read["data"]), np.uint8)
    return data.reshape(read["height"], read["width"], 4)


def at(page: Page, x: float, y: float = 100) -> list[int]:
    """The colour at a pixel of the picture, in a mode with one panel."""
    shown = pixels(page)
    height, width = shown.shape[:2]
    colour: list[int] = shown[int((y + 0.5) * height / HEIGHT), int((x + 0.5) * width / WIDTH)].tolist()
    return colour


def mixed(level: int, palette: str = "viridis", opacity: float = OPACITY) -> Any:
    """What a level looks like on the picture."""
    heat = COLORMAPS[palette].table[level].astype(float)
    return pytest.approx([*((1 - opacity) * GREY + opacity * heat), 255], abs=2)


def heard(page: Page, kind: str) -> list[Any]:
    return [detail for name, detail in page.evaluate("viewer.heard") if name == kind]


@dataclass(frozen=True)
class Stage:
    """A page of which every test has a viewer of its own, and what it wrote to its console since the test began."""

    page: Page
    complaints: list[str]

    def mount(self) -> Page:
        """Put up an empty viewer, as wide as the picture has pixels, away from the pointer."""
        self.page.mouse.move(0, 700)
        self.page.evaluate(MOUNT, f"{WIDTH}px")
        self.complaints.clear()
        return self.page


@pytest.fixture(scope="module")
def stage(context_with: Callable[..., BrowserContext], server: str) -> Iterator[Stage]:
    stage = Stage(context_with().new_page(), [])
    Listening(stage.page, stage.complaints)
    stage.page.goto(f"{server}/errors")
    wait_until_painted(stage.page)
    yield stage
    stage.page.close()


@pytest.fixture
def failing(stage: Stage) -> Iterator[Page]:
    """A page with an empty viewer, where requests may fail."""
    yield stage.mount()
    stage.page.unroute_all()


@pytest.fixture
def viewer(stage: Stage, failing: Page) -> Iterator[Page]:
    """A page with an empty viewer."""
    yield failing
    assert stage.complaints == []


@pytest.mark.parametrize(("x", "level"), BANDS.items())
def test_an_overlay_has_the_palettes_colour_times_the_opacity(viewer: Page, x: int, level: int) -> None:
    show(viewer)
    assert at(viewer, x) == mixed(level)
    look(viewer, opacity=0.9)
    assert at(viewer, x) == mixed(level, opacity=0.9)
    look(viewer, palette=table("inferno"), opacity=OPACITY)
    assert at(viewer, x) == mixed(level, "inferno")


def test_a_heatmap_has_the_palettes_colours_and_the_original_none(viewer: Page) -> None:
    show(viewer, mode="heatmap")
    for x, level in BANDS.items():
        assert at(viewer, x) == mixed(level, opacity=1)
    look(viewer, mode="original")
    for x in (*BANDS, 30, 370):
        assert at(viewer, x) == [GREY, GREY, GREY, 255]


def test_below_the_threshold_nothing_is_coloured(viewer: Page) -> None:
    show(viewer, threshold=0.5)
    assert at(viewer, 175) == [GREY, GREY, GREY, 255]
    assert at(viewer, 225) == mixed(153)
    bar = pixels(viewer, "bar")[0]
    assert not bar[:127, 3].any()
    assert bar[128:, :3].tolist() == COLORMAPS["viridis"].table[128:].tolist()
    look(viewer, threshold=0.1)
    assert at(viewer, 175) == mixed(51)
    look(viewer, mode="heatmap", threshold=0.5)
    assert at(viewer, 175)[3] == 0


def test_zero_of_a_signed_map_is_the_middle_of_the_palette(viewer: Page) -> None:
    signed = {"signed": True, "minimum": -4.0, "maximum": 2.0}
    mask = png(levels({125: 0, 175: 64, 225: 128, 275: 192}))
    show(viewer, explained(mask, **signed), "coolwarm")
    assert at(viewer, 125) == mixed(0, "coolwarm")
    assert at(viewer, 225) == mixed(128, "coolwarm")
    expect(viewer.locator("#low")).to_have_text("−4")
    expect(viewer.locator("#zero")).to_be_visible()
    expect(viewer.locator("#high")).to_have_text("+4")
    look(viewer, threshold=0.3)
    assert at(viewer, 225) == [GREY, GREY, GREY, 255]
    assert at(viewer, 175) == mixed(64, "coolwarm"), "what speaks against the class is not below the threshold"
    hover(viewer, 175, 100)
    expect(viewer.locator("#readout")).to_have_text("−0.50 × greatest = −2 at (175, 100)")


def hover(page: Page, x: float, y: float) -> None:
    """Point at a pixel of the picture, in a mode with one panel."""
    box = page.locator("#view").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + (x + 0.5) * box["width"] / WIDTH, box["y"] + (y + 0.5) * box["height"] / HEIGHT)


def test_the_pointer_reads_values(viewer: Page) -> None:
    show(viewer)
    hover(viewer, 225, 40)
    expect(viewer.locator("#readout")).to_have_text("0.60 × max = 1.5 at (225, 40)")
    assert heard(viewer, "hover")[-1] == pytest.approx({"x": 225, "y": 40, "share": 0.6, "value": 1.5, "seen": True})
    hover(viewer, 30, 40)
    expect(viewer.locator("#readout")).to_have_text("not seen by the model at (30, 40)")
    assert heard(viewer, "hover")[-1] == {"x": 30, "y": 40, "share": None, "value": None, "seen": False}
    viewer.mouse.move(0, 0)
    expect(viewer.locator("#readout")).to_have_text("")


def test_a_finger_reads_values(open_document: OpenPage) -> None:
    page = open_document("/errors", viewport={"width": 380, "height": 700}, has_touch=True, is_mobile=True)
    page.evaluate(MOUNT, "100%")
    show(page)
    page.locator("#view").tap()
    expect(page.locator("#readout")).to_contain_text("× max")


def test_the_arrow_keys_read_values(viewer: Page) -> None:
    show(viewer)
    before = at(viewer, 275)
    viewer.keyboard.press("Tab")
    expect(viewer.locator("#view")).to_be_focused()
    viewer.keyboard.press("ArrowLeft")
    expect(viewer.locator("#readout")).to_have_text("1.00 × max = 2.5 at (275, 100)")  # the peak
    viewer.keyboard.press("Shift+ArrowLeft")
    viewer.keyboard.press("ArrowDown")
    expect(viewer.locator("#readout")).to_have_text("0.60 × max = 1.5 at (235, 104)")
    expect(viewer.locator("#readout")).to_have_attribute("aria-live", "polite")
    viewer.keyboard.press("Escape")
    expect(viewer.locator("#readout")).to_have_text("")
    viewer.evaluate(SETTLE)
    assert at(viewer, 275) == before


def is_outline(colour: list[int]) -> bool:
    return min(colour[:3]) > 240


def test_outlines_follow_the_threshold(viewer: Page) -> None:
    show(viewer, opacity=0, regions=True, threshold=0.5)
    assert is_outline(at(viewer, 200)), "between the bands of 51 and 153"
    assert not any(is_outline(at(viewer, x)) for x in (150, 225, 250, 275))
    look(viewer, threshold=0.8)
    assert is_outline(at(viewer, 250))
    assert not is_outline(at(viewer, 200))
    look(viewer, regions=False)
    assert not is_outline(at(viewer, 250))


def test_outlines_close_at_the_edge_of_what_was_seen(viewer: Page) -> None:
    show(viewer, opacity=0, regions=True, threshold=0.8)
    assert is_outline(at(viewer, 299))
    assert not is_outline(at(viewer, 290))


def test_what_the_model_did_not_see_is_hatched(viewer: Page) -> None:
    show(viewer)
    shown = pixels(viewer)
    unseen = np.concatenate([shown[:, :98, 0], shown[:, 302:, 0]], axis=1)
    assert np.median(unseen) < GREY / 2
    assert unseen.max() > np.median(unseen) + 40, "lines, not only a shade"
    expect(viewer.locator("#legend")).to_contain_text("not seen by the model")
    show(viewer, explained() | {"view": {"left": 0, "top": 0, "right": WIDTH, "bottom": HEIGHT}})
    expect(viewer.locator("#legend")).to_be_hidden()
    assert at(viewer, 30) == mixed(0)


def test_swipe_by_keyboard(viewer: Page) -> None:
    show(viewer, mode="swipe")
    viewer.keyboard.press("Tab")
    viewer.keyboard.press("Tab")
    divider = viewer.get_by_role("slider", name="Divider")
    expect(divider).to_be_focused()
    assert at(viewer, 175) == [GREY, GREY, GREY, 255]
    assert at(viewer, 225) == mixed(153)
    viewer.keyboard.press("Home")
    viewer.evaluate(SETTLE)
    assert at(viewer, 175) == mixed(51)
    viewer.keyboard.press("End")
    viewer.evaluate(SETTLE)
    assert at(viewer, 225) == [GREY, GREY, GREY, 255]


def test_swipe_by_mouse(viewer: Page) -> None:
    show(viewer, mode="swipe")
    box = viewer.locator("#view").bounding_box()
    assert box is not None
    viewer.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    viewer.mouse.down()
    viewer.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    viewer.mouse.up()
    viewer.mouse.move(0, 0)
    viewer.evaluate(SETTLE)
    assert at(viewer, 175) == mixed(51)
    assert 20 <= int(viewer.get_by_role("slider", name="Divider").input_value()) <= 30


def test_side_by_side_and_on_a_phone_one_above_the_other(viewer: Page) -> None:
    viewer.evaluate("viewer.style.width = '800px'")
    show(viewer, mode="side")
    shown = pixels(viewer)
    height, width = shown.shape[:2]
    assert shown[height // 2, int(width * 0.495 * 225 / WIDTH)].tolist() == [GREY, GREY, GREY, 255]
    assert shown[height // 2, int(width * (0.505 + 0.495 * 225 / WIDTH))].tolist() == mixed(153)
    viewer.evaluate("viewer.style.width = '360px'")
    viewer.evaluate(SETTLE)
    shown = pixels(viewer)
    height, width = shown.shape[:2]
    assert height > 0.9 * width
    assert shown[height // 4, width * 225 // WIDTH].tolist() == [GREY, GREY, GREY, 255]
    assert shown[height * 3 // 4, width * 225 // WIDTH].tolist() == mixed(153)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("no_positive_evidence", "nothing in this layer speaks for the class"),
        ("zero_gradient", "does not depend on this layer"),
        ("constant", "every place has the same value"),
    ],
)
def test_an_empty_map_says_why(viewer: Page, reason: str, words: str) -> None:
    show(viewer, explained(empty=True, reason=reason, peak=None))
    expect(viewer.locator("#words")).to_contain_text(words)
    expect(viewer.get_by_role("img", name=words)).to_be_visible()
    assert at(viewer, 275, 20) == [GREY, GREY, GREY, 255], "nothing may look like evidence"
    expect(viewer.locator("#scale")).to_be_hidden()


@pytest.mark.parametrize(("mask", "code"), [("AAAA", "invalid_mask"), (None, "no_mask")])
def test_a_mask_that_cannot_be_read_says_so(viewer: Page, mask: str | None, code: str) -> None:
    broken = (
        explained(mask="AAAA") if mask else explained() | {"explanation": explained()["explanation"] | {"mask": None}}
    )
    show(viewer, broken)
    expect(viewer.get_by_role("alert")).to_have_text(
        "The heatmap cannot be read: what came is not a picture."
        if mask
        else "This explanation has no mask: ask for output=mask."
    )
    assert heard(viewer, "error")[0]["code"] == code
    assert at(viewer, 225) == [GREY, GREY, GREY, 255], "the picture stays"
    show(viewer)
    expect(viewer.get_by_role("alert")).to_be_hidden()


def test_a_format_that_the_browser_cannot_show(viewer: Page) -> None:
    show(viewer)
    viewer.evaluate("viewer.picture = new Blob(['II*'], { type: 'image/tiff' })")
    expect(viewer.locator("#words")).to_have_text("This browser cannot show this picture's format.")
    assert heard(viewer, "error")[-1]["code"] == "undisplayable"
    red = png(np.full((HEIGHT, WIDTH, 3), (200, 0, 0), np.uint8))
    overlay = {"media_type": "image/png", "width": WIDTH, "height": HEIGHT, "data": red}
    viewer.evaluate("(answer) => (viewer.explained = answer)", explained(overlay=overlay))
    expect(viewer.locator("#words")).to_be_hidden()
    look(viewer, mode="original")
    assert at(viewer, 225) == [200, 0, 0, 255]


def test_a_picture_by_its_address(viewer: Page) -> None:
    viewer.evaluate("viewer.picture = '/static/samples/03-star.png'")
    viewer.evaluate(SETTLE)
    assert pixels(viewer)[..., 3].all()
    expect(viewer.get_by_role("img", name="The picture")).to_be_visible()


def test_the_view_as_a_picture_of_its_own_resolution(viewer: Page) -> None:
    viewer.evaluate("viewer.style.width = '200px'")
    show(viewer, mode="overlay")
    exported = viewer.evaluate(
        "async () => btoa(Array.from(new Uint8Array(await (await viewer.toBlob()).arrayBuffer()),"
        " (value) => String.fromCharCode(value)).join(''))"
    )
    picture = Image.open(io.BytesIO(base64.b64decode(exported)))
    assert (picture.format, picture.size) == ("PNG", (WIDTH, HEIGHT))
    assert list(picture.convert("RGBA").getpixel((225, 100)) or ()) == mixed(153)  # type: ignore[arg-type]


def test_many_changes_are_one_repaint(viewer: Page) -> None:
    show(viewer)
    frames = viewer.evaluate(
        """async () => {
          const ask = window.requestAnimationFrame;
          let asked = 0;
          window.requestAnimationFrame = (paint) => (asked++, ask(paint));
          for (let step = 0; step < 50; step++) Object.assign(viewer, { threshold: step / 50, opacity: step / 50 });
          window.requestAnimationFrame = ask;
          return asked;
        }"""
    )
    assert frames == 1


def test_looks_are_attributes_too_and_nonsense_is_the_default(viewer: Page) -> None:
    show(viewer)
    viewer.evaluate(
        "Object.entries({ mode: 'heatmap', opacity: '0.2', threshold: '7', regions: '' })"
        ".forEach(([name, value]) => viewer.setAttribute(name, value))"
    )
    read = "[viewer.mode, viewer.opacity, viewer.threshold, viewer.regions]"
    assert viewer.evaluate(read) == ["heatmap", 0.2, 1, True]
    viewer.evaluate("viewer.removeAttribute('regions'); viewer.mode = 'upside-down'; viewer.opacity = 'much'")
    assert viewer.evaluate(read) == ["overlay", 0.55, 1, False]


def test_what_was_set_before_the_script_came_is_kept(open_document: OpenPage) -> None:
    page = open_document("/errors")
    kept = page.evaluate(
        """async () => {
          const viewer = Object.assign(document.createElement("camserve-viewer"), { mode: "swipe", key: "secret" });
          document.body.replaceChildren(viewer);
          await import("/static/camserve-viewer.js");
          return [viewer.mode, viewer.key, viewer.getAttribute("key")];
        }"""
    )
    assert kept == ["swipe", "secret", None]


def test_a_picture_that_is_being_decoded_is_not_called_undisplayable(viewer: Page) -> None:
    hidden = """async () => {
      viewer.picture = await (await fetch("/static/samples/03-star.png")).blob();
      viewer.mode = "side";
      return viewer.shadowRoot.getElementById("words").hidden;
    }"""
    assert viewer.evaluate(hidden) is True


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing(open_page: OpenPage, scheme: str) -> None:
    page = open_page("/embed", color_scheme=scheme)
    page.evaluate(MOUNT, "600px")
    for changes, looks in (
        ({}, {"mode": "swipe"}),
        ({"signed": True, "minimum": -1.0}, {"mode": "side", "regions": True}),
        ({"empty": True, "reason": "constant"}, {}),
    ):
        show(page, explained(**changes), "coolwarm", **looks)
        hover(page, 30, 30)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


# ---- Asking by itself

ASK = """(attributes) => {
  for (const [name, value] of Object.entries(attributes)) viewer.setAttribute(name, value);
}"""
STAR = "/static/samples/03-star.png"


def test_it_asks_about_its_src_and_asks_again_when_an_attribute_changes(viewer: Page) -> None:
    viewer.evaluate(ASK, {"src": STAR, "model": "shapes"})
    expect(viewer.locator("#caption")).to_contain_text("Where shapes finds evidence for “star”")
    expect(viewer.locator("#scale")).to_be_visible()
    viewer.evaluate(ASK, {"against": "disk", "signed": ""})
    expect(viewer.locator("#caption")).to_contain_text("rather than “disk”")
    expect(viewer.locator("#zero")).to_be_visible()
    answers = heard(viewer, "explained")
    assert [answer["explanation"]["signed"] for answer in answers] == [False, True]
    assert answers[0]["result"]["predictions"][0]["label"] == "star"


def test_another_colormap_is_no_other_question(viewer: Page) -> None:
    viewer.evaluate(ASK, {"src": STAR, "mode": "heatmap"})
    expect(viewer.locator("#caption")).to_be_visible()
    viewer.evaluate(ASK, {"colormap": "gray"})
    viewer.wait_for_function("(table) => btoa(String.fromCharCode(...viewer.palette)) === table", arg=table("gray"))
    viewer.evaluate(ASK, {"colormap": "grey"})
    expect(viewer.get_by_role("alert")).to_contain_text("“grey” is no colormap")
    assert len(heard(viewer, "explained")) == 1


def test_pictures_that_browsers_cannot_show_are_shown_by_the_server(viewer: Page) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (120, 80), (0, 120, 0)).save(buffer, "tiff")
    viewer.evaluate(
        "(data) => void viewer.explain(new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))]))",
        base64.b64encode(buffer.getvalue()).decode(),
    )
    expect(viewer.locator("#caption")).to_be_visible()
    expect(viewer.locator("#words")).to_be_hidden()
    look(viewer, mode="original")
    assert pixels(viewer)[40, 60].tolist() == pytest.approx([0, 120, 0, 255], abs=6)


def problem(status: int, code: str, detail: str, **headers: str) -> dict[str, Any]:
    body = json.dumps({"code": code, "detail": detail, "status": status})
    return {"status": status, "body": body, "content_type": "application/problem+json", "headers": headers}


def test_it_waits_for_a_server_that_is_not_ready(failing: Page) -> None:
    loading = problem(503, "not_ready", "The model is loading.", **{"Retry-After": "1"})
    failing.route("**/api/v1/explain", lambda route: route.fulfill(**loading))
    failing.evaluate(ASK, {"src": STAR})
    expect(failing.locator("#status")).to_have_text("The model is loading. Trying again in 1 s.")
    failing.unroute("**/api/v1/explain")
    expect(failing.locator("#caption")).to_contain_text("star")
    expect(failing.locator("#progress")).to_be_hidden()


def test_it_does_not_wait_for_ever(open_document: OpenPage) -> None:
    failing = open_document("/errors", expect_errors=True, alone=True, before=lambda page: page.clock.install())
    failing.evaluate(MOUNT, f"{WIDTH}px")
    tried: list[str] = []

    def answer(route: Route) -> None:
        tried.append(route.request.url)
        # Each in other words: those of the answer before must not be taken for those of this one.
        route.fulfill(**problem(429, "overloaded", f"Refused {len(tried)} times.", **{"Retry-After": "5"}))

    failing.route("**/api/v1/explain", answer)
    failing.evaluate("(src) => void viewer.explain(src)", STAR)
    for count in range(1, 8):
        expect(failing.locator("#status")).to_have_text(f"Refused {count} times. Trying again in 5 s.")
        failing.clock.fast_forward(5000)
    expect(failing.get_by_role("alert")).to_have_text("Refused 8 times.")
    assert len(tried) == 8


def test_waiting_can_be_cancelled_and_taken_up_again(failing: Page) -> None:
    stuck = problem(503, "not_ready", "The model is loading.", **{"Retry-After": "30"})
    failing.route("**/api/v1/explain", lambda route: route.fulfill(**stuck))
    failing.evaluate(ASK, {"src": STAR})
    expect(failing.locator("#status")).to_contain_text("Trying again")
    failing.get_by_role("button", name="Cancel").click()
    expect(failing.get_by_role("alert")).to_have_text("Cancelled.")
    failing.unroute("**/api/v1/explain")
    failing.get_by_role("button", name="Try again").click()
    expect(failing.locator("#caption")).to_contain_text("star")
    expect(failing.get_by_role("alert")).to_be_hidden()


@pytest.mark.parametrize(
    ("attributes", "words", "code"),
    [
        ({"src": "/static/nothing.png"}, "The picture cannot be loaded: 404", "no_picture"),
        ({"src": STAR, "server": "http://127.0.0.1:9"}, "cannot be reached, or does not allow", "unreachable"),
        ({"src": STAR, "target": "sta"}, "Did you mean 'star'", "unknown_label"),
        ({"src": "/static/embed.css"}, "", "invalid_image"),
    ],
)
def test_what_goes_wrong_is_said_in_words(failing: Page, attributes: dict[str, str], words: str, code: str) -> None:
    if "server" in attributes:  # its own policy would forbid to ask elsewhere, which looks the same
        failing.route("http://127.0.0.1:9/**", lambda route: route.abort())
    failing.evaluate(ASK, attributes)
    expect(failing.get_by_role("alert")).to_contain_text(words)
    expect(failing.get_by_role("button", name="Try again")).to_be_visible()
    expect(failing.locator("#progress")).to_be_hidden()
    assert heard(failing, "error")[-1]["code"] == code


def test_a_key_is_sent_as_a_header_and_stands_in_no_address(failing: Page) -> None:
    asked: list[tuple[str, str | None]] = []

    def answer(route: Route) -> None:
        asked.append((route.request.url, route.request.headers.get("authorization")))
        refusal = problem(401, "unauthorized", "An API key is needed.")
        route.continue_() if route.request.headers.get("authorization") else route.fulfill(**refusal)

    failing.route("**/api/v1/**", answer)
    failing.evaluate(ASK, {"src": STAR})
    expect(failing.get_by_role("alert")).to_contain_text("An API key is needed. The page around this must set the key.")
    failing.evaluate("viewer.key = 'secret'; void viewer.explain()")
    expect(failing.locator("#caption")).to_contain_text("star")
    assert asked[-1][1] == "Bearer secret"
    assert not any("secret" in url for url, _ in asked)


def test_the_last_question_wins(viewer: Page) -> None:
    asked = Asked(viewer, hold=True)  # the first is still under way when the last is asked
    viewer.evaluate("(src) => { viewer.setAttribute('src', src); void viewer.explain(); }", STAR)
    asked.wait_for(lambda _: True)
    asked.hold = False
    viewer.evaluate("(src) => void viewer.explain(src)", "/static/samples/08-heart.png")
    expect(viewer.locator("#caption")).to_contain_text("heart")
    assert [form["image"] for form in asked.forms] == [["picture"], ["picture"]], "an attribute and a call ask once"
    assert [answer["explanation"]["target"]["label"] for answer in heard(viewer, "explained")] == ["heart"]
