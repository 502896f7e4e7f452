"""A real server: ``camserve serve`` in a process of its own, on a real port."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

# Less than a slow test may take: a hang is told from a machine that has much else to do.
START_TIMEOUT_S = 600.0


class Server:
    """A running server: its address and its process."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url


@contextmanager
def running_server(
    *arguments: str,
    wait: bool = True,
    log: Path | None = None,
    headers: Mapping[str, str] | None = None,
    program: Sequence[str] = ("service.cli",),
    python: Path | str = sys.executable,
) -> Iterator[Server]:
    """Start ``camserve serve`` with ``arguments`` on a free port; stop it at the end.

    Args:
        arguments: further command line arguments.
        wait: whether to wait until every model is loaded.
        log: a file for what it says on standard error.
        headers: what it takes to be told of models, where there are keys.
        program: the module that is run, and arguments that it has before the command.
        python: the interpreter, of another environment perhaps.
    """
    command = [str(python), "-m", *program, "serve", "--port", "0", *arguments]
    with (
        nullcontext() if log is None else log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ}) as process,
    ):
        try:
            server = Server(process, _address(process))
            if wait:
                _wait_until_loaded(server, headers or {})
            yield server
        finally:
            process.terminate()
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if " at http://" in line:
            return line.split(" at ")[1].split()[0]
    raise AssertionError("the server ended without saying its address")


def _wait_until_loaded(server: Server, headers: Mapping[str, str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        states = {
            entry["state"]
            for entry in httpx.get(f"{server.url}/api/v1/models", headers=headers, timeout=60).json()["models"]
        }
        if "loading" not in states:
            return
        time.sleep(0.2)
    raise AssertionError(f"the models were not loaded within {START_TIMEOUT_S:g} s")
