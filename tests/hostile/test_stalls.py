"""The event loop does constant work: no request makes it stand still, whatever there is a lot of."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from tests.server import running_server
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.alone]

STALL_S = 0.1
TRIES = 4
MIB = 2**20
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=B"}
SMALL = png(size=(16, 16))
B64 = base64.b64encode(SMALL).decode()


def noise(side: int) -> bytes:
    return png(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))


def part(name: str, data: bytes, *lines: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in lines)
    return f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n{head}\r\n'.encode() + data + b"\r\n"


IMAGE = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + SMALL + b"\r\n"
END = b"--B--\r\n"


def options(*pairs: tuple[str, str], **headers: str) -> dict[str, Any]:
    return {"params": pairs, "content": SMALL, "headers": {"Content-Type": "image/png", **headers}}


def body(text: str | bytes) -> dict[str, Any]:
    return {"content": text, "headers": JSON}


def form(content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": FORM}


# Each as large as it may come in.
AWKWARD: dict[str, Callable[[], dict[str, Any]]] = {
    "names": lambda: options(*((f"n{i}", "") for i in range(8000))),
    "values": lambda: options(*(("target", "1") for _ in range(6000))),
    "empty names": lambda: {"content": SMALL, "params": "&" * 60_000, "headers": {"Content-Type": "image/png"}},
    "a long name": lambda: options(("x" * 60_000, "1")),
    "a long label": lambda: options(("target", "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 6000)),
    "labels that are not known": lambda: options(*(("target", f"nothing {i}") for i in range(250))),
    "a long accept": lambda: options(Accept="image/png;q=0.1," * 3500),
    "a long key": lambda: options(Authorization="Bearer " + "x" * 60_000),
    "base64 with spaces": lambda: body(f'{{"images": [{{"b64": "{"AA " * (10 * MIB)}"}}]}}'),
    "base64 of noise": lambda: body(f'{{"images": [{{"b64": "{"QUJD" * (7 * MIB)}"}}]}}'),
    "padding everywhere": lambda: body(f'{{"images": [{{"b64": "{"AA==" * (7 * MIB)}"}}]}}'),
    "lists in lists": lambda: body("[" * (30 * MIB)),
    "keys": lambda: body(json.dumps({f"n{i}": i for i in range(500_000)})),
    "as many keys as are read": lambda: body(json.dumps({f"n{i}": i for i in range(6000)})),
    "pictures in JSON": lambda: body(json.dumps({"images": [{"b64": B64}] * 400})),
    "a long string": lambda: body(json.dumps({"images": [{"b64": B64}], "target": "x" * (30 * MIB)})),
    "escapes": lambda: body('{"images": [], "target": "' + "\\u0041" * (5 * MIB) + '"}'),
    "no JSON": lambda: body(b"\xff" * (30 * MIB)),
    "parts": lambda: form(part("target", b"1") * 100_000 + END),
    "headers of a part": lambda: form(part("image", SMALL, *(f"X-{i}: y" for i in range(200_000))) + END),
    "a header of a part": lambda: form(part("image", SMALL, "X: " + "y" * (20 * MIB)) + END),
    "boundaries, nearly": lambda: form(IMAGE + part("image", b"\r\n--" * (7 * MIB), "Content-Type: image/png") + END),
    "line ends": lambda: form(IMAGE + part("image", b"\r\n" * (14 * MIB), "Content-Type: image/png") + END),
    "no boundary at all": lambda: form(b"-" * (30 * MIB)),
    "pictures": lambda: {"files": [("image", ("a.png", noise(500)))] * 32},
    "a large picture": lambda: {"content": noise(2300), "headers": {"Content-Type": "image/png"}},
    "a large answer": lambda: {
        "params": {"output": ["overlay", "heatmap"], "image_format": "png", "target": "top-5"},
        "files": [("image", ("a.png", noise(900)))] * 8,
    },
    "many answers": lambda: {
        "params": {"output": ["map", "regions"], "target": "top-5", "layer": ["layer2", "layer3", "layer4"]},
        "files": [("image", ("a.png", SMALL))] * 32,
    },
}


MODELS = "/api/v1/models"
V1, V2 = "/v1/models/shapes:explain", "/v2/models/shapes/infer"


def numbers(side: int) -> dict[str, Any]:
    return body(json.dumps({"instances": [[[[each % 256, 7, 7] for each in range(side)]] * side]}))


def tensor(data: bytes, size: int, count: int = 1) -> dict[str, Any]:
    described = {"name": "image", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [described]}).encode()
    return {"content": head + data, "headers": {"Inference-Header-Content-Length": str(len(head))}}


LABEL_STUDIO = "/integrations/label-studio/predict"
CVAT, EVALUATIONS = "/integrations/cvat/api/function_invocations", "/api/v1/evaluations"
CONTROL = '<Choices name="c{}" toName="a{}"><Choice value="star"/></Choices>'


def tasks(config: str, each: dict[str, Any], number: int = 1, **params: Any) -> dict[str, Any]:
    return body(json.dumps({"tasks": [each] * number, "label_config": f"<View>{config}</View>", "params": params}))


def images(number: int) -> str:
    return "".join(f'<Image name="a{i}" value="$i"/>' for i in range(number))


def call(text: str, function: str = "shapes-click") -> dict[str, Any]:
    return {"content": text, "headers": {**JSON, "x-nuclio-function-name": function}}


def model(**keys: Any) -> dict[str, Any]:
    return {"method": "PUT", **body(json.dumps({"architecture": "shapes", **keys}))}


def files(field: str, number: int, data: bytes = b"") -> bytes:
    return b"".join(
        part(f'{field}"; filename="{place}.png', data, "Content-Type: image/png") for place in range(number)
    )


# Elsewhere: where, and what.
ELSEWHERE: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "V1: pixels, as many as are read": (V1, lambda: numbers(320)),
    "V1: more pixels": (V1, lambda: numbers(1500)),
    "V1: lists in lists": (V1, lambda: body("[" * (30 * MIB))),
    "V1: instances": (V1, lambda: body(json.dumps({"instances": [0] * 400_000}))),
    "V1: base64": (V1, lambda: body(f'{{"instances": ["{"QUJD" * (7 * MIB)}"]}}')),
    "V1: pictures": (V1, lambda: body(json.dumps({"instances": [base64.b64encode(noise(500)).decode()] * 20}))),
    "V2: elements of nothing": (V2, lambda: tensor(bytes(30 * MIB), 30 * MIB, 32)),
    "V2: a length that lies": (V2, lambda: tensor(b"\xff" * (30 * MIB), 30 * MIB)),
    "V2: base64": (V2, lambda: body(f'{{"inputs": [{{"name": "image", "data": ["{"QUJD" * (7 * MIB)}"]}}]}}')),
    "V2: values": (V2, lambda: body(json.dumps({"inputs": [], "parameters": dict.fromkeys(map(str, range(49_000)))}))),
    "TorchServe: values": ("/explanations/shapes", lambda: body(json.dumps({"data": ["a"] * 9000}))),
    "Label Studio: tasks": (LABEL_STUDIO, lambda: tasks(images(1) + CONTROL.format(0, 0), {"id": 1}, 90_000)),
    "Label Studio: more tasks": (LABEL_STUDIO, lambda: tasks(images(1), {"id": 1}, 450_000)),
    "Label Studio: pictures and controls": (
        LABEL_STUDIO,
        lambda: tasks(images(14_000) + "".join(CONTROL.format(i, 13_999) for i in range(7000)), {"data": {"i": "x"}}),
    ),
    "Label Studio: marks": (
        LABEL_STUDIO,
        lambda: tasks(
            images(1) + CONTROL.format(0, 0),
            {"data": {"i": f"data:image/png;base64,{B64}"}},
            context={"result": [{"type": "brushlabels", "value": {}}] * 45_000},
        ),
    ),
    "Label Studio: lists in lists": (LABEL_STUDIO, lambda: body("[" * (30 * MIB))),
    "CVAT: base64": (CVAT, lambda: call(f'{{"image": "{"QUJD" * (7 * MIB)}"}}')),
    "CVAT: points": (CVAT, lambda: call(json.dumps({"image": B64, "pos_points": [[1, 1]] * 9_000_000}))),
    "CVAT: a large mask": (CVAT, lambda: call(json.dumps({"image": base64.b64encode(noise(2300)).decode()}))),
    "a model: files": (f"{MODELS}/other", lambda: model(labels={f"h{i}": f"f{i}" for i in range(3000)})),
    "a model: arguments": (f"{MODELS}/other", lambda: model(factory_args={"a": ["b"] * 13_000})),
    "a model: keys": (f"{MODELS}/other", lambda: model(**{f"k{i}": i for i in range(5000)})),
    "an alias: values": (
        "/api/v1/aliases/other",
        lambda: {"method": "PUT", **body(f'{{"model": [{"1," * (12 * MIB)}1]}}')},
    ),
    "evaluations: empty files": (EVALUATIONS, lambda: form(files("image", 1000) + END)),
    "evaluations: pictures, and masks of another size": (
        EVALUATIONS,
        lambda: form(files("image", 1000, SMALL) + files("mask", 1000, png(size=(8, 8))) + END),
    ),
    "evaluations: more files than may be": (EVALUATIONS, lambda: form(files("image", 20_000) + END)),
    "evaluations: fields": (EVALUATIONS, lambda: form(part("layer", b"x") * 100_000 + END)),
    "evaluations: annotations": (
        EVALUATIONS,
        lambda: form(files("image", 1, SMALL) + files("annotations", 1, b"[" * (30 * MIB)) + END),
    ),
    "TorchServe: base64": ("/explanations/shapes", lambda: body(f'{{"data": "{"QUJD" * (7 * MIB)}"}}')),
    "the document of the API": ("/openapi.json", lambda: {"method": "GET"}),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beats") / "beats.json"


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Server]:
    managed = ("--management", "--model-dirs", str(file.parent))
    with running_server("--log-level=error", *managed, program=("tests.hostile.beating", str(file))) as server:
        yield server


def beats(file: Path) -> dict[str, float]:
    """How long the loop stood still, and worked, at most since the last call."""
    time.sleep(0.05)
    found: dict[str, float] = json.loads(file.read_text())
    file.unlink()
    return found


def beats_while(server: Server, file: Path, name: str) -> dict[str, float]:
    """Ask for much, and return how long the loop stood still meanwhile."""
    path, make = ELSEWHERE[name] if name in ELSEWHERE else ("/api/v1/explain", AWKWARD[name])
    asked = make()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        client.post("/api/v1/explain", content=SMALL, headers={"Content-Type": "image/png"})
        beats(file)
        status = 0
        with contextlib.suppress(httpx.TransportError):  # it is refused while it is still being sent
            status = client.request(asked.pop("method", "POST"), path, **asked).status_code
        assert status in {0, 200, 202, 400, 401, 409, 413, 415, 422, 429, 431}
        return beats(file)


@pytest.mark.parametrize("name", [*AWKWARD, *ELSEWHERE])
def test_the_loop_does_not_stand_still(server: Server, file: Path, name: str) -> None:
    # What the service does is there each time; what the machine does beside it is not.
    for _ in range(TRIES):
        found = beats_while(server, file, name)
        # Threads that hold the interpreter's lock, and other programs, keep it waiting too.
        if found["worked_s"] < STALL_S and found["still_s"] < 2 * STALL_S:
            return
    assert found["worked_s"] < STALL_S, "what the loop itself did between two beats"
    assert found["still_s"] < 2 * STALL_S


def test_the_measure_sees_a_stall(tmp_path: Path) -> None:
    import asyncio

    from tests.hostile.beating import beat

    file = tmp_path / "beats.json"

    async def stall() -> None:
        task = asyncio.create_task(beat(file))
        await asyncio.sleep(0.05)
        until = time.thread_time() + STALL_S
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(stall())
    assert json.loads(file.read_text())["worked_s"] > 0.9 * STALL_S
