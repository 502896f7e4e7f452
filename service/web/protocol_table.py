"""The table of protocols, asked by path: whose errors are spoken there, what a key needs, whether it is a probe.

Paths are as the routes know them: without the prefix below which a server mounts the application.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.routing import Route, compile_path

from service.problems import problem_body
from service.protocols import declared_scope

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Iterator, Sequence

    from service.protocols import ErrorBody, WireProtocol
    from service.settings import Network, Scope

__all__ = ["ProtocolTable"]

_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class _Guarded:
    """A route by method, and the scope that a key needs for it; None where everybody may go."""

    method: str
    pattern: re.Pattern[str]
    scope: Scope | None


class ProtocolTable:
    """Answers what the rows say of a path.

    Args:
        rows: the protocols; where two have the same route, the first counts.
        off: those that are not spoken: at their paths nothing is answered, and that is said in their words.

    Raises:
        TypeError: a router holds something else than routes, of which no scope could be known.
    """

    def __init__(self, rows: Sequence[WireProtocol], off: Sequence[WireProtocol] = ()) -> None:
        self.rows = tuple(rows)
        self._by_prefix, self._off = _by_prefix(rows), _by_prefix(off)
        self._open = _patterns(path for row in rows for path in row.open_paths)
        self._open_posts = _patterns(path for row in rows for path in row.open_posts)
        self._large = {path: setting for row in rows for path, setting in row.large_posts.items()}
        self._probes = _patterns(path for row in rows for path in row.probes)
        self._guarded = [guarded for row in rows for route in routes_of(row) for guarded in self._guard(route)]

    def protocol(self, path: str) -> WireProtocol | None:
        """Return the protocol with the longest prefix that ``path`` has; None for a path of none."""
        return _longest(self._by_prefix, path)

    def protocol_off(self, path: str) -> WireProtocol | None:
        """Return the protocol that is not spoken and whose ``path`` would be; None for any other."""
        return None if self.protocol(path) else _longest(self._off, path)

    def error_body(self, path: str) -> ErrorBody:
        """Return what words the errors at ``path``: its protocol, or problem+json for a path of none."""
        row = self.protocol(path) or self.protocol_off(path)
        return problem_body if row is None else row.error_body

    def takes_basic(self, path: str) -> bool:
        """Whether a key may come as HTTP Basic at ``path``."""
        row = self.protocol(path)
        return row is not None and row.basic_keys

    def addresses(self, path: str) -> tuple[Network, ...] | None:
        """Return from where alone ``path`` is asked, and then without a key; None where keys decide."""
        row = self.protocol(path)
        return None if row is None else row.addresses

    def is_probe(self, path: str) -> bool:
        """Whether supervisors ask ``path``; it is answered whatever state the service is in."""
        return _match(self._probes, path)

    def large_post(self, method: str, path: str) -> str | None:
        """Return the setting that bounds a body that goes to the disk as it comes; None for any other."""
        return self._large.get(path) if method == "POST" else None

    def scope_needed(self, method: str, path: str) -> Scope | None:
        """Return the scope that a key needs; None where everybody may go.

        Whatever is no route needs a key, too, so that strangers learn nothing of what there is.
        """
        for route in self._guarded:
            if route.method == method and route.pattern.match(path):
                return route.scope
        return None if _match(self._open, path) else "infer"

    def paths(self) -> list[str]:
        """Return every path that has a route."""
        return [route.path for row in self.rows for route in routes_of(row)]

    def _guard(self, route: Route) -> Iterator[_Guarded]:
        declared = declared_scope(route.endpoint)
        for method in route.methods or ():
            if method == "POST" and _match(self._open_posts, route.path):
                scope: Scope | None = None
            elif declared is not None or method not in _READING:
                scope = declared or "manage"
            else:
                scope = None if _match(self._open, route.path) else "infer"
            yield _Guarded(method, route.path_regex, scope)


def routes_of(row: WireProtocol) -> Iterator[Route]:
    """Yield the routes of a row.

    Raises:
        TypeError: there is something else among them.
    """
    for route in row.router.routes:
        if not isinstance(route, Route):
            raise TypeError(
                f"The router of {row.name} holds a {type(route).__name__}; declare each route on it itself."
            )
        yield route


def _by_prefix(rows: Sequence[WireProtocol]) -> list[tuple[str, WireProtocol]]:
    """Return prefixes and their protocols, the longest first."""
    by_prefix = [(prefix, row) for row in rows for prefix in row.prefixes]
    return sorted(by_prefix, key=lambda each: len(each[0]), reverse=True)


def _longest(by_prefix: Iterable[tuple[str, WireProtocol]], path: str) -> WireProtocol | None:
    return next((row for prefix, row in by_prefix if path == prefix or path.startswith(f"{prefix}/")), None)


def _patterns(paths: Iterable[str]) -> list[re.Pattern[str]]:
    return [compile_path(path)[0] for path in paths]


def _match(patterns: Iterable[re.Pattern[str]], path: str) -> bool:
    return any(pattern.match(path) for pattern in patterns)
