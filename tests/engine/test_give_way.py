from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from service.engine.workers.give_way import GiveWay

if TYPE_CHECKING:
    import pytest


def waiting(give_way: GiveWay, model: str) -> tuple[threading.Thread, threading.Event]:
    """A large batch of ``model`` that waits, and what is set when it goes on."""
    on = threading.Event()

    def wait() -> None:
        give_way.wait(model)
        on.set()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, on


def test_it_waits_for_small_batches_of_other_models_and_for_no_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.workers.give_way._PATIENCE_S", 600.0)
    give_way = GiveWay()
    with give_way.small(1, "a"):
        thread, on = waiting(give_way, "b")
        assert not on.wait(0.05)
        later = give_way.small(2, "a")
        later.__enter__()
    assert on.wait(60), "the one that it waited for is over"
    later.__exit__(None, None, None)
    thread.join()


def test_those_of_its_own_model_wait_for_its_lock() -> None:
    give_way = GiveWay()
    with give_way.small(1, "a"):
        give_way.wait("a")


def test_it_goes_on_in_the_end() -> None:
    give_way = GiveWay()
    with give_way.small(1, "a"):
        give_way.wait("b")
