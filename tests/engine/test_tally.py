"""What is counted of a version of a model."""

from __future__ import annotations

from service.engine.answers import ImageAnswer, StageTimes
from service.engine.tally import Tallies, Tally
from service.errors import InvalidImage


def image(size: int, *, failed: bool = False) -> ImageAnswer:
    times = StageTimes(decode_s=0.1, queue_s=0.2, compute_s=0.4, render_s=0.3, batch_size=size)
    return ImageAnswer(0, None, "", times=times, error=InvalidImage("no") if failed else None)


def test_a_batch_is_counted_once_however_many_images_it_had() -> None:
    tally = Tally()
    tally.add([image(4) for _ in range(3)])
    tally.add([image(4), image(1), image(1, failed=True)])
    assert tally.images == 5
    assert {size: (took.count, round(took.seconds, 6)) for size, took in tally.batches.items()} == {
        4: (1.0, 0.4),
        1: (1.0, 0.4),
    }
    assert round(tally.queue.seconds, 6) == 1.0
    assert tally.last_s > 0


def test_versions_are_apart_and_not_all_are_remembered() -> None:
    tallies = Tallies()
    tallies.of("a", "1").success.add(1.0)
    assert tallies.of("a", "1").success.count == 1
    assert tallies.of("a", "2").success.count == 0
    for number in range(1000):
        tallies.of("b", str(number))
    assert tallies.of("a", "1").success.count == 0
