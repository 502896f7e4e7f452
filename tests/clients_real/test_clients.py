"""The clients that people have, unchanged, against a running server; each in the environment that it asks for."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
PICTURE = ROOT / "service" / "demo" / "samples" / "03-star.png"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server("--device", "cpu", "--log-level", "warning") as server:
        yield server.url


def program(environment: str, name: str) -> str:
    """The path of a program in an environment of scripts/test-clients; without it the test is skipped, or fails."""
    path = ROOT / environment / "bin" / name
    if path.exists():
        return str(path)
    reason = f"{environment} is not there: scripts/test-clients"
    if os.environ.get("CAMSERVE_TESTS_REQUIRE_TOOLS"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_python_client(script: Path, url: str) -> None:
    run(program(".venv-clients", "python"), str(script), url, str(PICTURE))


def test_mlserver_infer(url: str, tmp_path: Path) -> None:
    text = base64.b64encode(PICTURE.read_bytes()).decode()
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    requests = [{"id": str(number), "inputs": [image], "outputs": [{"name": "label"}]} for number in range(5)]
    given, found = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text("".join(f"{json.dumps(request)}\n" for request in requests))
    address = url.removeprefix("http://")
    run(
        program(".venv-mlserver", "mlserver"),
        "infer",
        "-u",
        address,
        "-m",
        "shapes",
        "-i",
        str(given),
        "-o",
        str(found),
    )
    answers = [json.loads(line) for line in found.read_text().splitlines()]
    assert {answer["id"] for answer in answers} == {request["id"] for request in requests}
    for answer in answers:
        (label,) = answer["outputs"]
        assert label["data"][0] == "star"


# Of TorchServe's README and its documents, with our model and picture.
RECIPES = {
    "-T": ["curl", "-sS", "{url}/predictions/shapes", "-T", "{picture}"],
    "-F": ["curl", "-sS", "-X", "POST", "{url}/predictions/shapes", "-F", "data=@{picture}"],
    "--data-binary": ["curl", "-sS", "-X", "POST", "{url}/predictions/shapes", "--data-binary", "@{picture}"],
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_curl_recipes_of_torchserve(recipe: list[str], url: str) -> None:
    found = json.loads(run(*(part.format(url=url, picture=PICTURE) for part in recipe)))
    assert max(found, key=found.get) == "star"


def test_further_curl_recipes_of_torchserve(url: str) -> None:
    assert json.loads(run("curl", "-sS", f"{url}/ping")) == {"status": "Healthy"}
    rows = json.loads(run("curl", "-sS", "-X", "POST", f"{url}/explanations/shapes", "-T", str(PICTURE)))
    assert len({len(row) for row in rows}) == 1
    assert json.loads(run("curl", "-sS", f"{url}/models"))["models"][0]["modelName"] == "shapes"
    (entry, *_) = json.loads(run("curl", "-sS", f"{url}/models/shapes/all"))
    assert entry["workers"][0]["status"] == "READY"
