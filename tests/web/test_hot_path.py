"""Once it is ready, the service needs no file for a request: nothing is imported then, and nothing opened."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from service.imaging.formats import FORMATS
from tests.toys import encode, png

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Asks for everything in a process that has asked for nothing yet; only the first request is free to import, for it
# brings what the client needs. With "no files", none can be opened from then on.
_ASK_FOR_EVERYTHING = """
import asyncio, base64, json, resource, sys
from service.settings import ModelConfig
from tests.web.application import served

async def main(requests, files):
    models = (ModelConfig(architecture="shapes"),)
    async with served(models=models, threads=1) as application, application.client() as client:
        await client.get("/livez")
        before, worker = set(sys.modules), application.explainer.workers()[0].pid
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == "no files":
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        answers = []
        for method, path, headers, body in requests:
            response = await client.request(method, path, headers=headers, content=base64.b64decode(body))
            answers.append(response.status_code)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        replaced = application.explainer.workers()[0].pid != worker
    return {"imported": sorted(set(sys.modules) - before), "answers": answers, "replaced": replaced}

print(json.dumps(asyncio.run(main(json.load(sys.stdin), sys.argv[1]))))
"""

EXPLAIN = "/api/v1/explain"
RAW, JSON = {"Content-Type": "image/png"}, {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=B"}
Ask = tuple[str, str, dict[str, str], bytes, int]


def _form(picture: bytes) -> bytes:
    head = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    return head + picture + b"\r\n--B--\r\n"


def _pictures() -> Iterator[Ask]:
    """Yield pictures of every kind, drawn in every way, and the status that answers them."""
    photo = Image.linear_gradient("L").convert("RGB")
    for kind in FORMATS:
        if FORMATS[kind].is_there and kind in Image.SAVE:
            yield "POST", EXPLAIN, {"Content-Type": "application/octet-stream"}, encode(photo, kind), 200
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        yield "POST", EXPLAIN, RAW, encode(Image.linear_gradient("L").convert(mode), "PNG"), 200
    for mode in ("CMYK", "L"):
        yield "POST", EXPLAIN, RAW, encode(photo.convert(mode), "JPEG"), 200
    for output in ("heatmap", "overlay", "mask", "map", "regions"):
        for image_format in ("auto", "png", "jpeg", "webp"):
            yield "POST", f"{EXPLAIN}?output={output}&image_format={image_format}", RAW, png(), 200
    for more in ("signed=true&method=hirescam", "fuse=mean&layer=layer3&layer=layer4", "smooth=4", "against=star"):
        yield "POST", f"{EXPLAIN}?{more}", RAW, png(), 200
    for accept in ("image/png", "image/jpeg", "image/webp"):
        yield "POST", EXPLAIN, RAW | {"Accept": accept}, png(), 200


def _others() -> Iterator[Ask]:
    """Yield other encodings, refusals of every kind, and whatever else there is to ask for."""
    one = base64.b64encode(png()).decode()
    yield "POST", EXPLAIN, JSON, json.dumps({"images": [{"b64": one}], "target": ["top-2"]}).encode(), 200
    yield "POST", "/api/v1/predict", FORM, _form(png()), 200
    yield "POST", "/api/v1/predict", FORM, _form(png()).replace(b"--B--", b""), 400
    yield "POST", EXPLAIN, JSON, b'{"images": [{"b64": "', 400
    yield "POST", EXPLAIN, JSON, b'{"images": 5}', 400
    yield "POST", EXPLAIN, RAW, png()[:60], 400
    yield "POST", EXPLAIN, RAW, b"not a picture", 400
    yield "POST", EXPLAIN, {"Content-Type": "text/plain"}, b"", 415
    yield "POST", EXPLAIN, RAW | {"Content-Length": "99999999999"}, b"", 413
    yield "POST", EXPLAIN, RAW | {"X-Request-Timeout-Ms": "1"}, png(), 504
    for wrong in ("layer=layer9", "target=starr", "method=gradcan", "colormap=turbot", "alpha=2", "layer=fc"):
        yield "POST", f"{EXPLAIN}?{wrong}", RAW, png(), 422
    yield "POST", EXPLAIN, RAW | {"Origin": "https://evil.example"}, png(), 403
    paths = ("methods", "colormaps", "models", "models/shapes", "models/shapes/layers", "models/shapes/classes?q=st")
    for path in ("/livez", "/readyz", "/metrics", "/version", *(f"/api/v1/{path}" for path in paths)):
        yield "GET", path, {}, b"", 200
    yield "GET", "/metrics", {"Accept": "application/openmetrics-text"}, b"", 200
    yield "GET", "/nowhere", {}, b"", 404
    yield "GET", EXPLAIN, {}, b"", 405


@pytest.mark.slow
@pytest.mark.parametrize("files", ["files", "no files"])
def test_no_request_imports_or_opens_anything(files: str, tmp_path: Path) -> None:
    """Where the front has run out of descriptors, requests are answered all the same and the worker stays."""
    asks = [*_pictures(), *_others()]
    sent = [(method, path, headers, base64.b64encode(body).decode()) for method, path, headers, body, _ in asks]
    found = subprocess.run(
        [sys.executable, "-c", _ASK_FOR_EVERYTHING, files],
        input=json.dumps(sent),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    said: dict[str, Any] = json.loads(found.stdout)
    assert said["imported"] == [], said["imported"]
    assert [(ask[1], status) for ask, status in zip(asks, said["answers"], strict=True)] == [
        (ask[1], ask[4]) for ask in asks
    ]
    assert not said["replaced"]
