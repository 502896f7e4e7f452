"""Evaluations behind a real server, over a real socket: to the end, cancelled, and killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from service.wire_evaluation import Evaluation
from tests.server import Server, running_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SAMPLES = Path("service/demo/samples")
NAMES = ("00-disk", "01-square", "02-triangle", "03-star", "04-cross", "05-ring")
ROUTE = "/api/v1/evaluations"
OPTIONS = {"layer": ["layer2", "layer4"], "seed": "5"}


def coco() -> dict[str, Any]:
    """The boxes of the scenes' objects."""
    images, annotations = [], []
    for number, name in enumerate(NAMES):
        left, top, right, bottom = Image.open(SAMPLES / f"{name}.mask.png").getbbox() or (0, 0, 0, 0)
        images.append({"id": number, "file_name": f"{name}.png"})
        box = [left, top, right - left, bottom - top]
        annotations.append({"image_id": number, "category_id": number, "bbox": box})
    categories = [{"id": number, "name": name[3:]} for number, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def post(server: Server, **options: Any) -> str:
    """Ask for an evaluation of six scenes; return its URL."""
    files: list[Any] = [("image", (f"{name}.png", (SAMPLES / f"{name}.png").read_bytes())) for name in NAMES]
    files.append(("annotations", ("coco.json", httpx.Request("POST", "http://x", json=coco()).content)))
    answer = httpx.post(server.url + ROUTE, files=files, data=OPTIONS | options, timeout=60)
    assert answer.status_code == 202, answer.text
    return server.url + answer.headers["location"]


def described(url: str) -> Evaluation:
    return Evaluation.model_validate(httpx.get(url, timeout=60).json())


def listed(server: Server) -> set[str]:
    return {each["id"] for each in httpx.get(server.url + ROUTE, timeout=60).json()["evaluations"]}


def until(url: str, holds: Callable[[Evaluation], bool], timeout_s: float = 1200) -> Evaluation:
    deadline = time.monotonic() + timeout_s
    while not holds(found := described(url)):
        assert time.monotonic() < deadline, found
        assert found.state != "failed", found.reason
        time.sleep(0.1)
    return found


def over(about: Evaluation) -> bool:
    return about.state == "done"


def under_way(about: Evaluation) -> bool:
    return about.progress > 0.1


def processes() -> list[int]:
    """The processes of evaluations on this machine that belong to this run."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_ours(entry)]


def _is_ours(entry: Path) -> bool:
    try:
        ours = str(Path.cwd()).encode() in (entry / "cmdline").read_bytes()
        return ours and b"service.jobs.main" in (entry / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("--model", "shapes", "--device", "cpu", "--threads", "1") as server:
        yield server


@pytest.fixture(scope="module")
def uninterrupted(server: Server) -> Evaluation:
    url = post(server)
    found = until(url, over)
    with httpx.stream("GET", f"{url}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        assert next(events.iter_lines()) == "event: done"
    report = httpx.get(f"{url}/report", timeout=60).text
    assert report.startswith("<!doctype html>")
    assert "http://" not in report.replace("http://www.w3.org", "")
    return found


def test_from_the_pictures_to_the_result(uninterrupted: Evaluation) -> None:
    result = uninterrupted.result
    assert result is not None
    assert [row.layer for row in result.rows] == ["layer2", "layer4"]
    assert {"pointing_game", "max_box_acc", "road", "grid_pointing_game"} <= set(result.rows[0].metrics)
    assert [each.purpose for each in result.recommendations] == ["class", "localisation", "faithfulness"]
    assert uninterrupted.restarts == 0


def test_cancelled_its_process_ends_and_the_next_one_runs(server: Server) -> None:
    url, second = post(server), post(server)
    until(url, under_way)
    assert described(second).state == "queued"
    (process,) = processes()
    assert httpx.delete(url, timeout=60).status_code == 204
    assert process not in processes()
    assert httpx.get(url, timeout=60).json()["code"] == "unknown_evaluation"
    until(second, lambda about: about.state == "running")
    httpx.delete(second, timeout=60)


def test_a_killed_process_goes_on(server: Server, uninterrupted: Evaluation) -> None:
    url = post(server)
    until(url, under_way)
    (process,) = processes()
    os.kill(process, signal.SIGKILL)
    found = until(url, over)
    assert found.restarts == 1
    assert found.result == uninterrupted.result


class TestCommand:
    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "service.cli", "evaluate", *map(str, arguments)]

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, timeout=1200)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in NAMES:
            place = tmp_path / "pictures" / name[3:]
            place.mkdir(parents=True)
            (place / f"{name}.png").write_bytes((SAMPLES / f"{name}.png").read_bytes())
            (place / f"{name}.mask.png").write_bytes((SAMPLES / f"{name}.mask.png").read_bytes())
        (tmp_path / "pictures" / "disk" / "broken.png").write_bytes(b"no picture")
        (tmp_path / "pictures" / "gone.png").symlink_to("nowhere")
        return tmp_path / "pictures"

    def test_the_figures_and_the_report(self, server: Server, folder: Path) -> None:
        asked = (folder, "--masks", folder, "--layers", "layer2", "layer4", "--purpose", "localisation", "--seed", 5)
        written = ("--json", folder / "there.json", "--report", folder / "report.html")
        there = self.run(*asked, "--server", server.url, *written)
        assert there.returncode == 0, there.stderr
        assert "disk/broken.png: " in there.stderr
        assert "gone.png: The file cannot be read: No such file or directory." in there.stderr
        assert (folder / "report.html").read_text().startswith("<!doctype html>")
        here = self.run(*asked, "--model", "shapes", "--device", "cpu", "--json", folder / "here.json")
        assert here.returncode == 0, here.stderr
        texts = [(folder / name).read_text() for name in ("there.json", "here.json")]
        assert json.loads(texts[0]) == json.loads(texts[1])
        tables = [[line for line in each.stdout.splitlines() if "json" not in line] for each in (there, here)]
        assert tables[0][:-1] == tables[1]  # and the line that names the report

    def test_listed_and_cancelled(self, server: Server) -> None:
        name = post(server).rsplit("/", 1)[1]
        listed = self.run("--server", server.url, "--list").stdout
        assert f"{name}  shapes  6 pictures  " in listed
        assert self.run("--server", server.url, "--cancel", name).returncode == 0
        again = self.run("--server", server.url, "--cancel", name)
        assert again.returncode == 1
        assert "no evaluation of this id" in again.stderr

    def test_ctrl_c_cancels(self, server: Server, folder: Path) -> None:
        before = listed(server)  # one that was cancelled may still be going
        # Tests that run in the background of a shell have this signal ignored, and so have their children.
        command = ["env", "--default-signal=INT", *self.command(folder, "--server", server.url)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while not (new := listed(server) - before):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        assert process.returncode != 0
        assert not new & listed(server)

    def test_what_goes_with_a_server_alone(self) -> None:
        for arguments in (["--list"], ["--cancel", "x"], []):
            refused = self.run(*arguments)
            assert refused.returncode == 1
            assert "Traceback" not in refused.stderr


def test_a_killed_service_goes_on(tmp_path: Path, uninterrupted: Evaluation) -> None:
    arguments = ("--model", "shapes", "--device", "cpu", "--threads", "1", "--data-dir", str(tmp_path))
    with running_server(*arguments) as server:
        url, second = post(server), post(server, purpose="localisation")
        found = until(url, under_way)
        assert found.kept
        server.process.kill()
    deadline = time.monotonic() + 60
    while processes():  # they end with it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with running_server(*arguments) as server:
        names = [url.rsplit("/", 1)[1] for url in (url, second)]
        listed = httpx.get(server.url + ROUTE, timeout=60).json()["evaluations"]
        assert [each["id"] for each in listed] == names
        found = until(f"{server.url}{ROUTE}/{names[0]}", over)
        assert found.result == uninterrupted.result
        until(f"{server.url}{ROUTE}/{names[1]}", over)
        (server_folder,) = [
            each for each in (tmp_path / "evaluations" / names[0]).parent.iterdir() if each.name == names[0]
        ]
        assert {each.name for each in server_folder.iterdir()} == {"result.json", "report.html"}


def test_stopping_does_not_wait(tmp_path: Path) -> None:
    with running_server("--model", "shapes", "--device", "cpu", "--data-dir", str(tmp_path)) as server:
        until(post(server), under_way)
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=20) == 0
        assert time.monotonic() - began < 20
    assert processes() == []
