from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from service.problems import STATUS

if TYPE_CHECKING:
    import httpx

LOADED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["']([^"']+)["']""")
ELSEWHERE = re.compile(r"""(?:url\(|import\s*\(?|from|fetch\()\s*["']?(?:https?:)?//""")


@pytest.mark.parametrize("path", ["/", "/docs", "/errors", "/embed"])
async def test_a_page_works_without_the_internet(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert not ELSEWHERE.search(response.text)
    for address in LOADED.findall(response.text):
        if address.startswith("data:"):
            continue
        found = await client.get(str(response.url.join(address)))
        assert response.url.host == found.url.host, f"{address} is loaded from elsewhere"
        assert found.status_code == 200, f"{address} is missing"


async def test_the_reference_reads_the_document(client: httpx.AsyncClient) -> None:
    assert 'src="static/reference.js"' in (await client.get("/docs")).text
    assert 'url: "openapi.json"' in (await client.get("/static/reference.js")).text
    assert (await client.get("/openapi.json")).json()["info"]["title"] == "camserve"


@pytest.mark.parametrize("code", STATUS)
async def test_every_error_is_explained_where_its_type_leads(client: httpx.AsyncClient, code: str) -> None:
    page = (await client.get("/errors")).text
    sections = re.findall(rf'<h2 id="{code.replace("_", "-")}">(.*?)</h2><p>(.*?)</p>', page, re.DOTALL)
    assert len(sections) == 1
    ((heading, text),) = sections
    assert code in heading
    assert str(STATUS[code]) in heading
    assert len(text) > 10
    assert "Attributes:" not in text


async def test_nothing_outside_the_static_folder(client: httpx.AsyncClient) -> None:
    for path in ("/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/"):
        assert (await client.get(path)).status_code == 404
