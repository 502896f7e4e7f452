"""Calls as a CVAT server makes them, and what it makes of the answers (``lambda_manager/views.py``, 2026-11)."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.protocols.native.pictures import star

if TYPE_CHECKING:
    import httpx
    from numpy.typing import NDArray

PREFIX = "/integrations/cvat"
HEADERS = {
    "x-nuclio-project-name": "cvat",
    "x-nuclio-function-namespace": "nuclio",
    "x-nuclio-invoke-via": "domain-name",
    "X-Nuclio-Invoke-Timeout": "120s",
}


async def call(
    client: httpx.AsyncClient, function: str, picture: bytes | None = None, prefix: str = PREFIX, **fields: Any
) -> httpx.Response:
    """A call through the dashboard: no job, no task, the picture in base64."""
    body = {"image": base64.b64encode(star() if picture is None else picture).decode(), **fields}
    headers = {**HEADERS, "x-nuclio-function-name": function, "x-nuclio-path": "/"}
    return await client.post(f"{prefix}/api/function_invocations", json=body, headers=headers)


async def called(client: httpx.AsyncClient, function: str, picture: bytes | None = None, **fields: Any) -> Any:
    response = await call(client, function, picture, **fields)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    return response.json()


def read_functions(listed: dict[str, Any]) -> dict[str, list[str]]:
    """The labels of each function, read as CVAT's ``LambdaFunction`` does; what it would stumble over fails here."""
    functions = {}
    for item in listed.values():
        annotations = item["metadata"]["annotations"]
        assert annotations["type"] in {"detector", "interactor"}
        labels = json.loads(annotations.get("spec") or "[]")
        names = [label["name"] for label in labels]
        assert len(names) == len(set(names)), "non-unique labels"
        for label in labels:
            assert label["attributes"] == []
            assert label["type"] == item["metadata"]["name"].rpartition("-")[2]
        assert isinstance(item["spec"]["description"], str)
        assert item["status"]["state"] in {"ready", "building", "error"}
        item["status"].get("httpPort")
        for number, default in (("min_pos_points", 1), ("min_neg_points", -1), ("version", "1")):
            int(annotations.get(number, default))
        functions[item["metadata"]["name"]] = names
    return functions


def mask_of(shape: dict[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    """The mask of a detector's shape on the whole picture: bits of a box, then the box, its ends included."""
    left, top, right, bottom = shape["mask"][-4:]
    bits = np.array(shape["mask"][:-4])
    assert set(bits.tolist()) <= {0, 1}
    whole = np.zeros((height, width), np.bool_)
    whole[top : bottom + 1, left : right + 1] = bits.reshape(bottom - top + 1, right - left + 1)
    return whole
