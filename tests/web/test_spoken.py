"""Which protocols are spoken is a setting, and those that nobody speaks cost nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from service.protocols.native.protocol import NATIVE
from service.settings import Settings
from service.vocabulary import Protocol
from service.web.app import PROTOCOLS, create_app
from tests.web.application import faked

OTHERS = [row for row in PROTOCOLS if row is not NATIVE]


def prefixes_of(settings: Settings) -> set[str]:
    paths = create_app(settings).openapi()["paths"]
    return {prefix for row in PROTOCOLS for prefix in row.prefixes if any(path.startswith(prefix) for path in paths)}


def test_every_further_protocol_can_be_named() -> None:
    assert {row.name for row in OTHERS} == set(get_args(Protocol))


def test_all_are_on_unless_some_are_named() -> None:
    assert prefixes_of(Settings()) == {prefix for row in PROTOCOLS for prefix in row.prefixes}
    assert prefixes_of(Settings.model_validate({"protocols": "none"})) == set(NATIVE.prefixes)
    for name in get_args(Protocol):
        prefixes = {prefix for row in OTHERS if row.name == name for prefix in row.prefixes}
        assert prefixes_of(Settings.model_validate({"protocols": name})) == {*NATIVE.prefixes, *prefixes}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v2/health/live", {"error": "…"}),
        ("POST", "/v2/models/pets/infer", {"error": "…"}),
        ("POST", "/v1/models/pets:predict", {"error": "…"}),
        ("POST", "/v1/projects/p/locations/l/endpoints/pets:predict", {"error": {"code": 404, "status": "NOT_FOUND"}}),
        ("POST", "/predictions/pets", {"code": 404, "message": "…"}),
        ("GET", "/integrations/label-studio/health", {"status": 404, "detail": "…"}),
        ("GET", "/integrations/cvat/api/functions", {"error": "…"}),
    ],
)
async def test_one_that_is_off_says_so_in_its_own_words(method: str, path: str, body: dict[str, Any]) -> None:
    """Or its client would see an error of its own in reading ours."""
    async with faked(protocols=("none",)) as application, application.client() as client:
        response = await client.request(method, path)
    assert response.status_code == 404
    answered = response.json()
    assert "is off here" in response.text
    for name, value in body.items():
        if isinstance(value, dict):
            assert answered[name].items() >= value.items()
        else:
            assert value in ("…", answered[name])


def test_a_protocol_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="'kserve_v1'"):
        Settings.model_validate({"protocols": "kserve_v3"})


def test_starting_imports_no_more_of_a_protocol_than_its_row() -> None:
    script = (
        "import json, sys; from service.settings import Settings; from service.web.app import create_app; "
        "create_app(Settings()); print(json.dumps([name for name in sys.modules if '.protocols.' in name]))"
    )
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout))
    of_others = {name for name in loaded if not name.startswith("service.protocols.native")}
    packages = {f"service.protocols.{row.name}" for row in OTHERS}
    rows = {f"{package}.protocol" for package in packages} | {"service.protocols.kserve_v1.vertex_ai"}
    assert of_others == packages | rows
