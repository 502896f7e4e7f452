"""Clients that cost next to nothing beside the server that they ask: one process, plain sockets, requests made before.

Each asks, waits for its answer, and asks again. ``Crowd`` is whoever tells the process what to ask for; the process
itself reads a line of JSON for each round and writes one.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECEIVED = 1 << 18
_DRAIN_S = 60.0


@dataclass(frozen=True)
class Round:
    """What was asked, and for how long; ``request`` is a file that has one whole request."""

    request: str
    clients: int
    warm_up_s: float
    seconds: float


@dataclass(frozen=True)
class Answers:
    """Those that ended within the seconds that count, and what each took; ``all`` with those before and after."""

    per_second: float
    seconds: list[float]
    all: int


class Crowd:
    """Clients in a process of their own."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._folder = process, folder

    def ask(self, request: bytes, clients: int, *, warm_up_s: float, seconds: float) -> Answers:
        """Have so many clients ask for that again and again.

        Raises:
            RuntimeError: an answer was no success.
        """
        file = self._folder / "request"
        file.write_bytes(request)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(Round(str(file), clients, warm_up_s, seconds))) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the clients have ended; what they met stands above")
        return Answers(**json.loads(line))


@contextmanager
def crowd(port: int, folder: Path) -> Iterator[Crowd]:
    """Start the process for clients of ``port``; ``folder`` takes what is sent."""
    command = [sys.executable, "-m", "benchmarks.crowd", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Crowd(process, folder)
        finally:
            process.terminate()


class _Client:
    """One connection, and what has come of the answer that it waits for."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self.ask()

    def ask(self) -> None:
        self._received, self._whole, self.began = bytearray(), 0, time.perf_counter()
        self.socket.sendall(self._request)

    def has_answer(self) -> bool:
        """Read what is there; return whether the answer is complete."""
        data = self.socket.recv(_RECEIVED)
        if not data:
            raise RuntimeError("the server has closed the connection")
        self._received += data
        if not self._whole and (end := self._received.find(b"\r\n\r\n")) > 0:
            self._whole = end + 4 + _length(bytes(self._received[:end]))
        return 0 < self._whole <= len(self._received)


def _length(head: bytes) -> int:
    first, *fields = head.decode("latin-1").lower().split("\r\n")
    if first.split()[1] != "200":
        raise RuntimeError(f"the server answered {first!r}")
    return int(dict(field.split(": ", 1) for field in fields)["content-length"])


def _round(port: int, asked: Round) -> Answers:
    request = Path(asked.request).read_bytes()
    began = time.perf_counter() + asked.warm_up_s
    end, took, total = began + asked.seconds, [], 0
    with selectors.DefaultSelector() as selector:
        for _ in range(asked.clients):
            client = _Client(port, request)
            selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map() and time.perf_counter() < end + _DRAIN_S:
            for key, _ in selector.select(_DRAIN_S):
                client = key.data
                if not client.has_answer():
                    continue
                now = time.perf_counter()
                total += 1
                if began <= now < end:
                    took.append(now - client.began)
                if now < end:
                    client.ask()
                else:
                    selector.unregister(client.socket)
                    client.socket.close()
    return Answers(len(took) / asked.seconds, took, total)


def main() -> None:
    """Do what each line asks for."""
    for line in sys.stdin:
        print(json.dumps(asdict(_round(int(sys.argv[1]), Round(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    main()
