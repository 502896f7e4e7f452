"""Once it is ready, the service needs no file for a request: nothing is imported then, and nothing opened."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from service.imaging.formats import FORMATS
from tests.protocols.label_studio.test_routes import ASK
from tests.protocols.label_studio.wire import LABELS, STAR, asked, click, config, setup, task, uri
from tests.server import running_server
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


def _of_protocols() -> Iterator[Ask]:
    """Yield what other protocols are asked."""
    one = base64.b64encode(STAR.read_bytes()).decode()
    instances = json.dumps({"instances": [{"image": {"b64": one}}]}).encode()
    for place in ("/v1/models/shapes", "/v1/projects/p/locations/l/endpoints/shapes"):
        for verb in ("predict", "explain"):
            yield "POST", f"{place}:{verb}", JSON, instances, 200
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [one]}
    for outputs in ([], [{"name": "overlay", "parameters": {"binary_data": True}}]):
        body = {"inputs": [tensor], **({"outputs": outputs} if outputs else {})}
        yield "POST", "/v2/models/shapes/infer", JSON, json.dumps(body).encode(), 200
    yield "POST", "/v2/repository/index", JSON, b"{}", 200
    for path in (
        "",
        "/models",
        "/models/stats",
        *(f"/models/shapes{each}" for each in ("", "/ready", "/config", "/stats")),
    ):
        yield "GET", f"/v2{path}", {}, b"", 200
    for verb in ("predictions", "explanations"):
        yield "POST", f"/{verb}/shapes", JSON, json.dumps({"data": one}).encode(), 200
        yield "POST", f"/{verb}/shapes", FORM, _form(png()).replace(b'"image"', b'"data"'), 200
    for path in ("/ping", "/models", "/models/shapes", "/models/shapes/all", "/v1/models", "/v1/models/shapes"):
        yield "GET", path, {}, b"", 200
    label_studio = "/integrations/label-studio"
    yield "GET", f"{label_studio}/health", {}, b"", 200
    yield "GET", f"{label_studio}/versions", {}, b"", 200
    yield "POST", f"{label_studio}/setup", JSON, json.dumps(setup()).encode(), 200
    inline = task(1, uri(STAR))
    yield "POST", f"{label_studio}/predict", JSON, json.dumps(asked([inline])).encode(), 200
    pointed = {"result": [click(50, 50)]}
    smart = config(ASK, f'<PolygonLabels name="outline" toName="image">{LABELS}</PolygonLabels>')
    yield "POST", f"{label_studio}/predict", JSON, json.dumps(asked([inline], smart, pointed)).encode(), 200
    yield "GET", "/integrations/cvat/api/functions", {}, b"", 200
    yield "GET", "/integrations/cvat/api/functions/shapes-mask", {}, b"", 200
    for kind in ("tag", "rectangle", "polygon", "mask", "click"):
        told = {"image": one, **({"pos_points": [[90, 90]]} if kind == "click" else {})}
        headers = {**JSON, "x-nuclio-function-name": f"shapes-{kind}"}
        yield "POST", "/integrations/cvat/api/function_invocations", headers, json.dumps(told).encode(), 200


def _of_operators() -> Iterator[Ask]:
    """Yield what changes something or needs files: models, aliases, evaluations, pages, pictures from elsewhere."""
    body = json.dumps({"architecture": "shapes"}).encode()
    yield "PUT", "/api/v1/models/other?wait=300", JSON, body, 200
    for verb in ("unload", "reload?wait=300"):
        yield "POST", f"/api/v1/models/other/{verb}", {}, b"", 200
    for path in ("/", "/docs", "/embed", "/errors", "/openapi.json", "/static/samples.json", "/static/page/main.js"):
        yield "GET", path, {}, b"", 200
    yield "POST", EXPLAIN + "?verify=true", RAW, STAR.read_bytes(), 200
    elsewhere = json.dumps(asked([task(2, f"/{STAR.name}")])).encode()
    yield "POST", "/integrations/label-studio/predict", JSON, elsewhere, 200
    yield "POST", "/api/v1/evaluations", FORM, _form(STAR.read_bytes()), 202
    yield "GET", "/api/v1/evaluations", {}, b"", 200


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _serving_pictures() -> Iterator[str]:
    """Serve the samples' folder over HTTP; yields its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=STAR.parent)) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def _imported(file: Path) -> set[str]:
    """What a server has imported that lists it in ``file`` when there is an empty one."""
    file.touch()
    deadline = time.monotonic() + 30
    while not (modules := file.read_text()).endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.05)
    file.unlink()
    return set(modules.split())


@pytest.mark.slow
def test_nothing_is_imported_while_requests_are_answered(tmp_path: Path) -> None:
    """In the front of a real server, which has answered nothing but that its models are loaded."""
    file = tmp_path / "modules"
    asks = [*_of_protocols(), *_of_operators(), *_pictures(), *_others()]
    with _serving_pictures() as pictures:
        options = ("--management", "--label-studio-url", pictures, "--log-level", "error")
        with running_server(*options, program=("tests.web.listing", str(file))) as server:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                client.get("/integrations/cvat/nowhere")  # waits until the last of the protocols is imported
                before = _imported(file)
                for method, path, headers, body, status in asks:
                    if "Content-Length" not in headers:  # a client sends none that lies
                        response = client.request(method, path, headers=headers, content=body)
                        assert response.status_code == status, (path, response.text)
            imported = " ".join(sorted(_imported(file) - before))
    assert imported == ""


@pytest.mark.slow
@pytest.mark.parametrize("files", ["files", "no files"])
def test_no_request_imports_or_opens_anything(files: str, tmp_path: Path) -> None:
    """Where the front has run out of descriptors, requests are answered all the same and the worker stays."""
    asks = [*_of_protocols(), *_pictures(), *_others()]
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
