"""The models on the page: what is told of them and, where they may be changed, adding, replacing and removing them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.asked import Asked, HeldModels
from tests.browser.test_page_access import DESKTOP, PHONE, check, tab_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page, Route

LISTED = re.compile("/api/v1/models$")


def put(url: str, name: str, **config: Any) -> None:
    """Have a model served, beside the page."""
    body = {"architecture": "tests.user_models.one_head", "size": 32, "version": "one", **config}
    answer = httpx.put(f"{url}/api/v1/models/{name}", params={"wait": 60}, json=body, timeout=90)
    assert answer.status_code == 200, answer.text


def slowly(seconds: float) -> dict[str, Any]:
    """The configuration of a model that takes a while to load."""
    return {"architecture": "tests.user_models.slow", "factory_args": {"seconds": seconds}}


def card(page: Page, name: str) -> Locator:
    return page.locator(".model").filter(has=page.get_by_role("heading", name=name, exact=True))


def state(page: Page, name: str) -> Locator:
    return card(page, name).locator(".state")


def fill(page: Page, name: str, architecture: str, keys: str = "") -> None:
    """Fill the form in and send it."""
    if not page.locator("#add").evaluate("element => element.open"):
        page.get_by_text("Add a model, or replace one").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Path or architecture").fill(architecture)
    if keys:
        if not page.locator("#add-more").evaluate("element => element.open"):
            page.get_by_text("Advanced").click()
        page.get_by_label("Further keys").fill(keys)
    page.get_by_role("button", name="Load it").click()


def told(page: Page, change: Callable[[dict[str, Any]], None]) -> None:
    """Have the server's list come changed."""

    def answer(route: Route) -> None:
        # At once: a page that closes does not wait for Playwright to fetch it.
        body = httpx.get(route.request.url, timeout=60).json()
        change(body)
        route.fulfill(body=json.dumps(body), content_type="application/json")

    page.route(LISTED, answer)


# -- what is told -----------------------------------------------------------------------------------------------------


def test_everybody_reads_what_is_served_and_how_it_may_be_changed(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=models")
    expect(page.get_by_role("heading", name="Models: 2")).to_be_visible()
    shapes = card(page, "shapes")
    expect(state(page, "shapes")).to_have_text("Ready")
    expect(shapes).to_contain_text("default")
    for term, text in {
        "Classes": "12",
        "Device": "cpu",
        "Source": "embedded",
        "Precision": "float32",
        "Convolutions": "folded with what follows them",
        "Default layer": "layer4",
        "Parameters": "401,148",
        "Memory": "4.81 MB with each worker",
    }.items():
        row = shapes.locator(".facts > div").filter(has=page.get_by_text(term, exact=True))
        expect(row.get_by_role("definition")).to_have_text(text)
    expect(shapes.get_by_role("list", name="Versions").get_by_role("listitem")).to_contain_text("ready, answers")

    expect(page.locator("#models-management")).to_contain_text("Models are only shown here")
    expect(page.locator("#models-management")).to_contain_text("camserve serve --management")
    for name in ("Reload", "Unload", "Remove…"):
        expect(shapes.get_by_role("button", name=name)).to_be_hidden()
    expect(page.get_by_text("Add a model")).to_be_hidden()
    expect(page.get_by_text("Point an alias").first).to_be_hidden()


def test_the_layers_are_listed_and_a_model_is_taken_to_the_picture(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=models&sample=03-star.png")
    other = card(page, "shapes-shortcut")
    other.get_by_text("Layers", exact=True).click()
    rows = other.get_by_role("region", name="Layers of shapes-shortcut").get_by_role("row")
    default = rows.filter(has=page.get_by_role("rowheader", name="layer4 default", exact=True))
    expect(default).to_contain_text("from (")
    expect(rows.filter(has_text="cannot be explained").first).to_be_visible()
    expect(other.get_by_role("status").filter(has_text="can be explained")).to_contain_text("80 layers, 78 of which")

    other.get_by_role("button", name="Use").click()
    expect(page.locator("#sentence")).to_contain_text("Where shapes-shortcut finds evidence")
    page.go_back()
    expect(other).to_be_visible()


def test_warnings_have_words_and_codes(open_page: Callable[..., Page], managed: str) -> None:
    page = open_page(f"{managed}/?tab=models")
    warnings = card(page, "sure").get_by_role("list", name="Warnings about sure").get_by_role("listitem")
    expect(warnings).to_have_count(1)
    expect(warnings).to_contain_text("The outputs are probabilities already")
    expect(warnings.locator("code")).to_have_text("probabilities")
    expect(card(page, "shapes").get_by_role("list", name="Warnings")).to_have_count(0)


def test_a_key_without_the_scope_only_reads(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=models", before=lambda page: told(page, lambda body: body.update(management="forbidden")))
    expect(page.locator("#models-management")).to_contain_text("not with your key")
    expect(page.get_by_role("button", name="Reload shapes", exact=True)).to_be_hidden()
    page.get_by_role("button", name="Use another key…").click()
    expect(page.get_by_role("dialog")).to_contain_text("Give one that has the scope manage.")


# -- changing ---------------------------------------------------------------------------------------------------------


def test_a_model_is_added_and_what_is_wrong_is_said_where_it_was_typed(
    open_page: Callable[..., Page], managed: str
) -> None:
    page = open_page(f"{managed}/?tab=models", expect_errors=True)
    problem = page.locator("#add-problem")
    fill(page, "birds", "/etc/passwd")
    expect(problem).to_contain_text("'/etc/passwd' lies in none of the folders of the setting model_dirs.")
    fill(page, "birds", "tests.user_models.slow", "size = 32\nlables = birds.txt")
    expect(problem).to_have_text("lables: a model has no such key. Did you mean 'labels'?")
    fill(page, "birds", "tests.user_models.slow", "size = 32\nlayer")
    expect(problem).to_contain_text("Line 2 of the further keys")

    fill(page, "birds", "tests.user_models.slow", "size = 32\nfactory_args.seconds = 4")
    expect(problem).to_be_hidden()
    expect(state(page, "birds")).to_contain_text("Loading: ")
    expect(card(page, "birds").get_by_role("progressbar", name="How much of birds is loaded")).to_be_visible()
    expect(page.locator("#models-said")).to_have_text("birds is ready.")
    expect(state(page, "birds")).to_have_text("Ready")
    expect(page.get_by_role("heading", name="birds")).to_be_focused()
    expect(page.get_by_label("Name", exact=True)).to_be_hidden()


@pytest.mark.slow
def test_what_is_typed_of_the_next_model_stays(open_page: Callable[..., Page], managed: str) -> None:
    page = open_page(f"{managed}/?tab=models")
    fill(page, "first", "tests.user_models.slow", "size = 32\nfactory_args.seconds = 3")
    page.get_by_label("Name", exact=True).fill("second")
    expect(page.locator("#models-said")).to_have_text("first is ready.")
    expect(page.locator("#add-said")).to_be_empty()
    expect(page.get_by_label("Name", exact=True)).to_have_value("second")


@pytest.mark.slow
def test_a_model_that_was_put_out_says_how_far_it_is_when_it_is_asked(
    open_page: Callable[..., Page], managed: str
) -> None:
    put(managed, "lazy", **slowly(5))
    page = open_page(f"{managed}/?tab=models")
    card(page, "lazy").get_by_role("button", name="Unload").click()
    expect(state(page, "lazy")).to_have_text("Put out of memory: loaded again when it is asked")
    card(page, "lazy").get_by_role("button", name="Use").click()
    expect(page.locator("#model-note")).to_have_text("Put out of memory: loaded again when it is asked.")
    page.get_by_role("button", name="star", exact=True).click()

    expect(page.locator("#scene .waiting [role=status]")).to_have_text(
        "Model lazy is being loaded: reading its weights."
    )
    expect(page.locator("#sentence")).to_contain_text("Where lazy finds evidence")
    expect(page.locator("#model-note")).to_be_hidden()


def test_a_model_that_cannot_be_loaded_keeps_what_was_typed(open_page: Callable[..., Page], managed: str) -> None:
    page = open_page(f"{managed}/?tab=models")
    fill(page, "broken", "tests.user_models.fails")
    expect(page.locator("#add-problem")).to_contain_text("the recipe is missing")
    expect(page.get_by_label("Name", exact=True)).to_have_value("broken")
    expect(state(page, "broken")).to_have_text("Failed")
    expect(card(page, "broken").locator("p.problem")).to_contain_text("the recipe is missing")
    expect(card(page, "broken").get_by_role("button", name="Use")).to_be_hidden()


@pytest.mark.slow
def test_a_bad_replacement_leaves_the_version_that_answers(open_page: Callable[..., Page], managed: str) -> None:
    put(managed, "swapped")
    page = open_page(f"{managed}/?tab=models")
    expect(state(page, "swapped")).to_have_text("Ready")
    fill(page, "swapped", "tests.user_models.fails")
    expect(page.locator("#add-problem")).to_contain_text("the recipe is missing")
    swapped = card(page, "swapped")
    expect(state(page, "swapped")).to_have_text("Ready")
    expect(swapped.locator("p.problem")).to_contain_text("The version that was to replace it could not be loaded: ")
    expect(swapped.get_by_role("list", name="Versions").get_by_role("listitem")).to_contain_text(
        ["oneready, answers", "the recipe is missing"]
    )


@pytest.mark.slow
def test_a_replaced_model_has_the_layers_of_the_new_one(open_page: Callable[..., Page], managed: str) -> None:
    put(managed, "changing")
    page = open_page(f"{managed}/?tab=models&model=changing&sample=03-star.png")
    changing = card(page, "changing")
    changing.get_by_text("Layers", exact=True).click()
    expect(changing.get_by_role("rowheader", name="body default", exact=True)).to_be_visible()
    put(managed, "changing", architecture="shapes", size=96, version="two")

    expect(changing.get_by_role("rowheader", name="layer4 default", exact=True)).to_be_visible()
    expect(changing.get_by_role("list", name="Versions").get_by_role("listitem")).to_contain_text(["two"])
    changing.get_by_role("button", name="Use").click()
    expect(page.locator("#sentence")).to_contain_text("at layer4")


@pytest.mark.slow
def test_an_alias_is_pointed_moved_and_removed(open_page: Callable[..., Page], managed: str) -> None:
    put(managed, "named")
    page = open_page(f"{managed}/?tab=models", expect_errors=True)
    named = card(page, "named")
    named.get_by_text("Point an alias to a version").click()
    named.get_by_label("Alias").fill("shapes")
    lists = HeldModels(page)  # a refusal can be answered before the models are read again
    named.get_by_role("button", name="Point it here").click()
    expect(named.get_by_role("alert")).to_contain_text("'shapes'")

    named.get_by_label("Alias").fill("stable")
    with page.expect_response(re.compile("/aliases/stable$")):
        named.get_by_role("button", name="Point it here").click()
    lists.release()
    versions = named.get_by_role("list", name="Versions").get_by_role("listitem")
    expect(versions).to_contain_text(["stable"])
    expect(named.get_by_role("alert")).to_be_hidden()

    put(managed, "named", version="two")
    expect(versions).to_have_count(2)
    named.get_by_role("combobox", name="Version").select_option("two")
    named.get_by_role("button", name="Point it here").click()
    expect(versions).to_have_count(1)
    expect(versions).to_contain_text(["two"])
    assert httpx.get(f"{managed}/api/v1/aliases", timeout=60).json()["aliases"] == [
        {"alias": "stable", "model": "named", "version": "two"}
    ]
    named.get_by_role("button", name="Remove the alias stable").click()
    expect(named.get_by_text("stable", exact=True)).to_have_count(0)


@pytest.mark.slow
def test_a_model_is_removed_once_that_is_confirmed(open_page: Callable[..., Page], managed: str) -> None:
    put(managed, "gone")
    page = open_page(f"{managed}/?tab=models", expect_errors=True)
    button = card(page, "gone").get_by_role("button", name="Remove…")
    for tab in ("Gallery", "Models"):
        page.get_by_role("link", name=tab).click()
    button.click()
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.go_forward()
    button.click()
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(card(page, "gone")).to_be_visible()

    button.click()
    page.get_by_role("dialog", name="Remove gone?").get_by_role("button", name="Remove it").click()
    expect(page.locator("#models-said")).to_have_text("gone was removed.")
    expect(card(page, "gone")).to_have_count(0)
    expect(page.locator("#models-view")).to_be_focused()
    assert httpx.get(f"{managed}/api/v1/models/gone", timeout=60).status_code == 404

    card(page, "shapes").get_by_role("button", name="Remove…").click()
    page.get_by_role("button", name="Remove it").click()
    expect(card(page, "shapes").get_by_role("alert")).to_contain_text("'shapes' is the default model")


@pytest.mark.slow
def test_a_model_that_is_reloaded_answers_meanwhile(open_page: Callable[..., Page], managed: str) -> None:
    put(managed, "again", **slowly(5))
    page = open_page(f"{managed}/?tab=models")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    button = card(page, "again").get_by_role("button", name="Reload")
    button.dblclick()
    expect(button).to_be_disabled()
    button.click(force=True)
    assert len(sent) == 1
    expect(state(page, "again")).to_contain_text("Ready; the next version is on its way: ")
    expect(state(page, "again")).to_have_text("Ready")


@pytest.mark.slow
def test_models_are_managed_with_a_keyboard_alone(open_page: Callable[..., Page], managed: str) -> None:
    page = open_page(f"{managed}/?tab=models")
    expect(state(page, "shapes")).to_have_text("Ready")
    page.locator("#add > summary").focus()
    page.keyboard.press("Enter")
    tab_to(page, "textbox", "Name")
    page.keyboard.type("typed")
    page.keyboard.press("Tab")
    page.keyboard.type("tests.user_models.one_head")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="typed")).to_be_focused()
    tab_to(page, "button", "Remove… typed")
    page.keyboard.press("Enter")
    tab_to(page, "button", "Remove it")
    page.keyboard.press("Enter")
    expect(card(page, "typed")).to_have_count(0)


# -- reading again ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_asked_while_nobody_looks_and_nothing_moves_while_somebody_does(
    open_page: Callable[..., Page],
) -> None:
    page = open_page("/?tab=models")
    expect(state(page, "shapes")).to_have_text("Ready")
    page.locator(".model").first.get_by_text("Layers", exact=True).click()
    expect(page.get_by_role("region", name="Layers of shapes", exact=True)).to_be_visible()
    page.wait_for_timeout(600)  # what moves within half a second of a click is meant to
    page.evaluate(
        """() => {
             window.moved = 0;
             new PerformanceObserver((list) => list.getEntries().forEach(({ value }) => (window.moved += value)))
               .observe({ type: "layout-shift" });
           }"""
    )
    with page.expect_request(LISTED, timeout=10_000):
        pass
    page.wait_for_timeout(300)
    assert page.evaluate("window.moved") == 0
    assert page.locator(".model details[open]").count() == 1

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    page.evaluate(f"{hide} document.dispatchEvent(new Event('visibilitychange')); }}", True)
    page.wait_for_timeout(6500)
    assert asked == []
    with page.expect_request(LISTED, timeout=2000):
        page.evaluate(f"{hide} document.dispatchEvent(new Event('visibilitychange')); }}", False)

    page.get_by_role("link", name="Picture", exact=True).click()
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(6500)
    assert asked == []


@pytest.mark.slow
def test_a_server_that_is_gone_is_told_and_read_again_when_it_is_back(open_page: Callable[..., Page]) -> None:
    page = open_page("/?tab=models", expect_errors=True)
    expect(state(page, "shapes")).to_have_text("Ready")
    page.route(LISTED, lambda route: route.abort())
    expect(page.locator("#models-said")).to_have_text("This is not up to date. The server cannot be reached.")
    expect(card(page, "shapes")).to_be_visible()
    page.unroute(LISTED)
    expect(page.locator("#models-said")).to_be_hidden()


@pytest.mark.slow
def test_other_views_wait_for_a_model_that_was_put_out_too(open_page: Callable[..., Page], managed: str) -> None:
    put(managed, "later", **slowly(3))
    page = open_page(f"{managed}/?tab=grid&model=later&sample=03-star.png")
    expect(page.locator(".cell img").first).to_be_visible()
    httpx.post(f"{managed}/api/v1/models/later/unload", timeout=60).raise_for_status()
    asked = Asked(page)
    page.get_by_role("button", name="heart", exact=True).click()
    expect(page.locator("#grid-problems .waiting [role=status]")).to_contain_text("Model later is being loaded")
    expect(page.locator("#grid-caption")).to_contain_text("08-heart.png")
    assert len(asked.forms) == 1


# -- whoever comes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_models_are_accessible(
    open_page: Callable[..., Page], managed: str, scheme: str, viewport: dict[str, int]
) -> None:
    options = {"color_scheme": scheme, "viewport": viewport, "reduced_motion": "reduce"}
    page = open_page("/?tab=models", **options)
    expect(state(page, "shapes")).to_have_text("Ready")
    check(page, "models, only shown")

    page = open_page(f"{managed}/?tab=models", expect_errors=True, **options)
    expect(state(page, "shapes")).to_have_text("Ready")
    for closed in ("Layers", "Point an alias to a version"):
        card(page, "sure").get_by_text(closed, exact=True).click()
    expect(card(page, "sure").get_by_role("region")).to_be_visible()
    fill(page, "x", "/etc/passwd", "size = 3")
    expect(page.locator("#add-problem")).to_be_visible()
    check(page, "models, with everything open")
    card(page, "sure").get_by_role("button", name="Remove…").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check(page, "removing")


def test_the_longest_names_find_room(open_page: Callable[..., Page]) -> None:
    long = "v" * 100

    def change(body: dict[str, Any]) -> None:
        model = body["models"][0]
        version = {**model["versions"][0], "version": long, "aliases": ["a" * 100, *(f"alias-{n}" for n in range(30))]}
        failed: dict[str, Any] = {
            "version": None,
            "state": "failed",
            "reason": "/r" * 300,
            "current": False,
            "aliases": [],
        }
        warning = {"code": "c" * 100, "text": "w" * 400}
        body["management"] = "allowed"
        body["models"][0] = {
            **model, "name": "n" * 100, "architecture": "/x" * 200, "default_layer": "l" * 200, "version": long,
            "heads": {"h" * 100: 3, "k" * 100: 2}, "warnings": [warning], "versions": [version, {**version, **failed}],
        }  # fmt: skip

    page = open_page("/?tab=models", viewport=PHONE, before=lambda page: told(page, change))
    page.get_by_text("Point an alias to a version").first.click()
    expect(page.get_by_role("button", name="Point it here").first).to_be_visible()
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0


def test_what_is_on_its_way_is_accessible(open_page: Callable[..., Page]) -> None:
    coming = {"version": None, "state": "loading", "reason": None, "progress": 0.3, "stage": "measuring layers"}
    bad = {"version": None, "state": "failed", "reason": "It is damaged.", "progress": 0.0, "stage": None}
    rest = {"current": False, "aliases": ["stable"]}

    def change(body: dict[str, Any]) -> None:
        body["management"] = "allowed"
        body["models"][0]["versions"] += [coming | rest, bad | rest]

    page = open_page("/?tab=models", viewport=PHONE, before=lambda page: told(page, change))
    expect(state(page, "shapes")).to_have_text("Ready; the next version is on its way: measuring its layers")
    expect(card(page, "shapes").locator(".share")).to_have_text("30%")
    check(page, "models on their way")
