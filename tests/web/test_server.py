from __future__ import annotations

import resource

import pytest

from service.errors import ServiceError
from service.settings import Settings
from service.web.server import _allow_open_files, _with_room_for_connections


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


def test_no_more_connections_are_allowed_than_there_are_files_for(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(max_connections=1000)
    assert _with_room_for_connections(settings, 524_288) == settings
    assert _with_room_for_connections(settings, resource.RLIM_INFINITY) == settings
    assert not caplog.records
    assert _with_room_for_connections(settings, 1024).max_connections == 1024 - 32 - 64 - 12
    assert "ulimit -n" in caplog.text


def test_too_few_files_are_said_in_words() -> None:
    with pytest.raises(ServiceError, match=r"may open 100 files, .*ulimit -n"):
        _with_room_for_connections(Settings(), 100)
