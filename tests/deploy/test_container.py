"""What can be checked of the container files without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import chain
from pathlib import Path

from service.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()


def test_everything_copied_exists_and_is_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert "service" in sources
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


def test_it_runs_as_an_ordinary_user_with_a_health_check() -> None:
    final = DOCKERFILE.rpartition("FROM ")[2]
    assert re.search(r"^USER camserve$", final, re.MULTILINE)
    assert "HEALTHCHECK" in final


def test_no_package_index_is_named_but_as_a_build_argument() -> None:
    named = [line for line in DOCKERFILE.splitlines() if "://" in line and "http.client" not in line]
    assert named == ["ARG TORCH_INDEX=https://download.pytorch.org/whl/${TORCH}"]
    assert 'RUN PIP_INDEX_URL="${TORCH_INDEX}" pip install' in DOCKERFILE


class Alive(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def healthy(port: int) -> bool:
    """Run the health check as an engine would: without a shell, with the container's environment."""
    command = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    assert command is not None, "in the form that needs no shell"
    _, *arguments = json.loads(command[1])
    # Container engines hand the proxies of their host on; nothing answers at this one.
    environment = {"CAMSERVE_PORT": str(port), "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    ended = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, timeout=60, check=False)
    return ended.returncode == 0


def test_the_health_check_finds_the_service_on_its_port_and_behind_a_proxy() -> None:
    with HTTPServer(("127.0.0.1", 0), Alive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert healthy(port)
        server.shutdown()
    assert not healthy(port)


def test_settings_named_in_the_container_files_exist() -> None:
    named = set(re.findall(r"CAMSERVE_([A-Z_]+)", DOCKERFILE + COMPOSE))
    label_studio = {"LABEL_STUDIO_URL", "LABEL_STUDIO_TOKEN"}
    assert named == {"HOST", "PORT", "CACHE_DIR", "MODELS", "KEYS", "EXPOSE_WITHOUT_KEYS"} | label_studio
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_nobody_but_this_machine_gets_in_without_a_key() -> None:
    assert "EXPOSE_WITHOUT_KEYS=" not in DOCKERFILE, "the image alone does not know who reaches it"
    published = re.findall(r"ports: \[(.+)\]", COMPOSE)
    assert published
    assert all(port.startswith('"127.0.0.1:') for each in published for port in each.split(", "))
    assert 'CAMSERVE_EXPOSE_WITHOUT_KEYS: "true"' in COMPOSE


def test_the_default_models_of_compose_are_valid() -> None:
    default = re.search(r"\$\{CAMSERVE_MODELS:-(.+)\}", COMPOSE)
    assert default is not None
    models = load_settings(models=default[1], keys="").models
    assert [model.architecture for model in models] == ["shapes", "shapes-shortcut"]


def test_pinned_versions_satisfy_the_ranges() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for text in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            continue  # an extra that is made of others
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), requirement
