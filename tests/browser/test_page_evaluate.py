"""Which layer? Measuring layers from the page: what is asked, what is told while it runs, and what came out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from service.evaluation.recommendation import LEAST_PICTURES
from tests.browser.asked import SAMPLES, HeldModels
from tests.browser.evaluating import ROUTES, SKIPPED, Evaluations, done, entry
from tests.browser.ready import wait_until_ready
from tests.browser.test_page_access import DESKTOP, PHONE, check, tab_to
from tests.browser.test_page_failures import API, problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Locator, Page, Route

FORM = "/?tab=evaluate&samples=true"


def evaluate(page: Page) -> None:
    page.get_by_role("button", name="Evaluate", exact=True).click()


def entries(page: Page) -> Locator:
    return page.get_by_role("list", name="Evaluations").get_by_role("listitem")


@pytest.fixture
def opened(open_page: Callable[..., Page]) -> Callable[..., tuple[Page, Evaluations]]:
    """Open a path where these evaluations are known: the page, and what stands for the server."""

    def opened(path: str, *known: dict[str, object], **options: object) -> tuple[Page, Evaluations]:
        made: list[Evaluations] = []
        page = open_page(path, before=lambda page: made.append(Evaluations(page, *known)), **options)
        return page, made[0]

    return opened


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_the_form_says_what_is_compared(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, server = opened("/?tab=evaluate")
    expect(page.get_by_role("heading", name="Which layer?")).to_be_visible()
    expect(page.get_by_role("button", name="Evaluate", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Take the samples").last.click()
    expect(page.locator("#evaluate-count")).to_have_text("15 pictures.")
    expect(page.locator("#evaluate-few")).to_contain_text("with 100, differences of a tenth show")
    expect(page.locator("#evaluate-model")).to_have_text("shapes")
    expect(page.locator("#evaluate-layers")).to_have_text("the suggested ones")
    expect(page.locator("#evaluate-methods")).to_have_text("Grad-CAM")
    expect(page.get_by_text("Localisation is measured only where objects are marked.")).to_be_visible()

    page.locator("#masks").set_input_files([SAMPLES / "03-star.mask.png", SAMPLES / "00-disk.mask.png"])
    expect(page.locator("#marks-said")).to_have_text("2 masks")
    page.locator("#evaluate-layers").click()
    for layer in ("layer3", "layer4"):
        page.locator(f'#evaluate-view [role=option][data-value="{layer}"]').first.click()
    page.keyboard.press("Escape")
    expect(page.locator("#evaluate-layers")).to_have_text("layer3, layer4")
    page.get_by_label("Class: what speaks").uncheck()
    evaluate(page)
    expect(page.get_by_role("heading", name="shapes on 15 pictures")).to_be_focused()

    (form,) = server.forms
    assert len(form["image"]) == 15
    assert {name: form[name] for name in ("mask", "layer", "method", "purpose")} == {
        "mask": ["03-star.mask.png", "00-disk.mask.png"],
        "layer": ["layer3", "layer4"],
        "method": ["gradcam"],
        "purpose": ["localisation", "faithfulness"],
    }


def test_masks_go_with_the_folders_they_lay_in(opened: Callable[..., tuple[Page, Evaluations]], tmp_path: Path) -> None:
    for name in ("00-disk.png", "00-disk.mask.png"):
        for place in ("ann", "bob"):
            (tmp_path / "set" / place).mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / place / name).write_bytes((SAMPLES / name).read_bytes())
    page, server = opened("/?tab=evaluate")
    page.locator("#folder").set_input_files(tmp_path / "set")
    expect(page.locator("#marks-said")).to_have_text("2 masks")
    evaluate(page)
    expect(page.locator("#evaluation")).to_be_visible()
    (form,) = server.forms
    assert form["image"] == ["set/ann/00-disk.png", "set/bob/00-disk.png"]
    assert sorted(form["mask"]) == ["set/ann/00-disk.mask.png", "set/bob/00-disk.mask.png"]


def test_masks_of_pictures_that_have_gone_go_too(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, server = opened("/?tab=evaluate")
    page.locator("#masks").set_input_files([SAMPLES / "03-star.mask.png", SAMPLES / "00-disk.mask.png"])
    page.locator("#file").set_input_files([SAMPLES / "03-star.png", SAMPLES / "00-disk.png"])
    expect(page.locator("#evaluate-count")).to_have_text("2 pictures.")
    expect(page.locator("#marks-said")).to_have_text("2 masks")
    page.locator("#file").set_input_files([SAMPLES / "03-star.png", SAMPLES / "01-square.png"])
    expect(page.locator("#marks-said")).to_have_text("1 mask")
    page.locator("#file").set_input_files([SAMPLES / "01-square.png", SAMPLES / "02-triangle.png"])
    expect(page.locator("#marks-said")).to_be_empty()
    evaluate(page)
    expect(page.locator("#evaluation")).to_be_visible()
    (form,) = server.forms
    assert "mask" not in form


def test_masks_go_with_their_pictures_before_it_is_known_what_is_served(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=evaluate")
    lists = HeldModels(page)
    page.reload()
    wait_until_ready(page)
    page.locator("#masks").set_input_files([SAMPLES / "03-star.mask.png", SAMPLES / "00-disk.mask.png"])
    page.locator("#file").set_input_files([SAMPLES / "03-star.png", SAMPLES / "00-disk.png"])
    expect(page.locator("#evaluate-count")).to_have_text("2 pictures.")
    page.locator("#file").set_input_files([SAMPLES / "03-star.png", SAMPLES / "01-square.png"])
    expect(page.locator("#marks-said")).to_have_text("1 mask")
    expect(page.locator("#evaluate-model")).to_have_text("…")
    lists.release()
    expect(page.locator("#evaluate-model")).to_have_text("shapes")
    expect(page.locator("#marks-said")).to_have_text("1 mask")


def test_few_pictures_are_said_to_be_too_few(opened: Callable[..., tuple[Page, Evaluations]], tmp_path: Path) -> None:
    page, server = opened("/?tab=evaluate")
    (tmp_path / "marks.json").write_text('{"images": [], "annotations": [], "categories": []}')
    page.locator("#file").set_input_files([SAMPLES / "03-star.png", tmp_path / "marks.json"])
    expect(page.locator("#evaluate-count")).to_have_text("1 picture.")
    expect(page.locator("#evaluate-few")).to_contain_text("With fewer than 10 pictures no layer can be recommended")
    expect(page.locator("#marks-said")).to_have_text("marks.json")
    evaluate(page)
    expect(page.get_by_role("heading", name="shapes on")).to_be_visible()
    assert server.forms[0]["image"] == ["03-star.png"]
    assert "annotations" in server.forms[0]


def test_the_page_knows_how_many_pictures_are_the_least(page: Page) -> None:
    source = page.request.get(f"{page.url}static/page/measured.js").text()
    assert re.findall(r"^const LEAST = (\d+);", source, re.MULTILINE) == [str(LEAST_PICTURES)]


# -- what is told -----------------------------------------------------------------------------------------------------


def test_a_run_is_followed_to_its_result(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, server = opened(FORM)
    expect(page.locator("#evaluate-count")).to_have_text("15 pictures.")
    server.listen()
    evaluate(page)
    page.wait_for_url("**evaluation=one**")
    server.tell(entry())
    state = page.locator("#evaluation-state")
    expect(state).to_have_text("Taking pixels away")
    expect(page.locator("#evaluation-left")).to_have_text(" · 40% · about 70 seconds left")
    expect(page.get_by_role("progressbar", name="How much is evaluated")).to_have_js_property("value", 0.4)
    expect(page.get_by_role("button", name="Open the report")).to_be_hidden()
    server.tell(done(skipped=SKIPPED))

    expect(state).to_have_text("Done")
    expect(page.locator("#evaluation-cancel")).to_be_hidden()
    purposes = page.get_by_role("list", name="Recommendations").get_by_role("listitem")
    expect(purposes.first).to_contain_text("For showing what the model uses, use layer3.")
    expect(purposes.first).to_contain_text("Cannot be told apart: layer3, layer4.")
    expect(purposes.last).to_contain_text("No object is marked.")
    expect(page.get_by_role("list", name="Warnings about the maps")).to_contain_text("same_regions")
    rows = page.get_by_role("table", name="Figures").get_by_role("row")
    expect(rows).to_have_count(5)
    expect(rows.nth(1)).to_contain_text("★ faithfulness")
    expect(rows.nth(1)).to_contain_text("0.42 0.37 to 0.47")
    expect(rows.nth(2)).to_contain_text("not always better beyond doubt than a random map")
    expect(rows.nth(3)).to_contain_text("never recommended: it has a single cell")
    expect(rows.nth(4)).to_contain_text("to beat: a random map")
    page.get_by_text("1 file left out").click()
    expect(page.locator("#skipped-list")).to_have_text("set/broken.png: The bytes are no picture.")


def test_a_layer_is_taken(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, _ = opened("/?tab=evaluate&evaluation=one", done())
    page.get_by_role("button", name="Use this layer layer3").click()
    expect(page.locator("#evaluation-used")).to_contain_text("this page explains with layer3, by Grad-CAM")
    expect(page.locator("#use-line")).to_have_text('layer = "layer3"')
    assert parse_qs(urlsplit(page.url).query)["layer"] == ["layer3"]
    page.get_by_role("button", name="Use layer4").click()
    expect(page.locator("#is-default")).to_be_visible()
    page.get_by_role("button", name="Use layer3").click()
    page.locator("#tab-explain").click()
    expect(page.locator("#layer")).to_contain_text("layer3")


def test_a_layer_becomes_the_default_where_models_may_be_changed(
    opened: Callable[..., tuple[Page, Evaluations]],
) -> None:
    page, _ = opened("/?tab=evaluate&evaluation=one", done(), expect_errors=True)
    page.get_by_role("button", name="Use this layer layer3").click()
    button = page.get_by_role("button", name="Make it the default for everybody")
    expect(button).to_be_hidden()
    expect(page.locator("#use-for")).to_have_text("For everybody, and for requests that name no layer:")

    layer = "layer4"

    def models(route: Route) -> None:
        listed = route.fetch().json()
        listed["models"][0]["default_layer"] = layer
        route.fulfill(json={**listed, "management": "allowed"})

    asked: list[str] = []

    def reload(route: Route) -> None:
        nonlocal layer
        asked.append(route.request.url)
        if len(asked) == 1:
            return route.fulfill(
                status=409, json={"status": 409, "code": "model_busy", "detail": "It is being loaded."}
            )
        layer = "layer3"
        return route.fulfill(json={})

    page.route("**/api/v1/models", models)
    page.route("**/reload?*", reload)
    page.reload()
    page.get_by_role("button", name="Use this layer layer3").click()
    expect(page.locator("#use-for")).to_have_text("For good:")
    button.click()
    expect(page.locator("#use-problem")).to_contain_text("It is being loaded.")
    button.click()
    expect(page.locator("#is-default")).to_be_visible()
    expect(button).to_be_hidden()
    expect(page.locator("#use-doing")).to_be_visible()
    expect(page.locator("#use-doing")).to_contain_text("layer3 is the default layer of shapes now.")
    expect(page.get_by_role("heading", name="shapes on 15 pictures")).to_be_focused()
    assert parse_qs(urlsplit(asked[1]).query) == {"wait": ["300"], "layer": ["layer3"]}


def test_what_is_offered_for_a_layer_waits_for_what_the_server_offers(
    opened: Callable[..., tuple[Page, Evaluations]],
) -> None:
    page, _ = opened("/?tab=evaluate&evaluation=one", done())
    lists = HeldModels(page)
    page.reload()
    wait_until_ready(page)
    page.get_by_role("button", name="Use this layer layer3").click()
    button = page.get_by_role("button", name="Make it the default for everybody")
    expect(button).to_be_hidden()
    (route,) = lists.routes
    route.fulfill(json={**route.fetch().json(), "management": "allowed"})
    expect(button).to_be_visible()
    expect(page.locator("#use-for")).to_have_text("For good:")


def test_the_report_is_opened(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, _ = opened("/?tab=evaluate&evaluation=one", done())
    link = page.get_by_role("link", name="Open the report")
    expect(link).to_have_attribute("href", "api/v1/evaluations/one/report")
    expect(link).to_have_attribute("target", "_blank")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the report").click()
    assert download.value.suggested_filename == "which-layer-shapes.html"
    assert "Which layer of shapes?" in download.value.path().read_text()


def test_what_breaks_off_is_taken_up_again(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, server = opened("/?tab=evaluate&evaluation=one", entry())  # its events end, and it has not
    expect(page.locator("#evaluation-state")).to_have_text("Taking pixels away")
    server.known["one"] = done()
    expect(page.locator("#evaluation-state")).to_have_text("Done")


# -- ending one -------------------------------------------------------------------------------------------------------


def test_a_run_is_cancelled(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, server = opened("/?tab=evaluate&evaluation=one", entry())
    page.locator("#evaluation-cancel").click()
    said = page.locator("#evaluations-said")
    expect(said).to_have_text("The evaluation of shapes on 15 pictures was cancelled, and nothing of it is kept.")
    expect(page.locator("#evaluation")).to_be_hidden()
    assert "evaluation" not in parse_qs(urlsplit(page.url).query)
    assert server.known == {}


def test_one_that_is_cancelled_elsewhere_says_so(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, _ = opened("/?tab=evaluate&evaluation=one", entry(state="cancelled"))
    expect(page.locator("#evaluation-problem")).to_have_text("It was cancelled, and nothing of it is kept.")
    expect(page.locator("#evaluation-state")).to_have_text("Cancelled")


def test_the_list_leads_to_each_and_deletes(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, server = opened("/?tab=evaluate", done("old", images=40), entry("new"))
    expect(entries(page)).to_have_count(2)
    expect(entries(page).first).to_contain_text("runs: 40%")  # the newest comes first
    entries(page).last.get_by_role("button", name="shapes, 40 pictures of").first.click()
    expect(page.get_by_role("heading", name="shapes on 40 pictures")).to_be_visible()
    expect(entries(page).last.locator("[aria-current=true]")).to_be_visible()

    delete = entries(page).last.get_by_role("button", name="Delete…")
    dialog = page.get_by_role("dialog", name="Delete the evaluation of shapes on 40 pictures?")
    delete.click()
    dialog.get_by_role("button", name="Keep it").click()
    assert set(server.known) == {"old", "new"}
    delete.click()
    dialog.get_by_role("button", name="Delete it").click()
    expect(page.locator("#evaluations-said")).to_have_text("The evaluation of shapes on 40 pictures was deleted.")
    expect(entries(page)).to_have_count(1)

    entries(page).get_by_role("button", name="Cancel…").click()
    dialog = page.get_by_role("dialog", name="Cancel the evaluation of shapes on 15 pictures?")
    dialog.get_by_role("button", name="Cancel it").click()
    expect(page.locator("#evaluations-said")).to_contain_text("was cancelled, and nothing of it is kept.")
    assert server.known == {}


# -- when it does not work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (429, "too_many_evaluations", "Two evaluations wait or run already."),
        (413, "request_too_costly", "The model would run 90,000 times: name fewer layers."),
        (503, "unavailable", "The disk is full."),
    ],
)
def test_a_refusal_is_said_in_the_services_words(
    opened: Callable[..., tuple[Page, Evaluations]], status: int, code: str, words: str
) -> None:
    page, server = opened(FORM, expect_errors=True)
    refusal = problem(status, code, words, **{"Retry-After": "90"})

    def refuse(route: Route) -> None:
        route.fulfill(**refusal) if route.request.method == "POST" else route.fallback()

    page.route(ROUTES, refuse)
    evaluate(page)
    expect(page.get_by_role("alert").filter(visible=True)).to_have_text(words)
    page.unroute(ROUTES, refuse)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="shapes on 15 pictures")).to_be_visible()
    assert len(server.forms) == 1


def test_an_evaluation_that_failed_or_is_gone_says_so(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    failed = entry(state="failed", stage=None, eta_s=None, reason="Memory ran out: name fewer layers.")
    page, _ = opened("/?tab=evaluate&evaluation=one", failed, expect_errors=True)
    expect(page.locator("#evaluation-problem")).to_have_text("Memory ran out: name fewer layers.")
    expect(page.locator("#evaluation-state")).to_have_text("Failed")
    page.goto(page.url.replace("=one", "=other"))
    expect(page.locator("#evaluation-problem")).to_have_text("No evaluation has this id.")


# -- with keys --------------------------------------------------------------------------------------------------------


def test_a_key_goes_with_all_that_is_asked(open_page: Callable[..., Page]) -> None:
    made: list[Evaluations] = []

    def lock(page: Page) -> None:
        made.append(Evaluations(page, done()))
        page.route(API, ask)

    def ask(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.fallback()
        else:
            route.fulfill(**problem(401, "unauthorized", "Send an API key."))

    page = open_page("/?tab=evaluate&evaluation=one", expect_errors=True, before=lock)
    page.get_by_label("API key").fill("right")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#evaluation-state")).to_have_text("Done")
    expect(page.get_by_role("link", name="Open the report")).to_be_hidden()
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Open the report").click()
    report = popup.value
    expect(report.get_by_role("heading", name="Which layer of shapes?")).to_be_visible()
    assert report.url.startswith("blob:")
    report.close()
    assert {path for _, path, _ in made[0].asked} >= {"/one", "/one/events", "/one/report"}
    assert {key for _, _, key in made[0].asked} == {"Bearer right"}


# -- whoever comes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "viewport"),
    [
        pytest.param("light", PHONE, id="phone"),
        pytest.param("dark", DESKTOP, id="dark", marks=pytest.mark.slow),
    ],
)
def test_every_state_is_accessible(
    opened: Callable[..., tuple[Page, Evaluations]], scheme: str, viewport: dict[str, int]
) -> None:
    manner = {"color_scheme": scheme, "viewport": viewport, "reduced_motion": "reduce"}
    page, server = opened(FORM, entry("other"), done(skipped=SKIPPED), **manner)
    expect(page.locator("#evaluate-count")).to_have_text("15 pictures.")
    expect(entries(page)).to_have_count(2)
    check(page, "form")
    server.listen()
    entries(page).filter(has_text="runs").get_by_role("button").first.click()
    server.tell(entry("other"))
    expect(page.locator("#evaluation-state")).to_have_text("Taking pixels away")
    check(page, "running")
    server.tell(done("other", skipped=SKIPPED))
    page.get_by_role("button", name="Use this layer layer3").click()
    page.get_by_text("1 file left out").click()
    check(page, "done")
    entries(page).first.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check(page, "dialog")


def test_it_is_done_with_a_keyboard_alone(opened: Callable[..., tuple[Page, Evaluations]]) -> None:
    page, server = opened("/?tab=evaluate")
    tab_to(page, "button", "Take the samples")
    page.keyboard.press("Enter")
    expect(page.locator("#evaluate-count")).to_have_text("15 pictures.")
    server.listen()
    tab_to(page, "button", "Evaluate")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="shapes on 15 pictures")).to_be_focused()
    server.tell(entry())
    tab_to(page, "button", "Cancel")
    server.tell(done())
    expect(page.locator("#evaluation-state")).to_have_text("Done")
    for role, name in (("link", "Open the report"), ("region", "Figures of all candidates"), ("button", "Use layer4")):
        tab_to(page, role, name)
    page.keyboard.press("Enter")
    expect(page.locator("#evaluation-used")).to_contain_text("layer4")


# -- the service itself -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_service_measures_two_layers(open_page: Callable[..., Page]) -> None:
    page = open_page(f"{FORM}&compare=layer3&compare=layer4&purpose=class")
    expect(page.locator("#evaluate-count")).to_have_text("15 pictures.")
    evaluate(page)
    expect(page.get_by_role("progressbar", name="How much is evaluated")).to_be_visible()
    expect(page.locator("#evaluation-state")).to_have_text("Done", timeout=180_000)
    expect(page.get_by_role("list", name="Recommendations").get_by_role("listitem")).to_have_count(1)
    figures = page.get_by_role("table", name="Figures")
    for layer in ("layer3", "layer4"):
        expect(figures.get_by_role("row").filter(has=page.get_by_role("rowheader", name=layer))).to_have_count(1)
    with page.expect_popup() as popup:
        page.get_by_role("link", name="Open the report").click()
    expect(popup.value.get_by_role("heading").first).to_be_visible()
    popup.value.close()
    entries(page).first.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.locator("#evaluations-said")).to_contain_text("was deleted")
