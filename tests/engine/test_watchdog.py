"""When a worker counts as hung."""

from __future__ import annotations

from service.engine.messages import Pong, Progress, Ran
from service.engine.watchdog import Watchdog


def ticks(watchdog: Watchdog, times: int) -> list[str | None]:
    return [watchdog.tick() for _ in range(times)]


def test_no_sign_of_life() -> None:
    watchdog = Watchdog(patience=3)
    for _ in range(5):
        assert ticks(watchdog, 3) == [None] * 3
        watchdog.heard(Pong({}))
    assert ticks(watchdog, 4) == [None] * 3 + ["no sign of life"]


def test_a_batch_that_does_not_end_though_the_worker_is_alive() -> None:
    watchdog = Watchdog(patience=3)
    ticks(watchdog, 2)
    watchdog.sent(7)
    noticed = []
    for _ in range(4):
        watchdog.heard(Pong({}))
        noticed.append(watchdog.tick())
    assert noticed == [None] * 3 + ["no end of a batch"]


def test_a_slow_batch_that_tells_of_its_progress_is_let_be() -> None:
    watchdog = Watchdog(patience=3)
    watchdog.sent(7)
    for step in range(20):
        if not step % 3:
            watchdog.heard(Progress(7, step / 20))
        assert watchdog.tick() is None


def test_progress_of_one_batch_says_nothing_of_another() -> None:
    watchdog = Watchdog(patience=3)
    watchdog.sent(7)
    watchdog.sent(8)
    noticed = []
    for _ in range(4):
        watchdog.heard(Progress(8, 0.5))
        noticed.append(watchdog.tick())
    assert noticed == [None] * 3 + ["no end of a batch"]


def test_a_batch_that_has_ended_is_not_waited_for() -> None:
    watchdog = Watchdog(patience=3)
    watchdog.sent(7)
    watchdog.heard(Ran(7, [], 0.1, None, 0))
    for _ in range(9):
        watchdog.heard(Pong({}))
        assert watchdog.tick() is None
