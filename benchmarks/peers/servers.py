"""Pictures explained over HTTP: here, and by other servers around pytorch-grad-cam."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from benchmarks.peers.load import load, uploads
from benchmarks.peers.systems import MODELS, PEERS, ours
from benchmarks.precisions import left_out, precisions
from benchmarks.results import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.peers.load import Served
    from benchmarks.peers.systems import System

_PACKAGES = ("grad-cam", "fastapi", "litserve", "bentoml", "ray")
_CLIENTS = (16, 1)
# Times as many pictures a second as any of them, with the better of the precisions and all clients.
_AT_LEAST = 5.0


@dataclass(frozen=True)
class Asked:
    """For how long.

    Attributes:
        seconds: that each number of clients asks; a third of it before, to warm up.
        models: architectures.
    """

    seconds: float = 30.0
    models: tuple[str, ...] = tuple(MODELS)


def explain_against_servers(asked: Asked) -> Iterator[str | Line]:
    """One server after the other, the same uploads: 16 clients, then one."""
    yield f"around {', '.join(f'{name} {version(name)}' for name in _PACKAGES)}; {asked.seconds:g} s for each"
    yield from left_out()
    for model in asked.models:
        here = {precision: _measured(ours(precision), model, asked.seconds) for precision in precisions()}
        for precision, found in here.items():
            for clients in _CLIENTS:
                yield f"{MODELS[model]}, {_of(clients)}, camserve {precision}: {_said(found[clients])}"
        for name, system in PEERS.items():
            found = _measured(system, model, asked.seconds)
            for clients in _CLIENTS:
                text = f"{MODELS[model]}, {_of(clients)}, {name}"
                yield _compared(text, found[clients], {precision: each[clients] for precision, each in here.items()})


def _measured(system: System, model: str, seconds: float) -> dict[int, Served]:
    """Return by the number of clients what a server does for them."""
    requests = uploads(system.path)
    with system.serving(model) as port:
        asyncio.run(load(port, requests, max(_CLIENTS), seconds / 3))
        return {clients: asyncio.run(load(port, requests, clients, seconds)) for clients in _CLIENTS}


def _compared(text: str, theirs: Served, here: dict[str, Served]) -> Line:
    ratios = {precision: each.per_second / theirs.per_second for precision, each in here.items()}
    best = max(ratios, key=lambda precision: ratios[precision])
    said = " · ".join(f"{precision} {ratio:.1f} ×" for precision, ratio in ratios.items())
    met = ratios[best] >= _AT_LEAST and here[best].at(0.99) < theirs.at(0.99)
    target = f"≥ {_AT_LEAST:g} × by the better, and lower p99"
    return Line(f"{text}: {_said(theirs)}; camserve as many times as fast: {said}", target, met)


def _of(clients: int) -> str:
    return "one client" if clients == 1 else f"{clients} clients"


def _said(found: Served) -> str:
    return f"{found.per_second:.1f}/s, p50 {1000 * found.at(0.5):.0f} ms, p99 {1000 * found.at(0.99):.0f} ms"
