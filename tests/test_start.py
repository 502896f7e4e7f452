"""The command in poor surroundings: without a home directory, with closed or broken streams, with few files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = f"{sys.executable} -m service.cli"
SERVE = f"exec {COMMAND} serve --port 0 --model shapes --device cpu"
STAR = "service/demo/samples/03-star.png"


def bash(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with no more than ``environment`` and a path."""
    clean = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=clean, timeout=100, check=False)


@pytest.fixture
def nobody(tmp_path: Path) -> str:
    """A folder of modules that make the user unknown to the machine, as that of many containers is."""
    unknown = "import pwd\ndef none(uid):\n    raise KeyError(uid)\npwd.getpwuid = none\n"
    (tmp_path / "sitecustomize.py").write_text(unknown)
    return str(tmp_path)


@pytest.mark.parametrize(
    "command", [f"predict {STAR}", "serve --port 0", "openapi", pytest.param("layers", marks=pytest.mark.slow)]
)
def test_without_a_home_directory_it_says_what_to_set(nobody: str, command: str) -> None:
    ended = bash(f"{COMMAND} {command}", PYTHONPATH=nobody)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("camserve: cache_dir: ")
    assert all(name in ended.stderr for name in ("HOME", "XDG_CACHE_HOME", "cache_dir"))


@pytest.mark.parametrize("where", ["XDG_CACHE_HOME", "HOME", "CAMSERVE_CACHE_DIR"])
def test_any_of_these_is_enough(nobody: str, tmp_path: Path, where: str) -> None:
    ended = bash(f"{COMMAND} openapi", PYTHONPATH=nobody, **{where: str(tmp_path / "folder")})
    assert (ended.returncode, ended.stdout[:1]) == (0, "{"), ended.stderr


@pytest.mark.slow  # it is measured where the cells of its model look
def test_a_picture_needs_no_more_than_that(nobody: str, tmp_path: Path) -> None:
    ended = bash(f"{COMMAND} predict {STAR}", PYTHONPATH=nobody, XDG_CACHE_HOME=str(tmp_path / "folder"))
    assert (ended.returncode, ended.stdout.split(": ")[1].split()[0]) == (0, "star"), ended.stderr


@pytest.mark.parametrize("command", ["key ada", "models", "openapi"])
def test_a_closed_output_is_said(command: str) -> None:
    ended = bash(f"{COMMAND} {command} >&-", HOME=os.environ["HOME"])
    assert (ended.returncode, ended.stderr) == (1, "camserve: standard output is closed: nothing can be printed\n")


def test_a_full_disk_is_said() -> None:
    ended = bash(f"{COMMAND} key ada >/dev/full", HOME=os.environ["HOME"])
    assert (ended.returncode, ended.stderr) == (1, "camserve: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "2>&- <&-"])
def test_other_closed_streams_do_no_harm(closed: str) -> None:
    ended = bash(f"{COMMAND} key ada {closed}", HOME=os.environ["HOME"])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "[[keys]]" in ended.stdout


def test_too_few_files_end_the_start_in_words() -> None:
    ended = bash(f"ulimit -n 100; {SERVE}", HOME=os.environ["HOME"])
    assert ended.returncode == 1
    assert ended.stderr.startswith("camserve: This process may open 100 files, which leaves no room for connections.")
    assert "Traceback" not in ended.stderr


def test_kept_evaluations_that_are_damaged_end_the_start_in_words(tmp_path: Path) -> None:
    kept = tmp_path / "evaluations" / "evaluations.sqlite"
    kept.parent.mkdir()
    kept.write_bytes(b"no database " * 100)
    ended = bash(f"{COMMAND} serve --port 0 --model shapes --device cpu --data-dir {tmp_path}", HOME=os.environ["HOME"])
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == (
        f"camserve: {kept} cannot be read: file is not a database. Remove it to forget what it holds."
    )
    assert "Traceback" not in ended.stderr
    assert kept.exists(), "nobody asked to forget it"


@contextmanager
def serving(log: Path, script: str = "{}") -> Iterator[httpx.Client]:
    """A service whose command stands in a script, told where to listen, for it may have no way to say; in good order.

    Args:
        log: a file for what it says, unless the script sends that elsewhere.
        script: of the shell, with ``{}`` for the command.
    """
    port = _free_port()
    command = f"exec {COMMAND} serve --port {port} --model shapes --device cpu"
    environment = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "OMP_NUM_THREADS": "1"}
    with (
        log.open("w") as stderr,
        subprocess.Popen(["bash", "-c", script.format(command)], stderr=stderr, env=environment) as process,
        httpx.Client(
            transport=httpx.HTTPTransport(retries=8), base_url=f"http://127.0.0.1:{port}", timeout=60
        ) as client,
    ):
        try:
            yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert process.returncode == 0
    assert "Traceback" not in log.read_text()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _worker(client: httpx.Client) -> int:
    """The process id of the one worker."""
    (worker,) = client.get("/readyz").json()["workers"]
    pid: int = worker["pid"]
    return pid


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&-", "<&- >&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "> >(true)"])
def test_a_service_serves_whatever_its_streams_are(tmp_path: Path, streams: str) -> None:
    with serving(tmp_path / "log", f"{{}} {streams}") as client:
        assert client.get("/livez", timeout=30).status_code == 200


@pytest.mark.slow
def test_with_few_files_there_are_few_connections(tmp_path: Path) -> None:
    """More clients than there may be files: probes are answered, and the worker stays."""
    with serving(tmp_path / "log", "ulimit -n 200; {}") as client, ExitStack() as silent:
        before = _worker(client)
        for _ in range(300):
            silent.enter_context(socket.create_connection((client.base_url.host, client.base_url.port or 80)))
        for _ in range(10):
            assert httpx.get(f"{client.base_url}/livez", timeout=60).status_code == 200
        assert _worker(client) == before
    said = (tmp_path / "log").read_text()
    assert "92 connections are allowed" in said
    assert "Too many open files" not in said
