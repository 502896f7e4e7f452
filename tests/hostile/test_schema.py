"""Schemathesis against a running server, from the committed document: what it may answer is what is written there.

A part of the requests asks for awkward amounts of what is allowed: the schema bounds each option, not their product.
"""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from tests.hostile.amounts import AMOUNTS, TOO_LITTLE_MS
from tests.protocols.native.pictures import star
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server import Server

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "100"))

DOCUMENT = Path(__file__).parents[2] / "openapi" / "openapi.json"
SCHEMA = schemathesis.openapi.from_path(DOCUMENT)
OPERATIONS = {operation.label: operation for operation in (found.ok() for found in SCHEMA.get_all_operations())}  # type: ignore[union-attr]

# Those that hold of each answer by itself. What a request of the schema may be refused for (no such model, not a
# picture) the document says by its statuses.
HOLDS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    options = ("--management", "--max-evaluation-forward", "2000", "--request-timeout-s", "300", "--log-level", "error")
    with running_server("--model", "shapes", *options) as server:
        yield server


@pytest.fixture
def version(server: Server) -> str:
    """The version of the model that there is; beside it there are one to change, and an alias."""
    with httpx.Client(base_url=f"{server.url}/api/v1", timeout=60) as client:
        while (put := client.put("/models/extra", params={"wait": 50}, json=EXTRA)).status_code == 409:
            time.sleep(0.2)  # what the test before asked for is being loaded
        put.raise_for_status()
        for model in client.get("/models").json()["models"]:
            if model["name"] not in {"shapes", "extra"}:  # made by the test before, mostly of nothing
                client.delete(f"/models/{model['name']}").raise_for_status()
        found: str = client.get("/models/shapes").json()["version"]
        client.put("/aliases/steady", json={"model": "shapes", "version": found}).raise_for_status()
    return found


@pytest.fixture
def evaluation(server: Server) -> str:
    """An evaluation that is done, and no other."""
    route = f"{server.url}/api/v1/evaluations"
    with httpx.Client(timeout=60) as client:
        for each in client.get(route).json()["evaluations"]:
            client.delete(f"{route}/{each['id']}").raise_for_status()
        found: str = client.post(route, files={"image": star()}, data={"purpose": "localisation"}).json()["id"]
        with client.stream("GET", f"{route}/{found}/events") as events:
            for _ in events.iter_lines():
                pass
        assert client.get(f"{route}/{found}").json()["state"] == "done"
    return found


EXTRA = {"architecture": "shapes"}
CHANGES = {f"{method} /api/v1/{path}" for method in ("PUT", "DELETE") for path in ("models/{model}", "aliases/{alias}")}
CHANGES |= {f"POST /api/v1/models/{{model}}/{verb}" for verb in ("reload", "unload")}
CHANGES |= {f"POST /v2/repository/models/{{model}}/{verb}" for verb in ("load", "unload")}


@st.composite
def cases(draw: st.DrawFn, operation: Any, version: str, evaluation: str) -> Any:
    """A request of the schema or beside it; half of them ask the model that there is, or send a picture."""
    mode = draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
    case = draw(operation.as_strategy(generation_mode=mode))
    much = operation.label in AMOUNTS and draw(st.integers(0, 3)) == 0
    if case.path_parameters and (much or draw(st.booleans())):
        there = {"model": "extra" if operation.label in CHANGES else "shapes", "version": version, "alias": "steady"}
        there |= {"name": "shapes-mask", "layer": "layer4", "method": "gradcam", "endpoint": "shapes"}
        there["evaluation"] = evaluation
        case.path_parameters.update({name: there[name] for name in case.path_parameters if name in there})
        if operation.label in CHANGES and operation.label.startswith("PUT"):
            case.body = dict(EXTRA) if "model" in case.path_parameters else {"model": "shapes", "version": version}
    if operation.label.endswith("/function_invocations"):
        case.headers["X-Nuclio-Invoke-Timeout"] = "300s"
        if draw(st.booleans()):
            case.headers["x-nuclio-function-name"] = f"shapes-{draw(st.sampled_from(['tag', 'mask', 'click']))}"
    if operation.label not in CHANGES and (much or draw(st.booleans())):
        _put_in_picture(case)
    if str(case.headers.get("X-Request-Timeout-Ms", "")).isdecimal() and int(case.headers["X-Request-Timeout-Ms"]) >= 1:
        case.headers["X-Request-Timeout-Ms"] = "300000"  # a shorter one is a proper reason for a 504
    if much:
        AMOUNTS[operation.label](case, draw)
    return case


def _put_in_picture(case: Any) -> None:
    if case.operation.path.startswith(("/v1/", "/v2/", "/predictions/", "/explanations/")):
        _put_in_theirs(case)
    elif case.media_type == "application/json" and isinstance(case.body, dict):
        encoded = base64.b64encode(star()).decode()
        if case.path.startswith("/integrations/"):
            case.body["image"] = encoded
        else:
            case.body["images"] = [{"b64": encoded}]
    elif case.media_type == "multipart/form-data" and isinstance(case.body, dict):
        case.body["image"] = [star()]
    elif isinstance(case.body, bytes):
        case.body = star()


def _put_in_theirs(case: Any) -> None:
    """Put a picture where other protocols have it."""
    text = base64.b64encode(star()).decode()
    if isinstance(case.body, bytes):
        case.body = star()
        case.headers.pop("Inference-Header-Content-Length", None)
        if case.operation.path.startswith("/v2/"):
            case.headers["Inference-Header-Content-Length"] = "0"
    elif not isinstance(case.body, dict):
        return
    elif case.operation.path.startswith("/v1/"):
        case.body["instances"] = [{"image": {"b64": text}}]
    elif case.operation.path.startswith("/v2/"):
        case.headers.pop("Inference-Header-Content-Length", None)
        case.body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    else:
        case.body["data"] = star() if case.media_type == "multipart/form-data" else text


def operation(label: str) -> Any:
    """Those of evaluations are tried alone: an evaluation waits for whatever else wants the machine."""
    return pytest.param(label, marks=[pytest.mark.alone] if "/evaluations" in label else [])


@pytest.mark.parametrize("label", [operation(label) for label in OPERATIONS])
def test_every_answer_is_as_documented(
    label: str, server: Server, version: str, request: pytest.FixtureRequest
) -> None:
    asked = OPERATIONS[label]
    evaluation = request.getfixturevalue("evaluation") if "/evaluations" in label else ""
    examples = EXAMPLES if label.startswith("POST") and not evaluation else EXAMPLES // 3

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases(asked, version, evaluation))
    def check(case: Any) -> None:
        response = case.call(base_url=server.url, timeout=400)
        seen.add(response.status_code)
        in_time = response.status_code != 504 or case.headers.get("X-Request-Timeout-Ms") != TOO_LITTLE_MS
        holds = HOLDS if in_time else [name for name in HOLDS if name != "not_a_server_error"]
        case.validate_response(response, checks=CHECKS.get_by_names(holds))

    seen: set[int] = set()
    check()
    assert {200, 202, 204} & seen, f"nothing but refusals tests little: {seen}"
    if label.endswith(("{model}/explain", "{model}/infer", "/explanations/{model}", "POST /api/v1/evaluations")):
        assert {413, 504} & seen, f"what is too much was not asked for: {seen}"
