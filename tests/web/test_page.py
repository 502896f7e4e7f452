"""The page and its files, without a browser."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import httpx
import pytest
from PIL import Image

from service.settings import Settings
from service.web import pages
from service.web.app import create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

STATIC = Path(pages.__file__).parent / "static"
ASSETS = [f"/static/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*") if path.suffix != ".html"]
ASSETS = sorted(path for path in ASSETS if "." in path)
SCRIPTS = [path for path in ASSETS if path.endswith(".js") and path != "/static/reference.js"]  # that one is Swagger's
ENTRIES = ["/static/page/main.js", "/static/embed.js"]
TYPES = {
    "js": {"text/javascript", "application/javascript"},
    "css": {"text/css"},
    "svg": {"image/svg+xml"},
}
_CONTROLS = {"input", "select", "textarea"}
NO_REQUEST = ("http://www.w3.org/2000/svg", "https://host:port")  # a namespace, and an example in a message


class Elements(HTMLParser):
    """Every element of a document: its tag, its attributes and the text directly after it.

    Attributes:
        labelled: the ids of the controls that have a label, be it around them or by ``for``; ``None`` stands for no id.
    """

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.labelled: list[dict[str, str | None]] = []
        self._in_label = False
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        if tag == "label":
            self._in_label = True
        elif tag in _CONTROLS and self._in_label:
            self.labelled.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self._in_label = False

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)


@pytest.fixture(scope="module")
def application() -> FastAPI:
    """The application, once: what a test asks of it is nothing to the next."""
    return create_app(Settings(allowed_hosts=("camserve.test",)))


@pytest.fixture
async def client(application: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application without its lifespan: the page needs no model and no worker."""
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://camserve.test") as connected:
        yield connected


@pytest.fixture
async def page(client: httpx.AsyncClient) -> Elements:
    return Elements((await client.get("/")).text)


def media_type(response: httpx.Response) -> str:
    return response.headers["content-type"].partition(";")[0]


async def test_the_page_is_html(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.status_code == 200
    assert media_type(response) == "text/html"
    assert response.text.startswith("<!doctype html>")


@pytest.mark.parametrize("path", ASSETS)
async def test_assets_have_their_content_type(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert media_type(response) in TYPES[path.rpartition(".")[2]]
    assert response.headers["cache-control"] == "no-cache"
    # Pages of any origin import the component and its modules.
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert response.content


@pytest.mark.parametrize("path", ["/", *ASSETS])
async def test_nothing_comes_from_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    text = (await client.get(path)).text
    for address in NO_REQUEST:
        text = text.replace(address, "")
    assert not re.search(r"(?:https?:|wss?:|[\"'(=]\s*)//", text)
    assert not re.search(r"@import|\bimport\s*\(|\bfrom\s+[\"'](?!\.{1,2}/)", text)


async def test_the_page_refers_to_files_that_are_served(client: httpx.AsyncClient, page: Elements) -> None:
    references = [
        value for _, attributes, _ in page.found for name in ("src", "href") if (value := attributes.get(name))
    ]
    assert {"static/page/main.js", "static/page/base.css", "static/favicon.svg"} <= set(references)
    for reference in references:
        assert (await client.get(f"/{reference}")).status_code == 200


async def test_the_page_has_no_inline_script_or_style(page: Elements) -> None:
    for tag, attributes, text in page.found:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert not (attributes.get("href") or "").startswith("javascript:")
        if tag == "script":
            assert attributes.get("type") == "module"
            assert not "".join(text).strip()


async def test_every_module_is_reached_from_the_page_or_the_frame(client: httpx.AsyncClient) -> None:
    reached, waiting = set[str](), [*ENTRIES]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        imported = re.findall(r'\bimport (?:[^;]*? from )?"(\.[\w./-]+)"', (await client.get(path)).text)
        waiting += [other for name in imported if (other := urljoin(path, name)) not in reached]
    assert sorted(reached) == SCRIPTS


@pytest.mark.parametrize("path", ["/", "/embed"])
async def test_what_modules_import_is_asked_for_with_the_document(client: httpx.AsyncClient, path: str) -> None:
    """Otherwise each is found when the one that imports it has come: five round trips in place of two."""
    found = Elements((await client.get(path)).text).found
    preloaded = [attributes["href"] for _, attributes, _ in found if attributes.get("rel") == "modulepreload"]
    deep = [path for path in SCRIPTS if path.startswith(("/static/shared/", "/static/viewer/"))]
    assert [f"/{address}" for address in preloaded] == deep


@pytest.mark.parametrize("path", SCRIPTS)
async def test_modules_are_small_enough_to_be_read(client: httpx.AsyncClient, path: str) -> None:
    assert len((await client.get(path)).text.splitlines()) < 300


@pytest.mark.parametrize("path", SCRIPTS)
async def test_the_scripts_write_no_markup(client: httpx.AsyncClient, path: str) -> None:
    script = (await client.get(path)).text
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(\"style", script
    )


async def test_scripts_and_page_agree_on_the_ids(client: httpx.AsyncClient, page: Elements) -> None:
    ids = [value for _, attributes, _ in page.found if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    texts = [(await client.get(path)).text for path in SCRIPTS if path.startswith("/static/page/")]
    used = {name for text in texts for name in re.findall(r"\$\(\"([\w-]+)\"\)", text)}
    assert used
    assert used <= set(ids)


async def test_every_control_has_a_label(page: Elements) -> None:
    by_name = {attributes.get("for") for tag, attributes, _ in page.found if tag == "label"}
    controls = [attributes for tag, attributes, _ in page.found if tag in _CONTROLS]
    assert {"file", "folder", "colormap", "opacity", "threshold", "key"} <= {control.get("id") for control in controls}
    for control in controls:
        assert control.get("id") in by_name or control in page.labelled, control


async def test_samples_are_listed_and_served(client: httpx.AsyncClient) -> None:
    response = await client.get("/static/samples.json")
    assert media_type(response) == "application/json"
    samples = response.json()
    assert {"name": "03-star.png", "title": "star"} in samples
    assert {"name": "watermark-star.png", "title": "star with a watermark"} in samples
    assert not [sample for sample in samples if "mask" in sample["name"]]
    for sample in samples:
        picture = await client.get(f"/static/samples/{sample['name']}")
        assert media_type(picture) == "image/png"
        with Image.open(io.BytesIO(picture.content)) as opened:
            opened.verify()


@pytest.mark.parametrize("name", ["nothing.png", "03-star.mask.png", "..%2Flabels.txt", "%2e%2e%2flabels.txt"])
async def test_nothing_but_samples_is_served_as_a_sample(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/static/samples/{name}")).status_code == 404
