"""What the page does when the server is slow, busy, gone or wants a key: it says so, and there is a way out."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.browser.asked import Asked
from tests.browser.ready import wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page, Route

EXPLAIN = re.compile("/explain$")
API = re.compile("/api/v1/")


def problem(status: int, code: str, detail: str, **headers: str) -> dict[str, Any]:
    """An answer as the server words its refusals."""
    body = {
        "type": f"/errors#{code}",
        "title": code,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": "1",
    }
    return {"status": status, "headers": headers, "content_type": "application/problem+json", "body": json.dumps(body)}


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    page = open_page(expect_errors=True)
    expect(page.get_by_role("button", name="Layer")).to_have_text("layer4")
    return page


def cut_off(page: Page) -> None:
    """Let nothing of the API be reached."""
    page.route(API, lambda route: route.abort())


def take_the_star(page: Page) -> None:
    page.get_by_role("button", name="star", exact=True).click()


def is_explained(page: Page) -> None:
    expect(page.locator("#sentence")).to_contain_text("finds evidence for “star”")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_server_that_is_gone(page: Page) -> None:
    page.route(EXPLAIN, lambda route: route.abort())
    take_the_star(page)
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached.")
    page.unroute(EXPLAIN)
    page.get_by_role("button", name="Try again").click()

    is_explained(page)


def test_waiting_is_shown_and_can_be_cancelled(page: Page) -> None:
    asked = Asked(page, hold=True)
    take_the_star(page)
    expect(page.locator("#scene").get_by_role("progressbar", name="Progress")).to_be_visible()
    page.locator("#scene").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("Cancelled.")
    expect(page.get_by_role("button", name="Try again")).to_be_focused()
    asked.hold = False
    page.keyboard.press("Enter")

    is_explained(page)


def test_a_model_that_loads_is_waited_for_in_one_place(open_page: Callable[..., Page]) -> None:
    loading = problem(503, "model_loading", "Model 'shapes' is loading.", **{"Retry-After": "1"})
    asked = re.compile("/explain$|/layers$")

    def refuse(page: Page) -> None:
        page.route(asked, lambda route: route.fulfill(**loading))

    page = open_page("/?sample=03-star.png", expect_errors=True, before=refuse)
    for place in ("#scene", "#panel-problems"):
        expect(page.locator(f"{place} > .waiting [role=status]")).to_contain_text("Model 'shapes' is loading.")
    expect(page.locator("#scene > .waiting [role=status]")).to_be_visible()
    expect(page.locator("#panel-problems > .waiting [role=status]")).to_be_hidden()
    page.unroute(asked)

    is_explained(page)


def test_a_server_that_comes_back_is_asked_again_what_it_offers(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png", expect_errors=True, before=cut_off)
    expect(page.locator("#panel-problems .problem")).to_contain_text("The server cannot be reached.")
    expect(page.locator("#explain-problems").get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("alert").filter(visible=True)).to_have_count(1)
    expect(page.get_by_role("button", name="Use the defaults")).to_be_hidden()
    page.unroute(API)
    page.get_by_role("button", name="Try again").click()

    is_explained(page)
    expect(page.get_by_role("button", name="Layer")).to_have_text("layer4")


def test_nothing_is_waited_for_without_an_end(open_page: Callable[..., Page]) -> None:
    page = open_page(expect_errors=True, alone=True)
    expect(page.get_by_role("button", name="Layer")).to_have_text("layer4")
    page.clock.install()
    asked = Asked(page, hold=True)
    take_the_star(page)
    asked.wait_for(lambda _: True)
    page.clock.fast_forward(71_000)

    expect(page.get_by_role("alert")).to_have_text("The server has not answered for 70 s.")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_a_busy_server_is_asked_again(page: Page) -> None:
    loading = problem(503, "not_ready", "The model is loading.", **{"Retry-After": "1"})
    page.route(EXPLAIN, lambda route: route.fulfill(**loading))
    take_the_star(page)
    expect(page.get_by_text("The model is loading. Trying again in 1 s.")).to_be_visible()
    page.unroute(EXPLAIN)

    is_explained(page)


def test_a_server_that_stays_busy_is_given_up(open_page: Callable[..., Page]) -> None:
    page = open_page(expect_errors=True)
    expect(page.get_by_role("button", name="Layer")).to_have_text("layer4")
    refusal = problem(429, "overloaded", "There are too many requests.", **{"Retry-After": "90"})
    page.route(EXPLAIN, lambda route: route.fulfill(**refusal))
    take_the_star(page)

    expect(page.get_by_role("alert")).to_have_text("There are too many requests.")


def test_a_link_that_fits_no_more(open_page: Callable[..., Page]) -> None:
    page = open_page("/?sample=03-star.png&layer=layer9&method=layercam", expect_errors=True)
    expect(page.get_by_role("alert")).to_contain_text("layer4")
    page.get_by_role("button", name="Use the defaults").click()

    is_explained(page)
    page.wait_for_url("**/?sample=03-star.png")


def test_a_file_that_is_no_picture(page: Page) -> None:
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.get_by_role("alert")).to_contain_text("The bytes are not a picture in a known format.")
    take_the_star(page)

    is_explained(page)


def test_a_server_that_is_gone_from_the_start(open_page: Callable[..., Page]) -> None:
    page = open_page(expect_errors=True, before=cut_off)
    expect(page.locator("#options").get_by_role("alert")).to_have_text("The server cannot be reached.")
    page.unroute(API)
    page.locator("#options").get_by_role("button", name="Try again").click()

    expect(page.get_by_role("button", name="Layer")).to_have_text("layer4")


@pytest.fixture
def locked(open_page: Callable[..., Page]) -> Page:
    """A page whose server wants the key "right"."""

    def ask(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer right":
            route.continue_()
        else:
            route.fulfill(**problem(401, "unauthorized", "Send an API key."))

    return open_page("/?sample=03-star.png", expect_errors=True, before=lambda page: page.route(API, ask))


def test_a_key_is_asked_for_and_kept_for_this_tab(locked: Page) -> None:
    dialog = locked.get_by_role("dialog", name="This server wants a key")
    expect(dialog).to_contain_text("It answers those who have one.")
    expect(locked.get_by_label("API key")).to_be_focused()
    locked.keyboard.type("wrong")
    locked.keyboard.press("Enter")
    expect(dialog).to_contain_text("This key was refused.")
    locked.get_by_label("API key").fill("right")
    locked.get_by_role("button", name="Use this key").click()
    is_explained(locked)
    locked.reload()
    wait_until_ready(locked)

    is_explained(locked)
    expect(dialog).to_be_hidden()
    assert "right" not in locked.url
    locked.get_by_role("button", name="Copy as curl").click()
    expect(locked.locator("#command")).to_contain_text('-H "Authorization: Bearer $CAM_API_KEY"')
    locked.get_by_role("button", name="Copy as Python").click()
    expect(locked.locator("#command")).to_contain_text('api_key=os.environ["CAM_API_KEY"]')
    expect(locked.locator("#command")).not_to_contain_text("right")


def test_whoever_has_no_key_is_told_so(locked: Page) -> None:
    locked.get_by_role("dialog").get_by_role("button", name="Cancel").click()

    expect(locked.get_by_role("alert").first).to_have_text("Send an API key.")


def test_a_key_that_may_not_do_this(page: Page) -> None:
    refusal = problem(403, "forbidden", "This key lacks the scope 'explain'.")
    page.route(EXPLAIN, lambda route: route.fulfill(**refusal))
    take_the_star(page)

    expect(page.get_by_role("alert")).to_have_text("This key lacks the scope 'explain'.")
