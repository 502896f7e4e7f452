"""One picture on the page: how it comes in, what is asked of it, and what is said of it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import httpx
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.asked import SAMPLES, Asked, HeldModels, form_of
from tests.browser.ready import wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Locator, Page, Route

STAR = SAMPLES / "03-star.png"


@pytest.fixture
def explained(open_page: Callable[..., Page]) -> Page:
    """The page with a sample explained."""
    page = open_page("/?sample=03-star.png")
    expect(page.locator("#sentence")).to_contain_text("finds evidence for “star”")
    return page


def class_row(page: Page, label: str) -> Locator:
    """The button of a prediction."""
    return page.get_by_role("list", name="Predictions").locator(".class", has_text=label)


def search(page: Page) -> Locator:
    """The field of the picker that is open."""
    return page.locator(".picker:popover-open").get_by_role("combobox")


def options(page: Page) -> Locator:
    """What the picker that is open lists."""
    return page.locator(".picker:popover-open").get_by_role("option")


def test_a_first_visitor_is_told_what_to_do(page: Page) -> None:
    expect(page.get_by_text("Drop a picture here, paste one, or choose one.")).to_be_visible()
    page.get_by_role("button", name="Try a sample").click()

    expect(page.locator("#sentence")).to_contain_text("finds evidence for “star”")


def test_a_file_is_shown_at_once_and_explained_by_one_request(page: Page) -> None:
    asked = Asked(page, hold=True)
    page.locator("#file").set_input_files(STAR)

    expect(page.locator("camserve-viewer")).to_be_visible()
    expect(page.locator("#sentence")).to_have_text("03-star.png")
    assert page.locator("#viewer").evaluate("viewer => viewer.picture.size") == STAR.stat().st_size
    asked.release()
    expect(page.locator("#sentence")).to_contain_text("Where shapes finds evidence for “star”")
    assert len(asked.forms) == 1
    assert asked.forms[0]["output"] == ["mask"]


def test_a_picture_is_pasted(page: Page) -> None:
    page.evaluate(
        """async (data) => {
             const transfer = new DataTransfer();
             const bytes = Uint8Array.from(data);
             transfer.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
             document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
           }""",
        list(STAR.read_bytes()),
    )

    expect(page.locator("#sentence")).to_contain_text("“star”")


def test_a_picture_is_dropped(page: Page) -> None:
    page.evaluate(
        """async (data) => {
             const transfer = new DataTransfer();
             transfer.items.add(new File([Uint8Array.from(data)], "dropped.png", { type: "image/png" }));
             const about = { dataTransfer: transfer, bubbles: true, cancelable: true };
             for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, about));
           }""",
        list(STAR.read_bytes()),
    )

    expect(page.locator("#sentence")).to_contain_text("“star”")


def drop(page: Page, *paths: Path) -> None:
    """Drop files or folders in the middle of the page, as a person would."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}

    def send(kind: str) -> None:
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})

    send("dragEnter")
    send("dragOver")
    expect(page.locator("body")).to_have_class(re.compile("dragging"))
    send("drop")


def test_what_browsers_do_not_show_is_shown_all_the_same(page: Page) -> None:
    tiff = io.BytesIO()
    Image.open(STAR).save(tiff, "TIFF")
    page.locator("#file").set_input_files({"name": "star.tif", "mimeType": "image/tiff", "buffer": tiff.getvalue()})

    expect(page.locator("#sentence")).to_contain_text("“star”")
    assert page.locator("#viewer").evaluate("viewer => viewer.picture").startswith("data:image/jpeg;base64,")


def test_predictions_have_their_shares(explained: Page) -> None:
    rows = explained.get_by_role("list", name="Predictions").get_by_role("listitem")
    expect(rows).to_have_count(5)
    first = rows.first.get_by_role("button").first
    expect(first).to_have_text(re.compile(r"star\s*9\d\.\d%"))
    expect(first).to_have_attribute("aria-pressed", "true")
    share = first.evaluate("row => parseFloat(row.style.getPropertyValue('--share'))")
    assert share == pytest.approx(float(first.inner_text().split()[-1].rstrip("%")), abs=0.06)


def test_why_this_class(explained: Page) -> None:
    asked = Asked(explained)
    class_row(explained, "cross").click()

    expect(explained.locator("#sentence")).to_contain_text("evidence for “cross”")
    assert asked.forms[-1]["target"] == ["#4"]
    expect(class_row(explained, "cross")).to_be_focused()
    expect(class_row(explained, "cross")).to_have_attribute("aria-pressed", "true")


def test_why_this_rather_than_that(explained: Page) -> None:
    asked = Asked(explained)
    explained.get_by_role("button", name="vs cross").click()

    expect(explained.locator("#sentence")).to_contain_text("“star” (95.1%) rather than “cross”")
    assert asked.forms[-1]["against"] == ["#4"]
    explained.get_by_role("button", name="Compare with no class").click()
    expect(explained.locator("#sentence")).not_to_contain_text("rather than")
    assert "against" not in asked.forms[-1]


def test_any_class_is_found_by_its_label(explained: Page) -> None:
    asked = Asked(explained)
    explained.get_by_role("button", name="Explaining").click()
    search(explained).fill("hour")
    expect(options(explained)).to_have_count(1)
    explained.keyboard.press("Enter")

    expect(explained.locator("#sentence")).to_contain_text("“hourglass”")
    assert asked.forms[-1]["target"] == ["#7"]
    expect(explained.get_by_role("list", name="Predictions").get_by_role("listitem")).to_have_count(6)


def test_what_is_typed_is_taken_though_its_list_comes_late(explained: Page) -> None:
    def answer_late(route: Route) -> None:
        explained.keyboard.press("Enter")
        route.continue_()

    explained.route(re.compile("q=hour"), answer_late)
    explained.get_by_role("button", name="Explaining").click()
    expect(options(explained).first).to_be_visible()
    search(explained).fill("hour")

    expect(explained.locator("#sentence")).to_contain_text("“hourglass”")


def test_any_class_can_be_compared_with(explained: Page) -> None:
    explained.get_by_role("button", name="rather than", exact=False).first.click()
    search(explained).fill("moon")
    expect(explained.get_by_text("Nothing matches “moon”.")).to_be_visible()
    search(explained).fill("cres")
    explained.get_by_role("option", name="crescent").click()

    expect(explained.locator("#sentence")).to_contain_text("rather than “crescent”")


def test_a_sentence_is_explained_where_the_classes_are_sentences(open_page: Callable[..., Page]) -> None:
    """The embedded model's answer, as a zero-shot model would give it."""

    def zero_shot(route: Route) -> None:
        body = httpx.get(route.request.url, timeout=60).json()
        body["models"][0]["prompts"] = "a photo of a {}"
        route.fulfill(json=body)

    def with_sentence(route: Route) -> None:
        asked.append(form_of(route.request)["target"])
        body = (route.request.post_data_buffer or b"").replace(b"text:a red star", b"star")
        headers = {"Content-Type": route.request.headers["content-type"]}
        answer = httpx.post(route.request.url, content=body, headers=headers, timeout=60).json()
        for explanation in answer["results"][0]["explanations"]:
            explanation["target"] = {"index": 12, "label": "a red star", "probability": 0.25, "logit": 1.0}
        route.fulfill(json=answer)

    asked: list[list[str]] = []
    page = open_page("/?sample=03-star.png", before=lambda page: page.route(re.compile(r"/models$"), zero_shot))
    expect(page.locator("#sentence")).to_contain_text("finds evidence for “star”")
    page.route(re.compile(r"/explain$"), with_sentence)
    page.locator("#target").click()
    search(page).fill("a red star")
    expect(options(page)).to_have_text(["“a red star”explained as one more class"])
    search(page).press("Enter")

    expect(page.locator("#target")).to_have_text("a red star")
    assert asked == [["text:a red star"]]
    expect(class_row(page, "a red star")).to_have_attribute("aria-pressed", "true")
    assert "target=text%3Aa+red+star" in page.url

    page.locator("#target").click()
    search(page).fill("x" * 500)  # more than labels are searched by
    expect(options(page)).to_have_text([f"“{'x' * 500}”explained as one more class"])


def test_how_sure_it_is_is_said(explained: Page) -> None:
    expect(explained.locator("#sureness")).to_contain_text("Entropy 0.13")
    expect(explained.locator("#sureness")).to_contain_text("Margin 0.95")


def test_layers_are_grouped_and_say_what_they_are(explained: Page) -> None:
    asked = Asked(explained)
    explained.get_by_role("button", name="Layer").click()
    groups = explained.get_by_role("listbox", name="Layer").get_by_role("group")
    expect(groups.first).to_have_accessible_name("Recommended")
    expect(groups.nth(1)).to_have_accessible_name("Stage 1: 48 × 48 cells")
    expect(groups.first.get_by_role("option").first).to_contain_text("★ recommended")
    refused = explained.get_by_role("option", name="fc").last
    expect(refused).to_be_disabled()
    assert len(refused.inner_text()) > len("fc") + 10, "it says why"
    refused.click(force=True)
    expect(explained.get_by_role("listbox")).to_be_visible()
    search(explained).fill("layer2")
    explained.get_by_role("option", name="layer2").first.click()

    expect(explained.locator("#sentence")).to_contain_text("at layer2")
    expect(explained.get_by_role("button", name="Layer")).to_be_focused()
    assert asked.forms[-1]["layer"] == ["layer2"]


def test_methods_say_what_they_show_and_why_not(explained: Page) -> None:
    asked = Asked(explained)
    explained.get_by_role("button", name="vs cross").click()
    explained.get_by_role("button", name="Method").click()
    listed = explained.get_by_role("listbox", name="Method")
    expect(listed.get_by_role("option", name="LayerCAM")).to_contain_text("Activations weighted by positive gradients")
    expect(listed.get_by_role("option", name="LeGrad")).to_contain_text("it needs a transformer")
    expect(listed.get_by_role("option", name="LeGrad")).to_be_disabled()
    expect(listed.get_by_role("option", name="Eigen-CAM")).to_contain_text("it knows no classes")
    listed.get_by_role("option", name="HiResCAM").click()

    expect(explained.locator("#sentence")).to_contain_text("by HiResCAM")
    assert asked.forms[-1]["method"] == ["hirescam"]


def test_more_options_are_sent(explained: Page) -> None:
    asked = Asked(explained)
    explained.get_by_text("More options").click()
    explained.get_by_label("For and against").check()
    expect(explained.get_by_label("Colours", exact=True)).to_have_value("coolwarm")
    explained.get_by_label("Average with the mirrored picture").check()
    explained.get_by_label("Average over noisy copies").select_option("4")

    expect(explained.locator("#scene")).to_have_attribute("aria-busy", "false")
    asked.wait_for(lambda form: form.get("smooth") == ["4"])
    assert asked.forms[-1]["signed"] == ["true"]
    assert asked.forms[-1]["augment"] == ["flip"]


def test_the_model_has_a_card(explained: Page) -> None:
    explained.get_by_role("button", name="Model").click()
    explained.get_by_role("option", name="shapes-shortcut").click()
    expect(explained.locator("#sentence")).to_contain_text("Where shapes-shortcut finds evidence")
    explained.get_by_text("About the model").click()
    card = explained.locator("#card")
    for text in ("shapes-shortcut", "96 × 96 px", "the centre is cut out", "12", "layer4", "embedded", "cpu"):
        expect(card).to_contain_text(text)


def test_an_answer_that_comes_before_the_lists_gets_their_words_and_a_list_opened_early_is_filled(
    open_page: Callable[..., Page],
) -> None:
    page = open_page("/?sample=03-star.png")
    lists = HeldModels(page)
    page.reload()
    wait_until_ready(page)
    expect(page.locator("#sentence")).to_contain_text("for “star”")
    page.locator("#layer").click()
    expect(search(page)).to_be_focused()
    expect(page.locator("#sentence")).to_contain_text("by gradcam")
    lists.release()

    expect(page.locator(".picker:popover-open [data-value=layer3]").first).to_be_visible()
    expect(page.locator("#sentence")).to_contain_text("by Grad-CAM")


def test_an_empty_map_is_explained_in_words(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png&layer=layer2&target=1")
    sentence = page.locator("#sentence")
    expect(sentence).to_contain_text("The map for “square” (0.5%) at layer2, by Grad-CAM is empty.")
    expect(sentence).to_contain_text("Nothing in this layer speaks for the class")
    expect(sentence).to_contain_text("Try another class or layer")


def test_no_more_is_asked_for_than_is_shown(explained: Page) -> None:
    asked = Asked(explained)
    class_row(explained, "gear").click()
    asked.wait_for(lambda form: form["target"] == ["#11"])

    side = int(asked.forms[-1]["max_side"][0])
    box = explained.locator("#scene").bounding_box()
    assert box is not None
    assert side <= max(box["width"], box["height"]) + 64
    assert asked.forms[-1]["output"] == ["mask"]


def test_what_was_chosen_last_stays_whatever_arrives_last(page: Page) -> None:
    late: list[Route] = []
    page.route("**/static/samples/00-disk.png", lambda route: late.append(route))  # noqa: PLW0108 -- it is given attributes
    page.get_by_role("button", name="disk", exact=True).click()
    page.get_by_role("button", name="star", exact=True).click()
    expect(page.locator("#sentence")).to_contain_text("“star”")
    with page.expect_response("**/static/samples/00-disk.png"):
        late.pop().continue_()

    expect(page.locator("#sentence")).to_contain_text("“star”")
    assert page.locator("#viewer").evaluate("viewer => viewer.picture.name") == "03-star.png"
