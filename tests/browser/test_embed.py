"""The viewer inside pages of other origins: the documents' own examples, and what they may not do."""

from __future__ import annotations

import base64
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.ready import wait_until_ready
from tests.docs.documents import ROOT
from tests.docs.test_blocks import EXAMPLE_URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import BrowserContext, Frame, Page, Response

    from tests.browser.elsewhere import Elsewhere

    OpenPage = Callable[..., Page]

EXAMPLES = ROOT / "docs" / "examples"
STATIC = (ROOT / "service" / "web" / "static").resolve()
STAR = ROOT / "service" / "demo" / "samples" / "03-star.png"

# A page that keeps what the frame in it says.
EMPTY = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Elsewhere</title>
<link rel="icon" href="data:,"><h1>Elsewhere</h1><iframe id="frame" title="camserve" width="600" height="600"></iframe>
<script>window.said = []; addEventListener("message", (event) => said.push([event.origin, event.data]));</script></html>
"""

# A page under the strictest policy that docs/embedding.md promises to do with: {service} is all that it allows.
STRICT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Strict</title><link rel="icon" href="data:,">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {service};
 connect-src 'self' {service}; img-src data:; require-trusted-types-for 'script'">
<script type="module" src="{service}/static/camserve-viewer.js"></script>
<h1>Strict</h1><camserve-viewer src="picture.png" mode="swipe" regions></camserve-viewer></html>
"""


@dataclass(frozen=True)
class Sites:
    """Three origins: the service, a tool that it allows to embed it, and one that it does not."""

    service: str
    tool: str
    stranger: str


@pytest.fixture(scope="module")
def sites(elsewhere: Elsewhere, server: str) -> Sites:
    """The service, and pages of the tool and of the stranger that embed it."""
    for example in EXAMPLES.glob("*.html"):
        text = example.read_text(encoding="utf-8")
        assert EXAMPLE_URL in text
        served = text.replace(EXAMPLE_URL, server).replace("<head>", '<head><link rel="icon" href="data:,">')
        (elsewhere.folder / example.name).write_text(served, encoding="utf-8")
    (elsewhere.folder / "strict.html").write_text(STRICT.format(service=server), encoding="utf-8")
    (elsewhere.folder / "empty.html").write_text(EMPTY, encoding="utf-8")
    shutil.copy(STAR, elsewhere.folder / "picture.png")
    return Sites(server, elsewhere.tool, elsewhere.stranger)


def embedded(page: Page, address: str) -> Frame:
    """Load an address into the frame of an empty page, and wait until it listens."""
    page.evaluate("(address) => (document.getElementById('frame').src = address)", address)
    expect(page.frame_locator("#frame").get_by_role("heading", name="Where the model looked")).to_be_attached()
    [found] = page.main_frame.child_frames
    wait_until_ready(found)
    # After the page's own listener: what this one has seen, that one has, too. Whoever waits for it gives a function:
    # the page's policy forbids to evaluate a text more than once.
    found.evaluate("window.seen = 0; addEventListener('message', () => window.seen++)")
    return found


def said(page: Page, kind: str) -> list[dict[str, Any]]:
    """The messages of a kind that the page got from its frame."""
    return [data for _, data in page.evaluate("said") if data["type"] == f"camserve:{kind}"]


def wait_for(page: Page, kind: str, count: int = 1) -> dict[str, Any]:
    """Wait for the so-and-so-manieth message of a kind."""
    page.wait_for_function(
        "([kind, count]) => said.filter(([, data]) => data.type === kind).length >= count",
        arg=[f"camserve:{kind}", count],
    )
    return said(page, kind)[count - 1]


def send(page: Page, message: object, origin: str = "*") -> None:
    page.evaluate(
        "([message, origin]) => document.getElementById('frame').contentWindow.postMessage(message, origin)",
        [message, origin],
    )


def data_url() -> str:
    return f"data:image/png;base64,{base64.b64encode(STAR.read_bytes()).decode()}"


def test_the_example_with_a_frame(open_document: OpenPage, sites: Sites) -> None:
    page = open_document(f"{sites.tool}/embed-iframe.html")
    frame = page.frame_locator("#looked")
    expect(frame.get_by_role("img", name="Heatmap for “star”")).to_be_visible()
    expect(page.locator("#said")).to_contain_text("shapes: star")
    page.get_by_role("button", name="Why not a disk?").click()
    expect(frame.get_by_role("img", name="rather than “disk”")).to_be_visible()


def test_the_example_with_the_web_component(open_document: OpenPage, sites: Sites) -> None:
    page = open_document(f"{sites.tool}/web-component.html")
    expect(page.get_by_role("img", name="Heatmap for “star”")).to_be_visible()
    expect(page.locator("#said")).to_contain_text("shapes: star")
    page.get_by_label("Hide what is below").fill("0.5")
    page.get_by_label("Outlines").check()
    assert page.evaluate("[looked.threshold, looked.regions]") == [0.5, True]


def test_every_module_of_the_component_comes_to_a_strict_page_of_another_origin(
    open_document: OpenPage, sites: Sites
) -> None:
    modules: list[Response] = []

    def note(response: Response) -> None:
        if response.request.resource_type == "script":
            modules.append(response)

    page = open_document(f"{sites.tool}/strict.html", before=lambda page: page.on("response", note))
    expect(page.get_by_role("img", name="Heatmap for “star”")).to_be_visible()
    expect(page.get_by_role("slider", name="Divider")).to_be_visible()
    assert {urlsplit(module.url).path for module in modules} == set(modules_of("camserve-viewer.js"))
    for module in modules:
        assert module.url.startswith(sites.service)
        assert module.headers["access-control-allow-origin"] == "*"
        assert module.headers["cross-origin-resource-policy"] == "cross-origin"


def modules_of(entry: str) -> set[str]:
    """The paths of a module and of all that it imports; those of the page are no part of the component."""
    found, waiting = set[Path](), [(STATIC / entry).resolve()]
    while waiting:
        module = waiting.pop()
        found.add(module)
        imported = re.findall(r'from "(\.[\w./-]+)"', module.read_text(encoding="utf-8"))
        waiting += [path for name in imported if (path := (module.parent / name).resolve()) not in found]
    assert not any((STATIC / "page") in module.parents for module in found)
    return {f"/static/{module.relative_to(STATIC).as_posix()}" for module in found}


def test_an_origin_that_is_not_allowed_can_neither_frame_it_nor_ask_it(open_document: OpenPage, sites: Sites) -> None:
    page = open_document(f"{sites.stranger}/embed-iframe.html", expect_errors=True)
    [frame] = page.main_frame.child_frames
    frame.wait_for_url("chrome-error://**")
    page = open_document(f"{sites.stranger}/web-component.html", expect_errors=True)
    expect(page.locator("#said")).to_contain_text("does not allow this page to ask it")


def test_a_picture_by_its_address_from_another_origin(open_page: OpenPage, sites: Sites) -> None:
    address = f"{sites.service}/embed?src={sites.stranger}/picture.png&target=disk&mode=side&regions=true&opacity=0.3"
    page = open_page(f"{address}&origin={quote(sites.tool)}")
    expect(page.get_by_role("img", name="Heatmap for “disk”")).to_be_visible()
    looks = "(({ mode, regions, opacity }) => [mode, regions, opacity])(document.querySelector('camserve-viewer'))"
    assert page.evaluate(looks) == ["side", True, 0.3]


def test_the_conversation(open_document: OpenPage, sites: Sites) -> None:
    page = open_document(f"{sites.tool}/empty.html")
    embedded(page, f"{sites.service}/embed?origin={sites.tool}")
    wait_for(page, "ready")
    send(page, {"type": "camserve:explain", "picture": data_url(), "target": 3, "layer": "layer4"}, sites.service)
    explained = wait_for(page, "explained")
    assert explained["model"]["name"] == "shapes"
    assert explained["predictions"][0]["label"] == explained["explanation"]["target"]["label"] == "star"
    assert explained["explanation"]["maximum"] > 0
    assert not {"mask", "overlay", "heatmap", "map", "regions"} & set(explained["explanation"])
    send(page, {"type": "camserve:set", "against": "disk", "opacity": 0.2}, sites.service)
    assert wait_for(page, "explained", 2)["explanation"]["against"]["label"] == "disk"
    page.frame_locator("#frame").get_by_role("img").first.hover()
    assert wait_for(page, "hover")["seen"] is True
    assert {origin for origin, _ in page.evaluate("said")} == {sites.service}


def test_what_the_server_refuses_is_told(open_document: OpenPage, sites: Sites) -> None:
    page = open_document(f"{sites.tool}/empty.html", expect_errors=True)
    embedded(page, f"{sites.service}/embed?origin={sites.tool}")
    send(page, {"type": "camserve:explain", "picture": data_url(), "target": "nothing"})
    assert wait_for(page, "error")["code"] == "unknown_label"
    send(page, {"type": "camserve:set", "target": None})
    assert wait_for(page, "explained")["explanation"]["target"]["label"] == "star"


def test_a_key_comes_by_message(open_document: OpenPage, sites: Sites) -> None:
    page = open_document(f"{sites.tool}/empty.html")
    embedded(page, f"{sites.service}/embed?origin={sites.tool}")
    with page.expect_request("**/api/v1/explain") as asked:
        send(page, {"type": "camserve:explain", "picture": data_url(), "key": "secret"})
    assert asked.value.headers["authorization"] == "Bearer secret"
    assert "secret" not in asked.value.url
    wait_for(page, "explained")


def test_bytes_and_files_are_pictures_too(open_document: OpenPage, sites: Sites) -> None:
    page = open_document(f"{sites.tool}/empty.html")
    embedded(page, f"{sites.service}/embed?origin={sites.tool}")
    for count, how in enumerate(("arrayBuffer", "blob"), start=1):
        page.evaluate(
            """async (how) => {
              const picture = await (await fetch("picture.png"))[how]();
              document.getElementById("frame").contentWindow.postMessage({ type: "camserve:explain", picture }, "*");
            }""",
            how,
        )
        assert wait_for(page, "explained", count)["explanation"]["target"]["label"] == "star"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("camserve:explain", "a message is an object with a type"),
        (None, "a message is an object with a type"),
        ({"type": "explain"}, "its type is not"),
        ({"type": "camserve:explain"}, "“picture” is not a Blob"),
        ({"type": "camserve:explain", "picture": "https://example.org/cat.jpg"}, "“picture” is not a Blob"),
        ({"type": "camserve:set", "picture": "data:,"}, "a picture comes with camserve:explain"),
        ({"type": "camserve:set", "opacity": "much"}, "“opacity” is not a number from 0 to 1"),
        ({"type": "camserve:set", "opacity": 1.5}, "“opacity” is not a number from 0 to 1"),
        ({"type": "camserve:set", "regions": "yes"}, "“regions” is not true or false"),
        ({"type": "camserve:set", "layer": 4}, "“layer” is not a short text"),
        ({"type": "camserve:set", "target": "x" * 1000}, "“target” is not a short text"),
        ({"type": "camserve:set", "server": "https://example.org"}, "there is no option “server”"),
        ({"type": "camserve:set", "key": 1}, "“key” is not a text"),
    ],
)
def test_a_malformed_message_is_an_error_and_nothing_of_it_is_done(
    framed: tuple[Page, Frame], message: object, words: str
) -> None:
    page, frame = framed
    known = len(said(page, "error"))
    before = attributes(frame)
    send(page, {"mode": "heatmap", **message} if isinstance(message, dict) else message)
    found = wait_for(page, "error", known + 1)
    assert found["code"] == "invalid_message"
    assert words in found["message"]
    assert attributes(frame) == before


def attributes(frame: Frame) -> Any:
    return frame.evaluate("viewer.getAttributeNames()")


@pytest.fixture(scope="module")
def framed(context_with: Callable[..., BrowserContext], sites: Sites) -> Iterator[tuple[Page, Frame]]:
    """A page of the tool with the service in its frame."""
    page = context_with().new_page()
    page.goto(f"{sites.tool}/empty.html")
    yield page, embedded(page, f"{sites.service}/embed?origin={sites.tool}")
    page.close()


# What the frame is told to speak with, while the page around it is the tool's.
@pytest.mark.parametrize(
    "partner",
    [
        "",
        "?origin={stranger}",
        *(pytest.param(f"?origin={odd}", marks=pytest.mark.slow) for odd in ("*", "null", "{tool}/", "tool")),
    ],
)
def test_messages_of_another_origin_are_ignored_and_it_gets_none(
    open_document: OpenPage, sites: Sites, partner: str
) -> None:
    page = open_document(f"{sites.tool}/empty.html", expect_errors=True)  # it warns of an origin that is none
    frame = embedded(page, f"{sites.service}/embed{partner.format(tool=sites.tool, stranger=sites.stranger)}")
    send(page, {"type": "camserve:set", "mode": "heatmap"})
    send(page, {"type": "nonsense"})
    frame.wait_for_function("() => seen === 2")
    assert "mode" not in attributes(frame)
    assert page.evaluate("said") == []


def test_messages_of_other_windows_are_ignored(open_document: OpenPage, sites: Sites) -> None:
    page = open_document(f"{sites.tool}/empty.html")
    frame = embedded(page, f"{sites.service}/embed?origin={sites.tool}")
    page.evaluate(
        """async () => {
          const sibling = document.createElement("iframe"); // of the right origin, but not the page around
          sibling.src = "empty.html";
          await new Promise((loaded) => { sibling.onload = loaded; document.body.append(sibling); });
          const script = sibling.contentDocument.createElement("script");
          script.textContent = "parent.frames[0].postMessage({ type: 'camserve:set', mode: 'heatmap' }, '*')";
          sibling.contentDocument.body.append(script);
        }"""
    )
    frame.wait_for_function("() => seen === 1")
    assert "mode" not in attributes(frame)


def test_nothing_is_kept(open_page: OpenPage, sites: Sites) -> None:
    page = open_page(f"{sites.service}/embed?src=static/samples/03-star.png")
    expect(page.get_by_role("img", name="Heatmap for “star”")).to_be_visible()
    assert page.context.cookies() == []
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing(open_page: OpenPage, sites: Sites, scheme: str) -> None:
    page = open_page(f"{sites.service}/embed", color_scheme=scheme, viewport={"width": 380, "height": 700})
    expect(page.locator("#hint")).to_be_visible()
    assert Axe().run(page).violations_count == 0
    page = open_page(f"{sites.service}/embed?src=static/samples/03-star.png", color_scheme=scheme)
    expect(page.locator("#caption")).to_be_visible()
    expect(page.locator("#hint")).to_be_hidden()
    assert Axe().run(page).violations_count == 0
