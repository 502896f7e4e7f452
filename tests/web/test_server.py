from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from service.web.server import _allow_open_files

if TYPE_CHECKING:
    import pytest


def test_as_many_files_as_the_machine_allows_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(1024, 524_288)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    _allow_open_files()
    assert limits[-1] == (524_288, 524_288)


def test_a_machine_that_does_not_allow_it_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    _allow_open_files()
