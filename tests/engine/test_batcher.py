from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from service.engine.batcher import Batcher

if TYPE_CHECKING:
    from collections.abc import Hashable


@dataclass(eq=False)
class Fake:
    """An entry of nothing but what the batcher looks at."""

    lane: Hashable
    number: int = 0
    pixels_count: int = 1
    alone: bool = False
    abandoned: bool = False


def anything(_lane: Hashable) -> bool:
    return True


def test_a_lone_entry_leaves_at_once() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000)
    entry = Fake("a")
    batcher.submit(entry)
    assert batcher.next_batch(anything) == [entry]
    assert batcher.next_batch(anything) == []


def test_the_lane_whose_head_waited_longest_is_served_first_and_lanes_do_not_mix() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000)
    entries = [Fake(lane) for lane in "abab"]
    for entry in entries:
        batcher.submit(entry)
    assert batcher.next_batch(anything) == [entries[0], entries[2]]
    assert batcher.next_batch(anything) == [entries[1], entries[3]]


def test_a_worker_gets_only_lanes_it_accepts() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000)
    first, second = Fake("a"), Fake("b")
    batcher.submit(first)
    batcher.submit(second)
    assert batcher.next_batch(lambda lane: lane == "b") == [second]
    assert batcher.next_batch(lambda lane: lane == "b") == []
    assert len(batcher) == 1


def test_batches_are_bounded_by_count_and_by_pixels() -> None:
    batcher: Batcher[Fake] = Batcher(3, 10)
    for cost in (4, 4, 4, 25, 1, 1, 1, 1):
        batcher.submit(Fake("a", pixels_count=cost))
    sizes = []
    while batch := batcher.next_batch(anything):
        sizes.append([entry.pixels_count for entry in batch])
    assert sizes == [[4, 4], [4], [25], [1, 1, 1], [1]]


def test_what_did_not_fit_is_not_tried_again_at_once() -> None:
    batcher: Batcher[Fake] = Batcher(8, 1000)
    batcher.learn("a", 4, fits=2)
    batcher.learn("b", 1, fits=0)
    batcher.learn("b", 1, fits=None)
    for lane in "aaabbb":
        batcher.submit(Fake(lane))
    assert [len(batcher.next_batch(anything)) for _ in range(5)] == [2, 1, 1, 1, 1]


def test_memory_that_comes_back_is_used_again_step_by_step() -> None:
    batcher: Batcher[Fake] = Batcher(8, 10_000)
    batcher.learn("a", 8, fits=2)
    sizes: list[int] = []
    while len(sizes) < 100:
        for _ in range(20):
            batcher.submit(Fake("a"))
        sizes.append(len(batcher.next_batch(anything)))
        batcher.learn("a", sizes[-1], fits=None)
    assert [(size, sizes.count(size)) for size in (2, 4, 8)] == [(2, 32), (4, 32), (8, 36)]


def test_a_batch_smaller_than_the_cap_proves_nothing() -> None:
    batcher: Batcher[Fake] = Batcher(8, 10_000)
    batcher.learn("a", 8, fits=4)
    for _ in range(100):
        batcher.learn("a", 3, fits=None)
    for _ in range(20):
        batcher.submit(Fake("a"))
    assert len(batcher.next_batch(anything)) == 4


def test_abandoned_entries_never_leave() -> None:
    batcher: Batcher[Fake] = Batcher(8, 1000)
    entries = [Fake("a", number=number, abandoned=number % 2 == 0) for number in range(6)]
    for entry in [*entries, Fake("b", abandoned=True)]:
        batcher.submit(entry)
    assert [entry.number for entry in batcher.next_batch(anything)] == [1, 3, 5]
    assert batcher.next_batch(anything) == []
    assert len(batcher) == 0


def test_a_resubmitted_job_goes_first_and_alone() -> None:
    batcher: Batcher[Fake] = Batcher(8, 1000)
    waiting = [Fake("b"), Fake("a"), Fake("a")]
    for entry in waiting:
        batcher.submit(entry)
    again = Fake("a", alone=True)
    batcher.resubmit(again)
    assert batcher.next_batch(anything) == [again]
    assert batcher.next_batch(anything) == [waiting[0]]
    assert batcher.next_batch(anything) == waiting[1:]


def test_what_goes_alone_does_not_join_those_before_it() -> None:
    batcher: Batcher[Fake] = Batcher(8, 1000)
    jobs = [Fake("a"), Fake("a"), Fake("a", alone=True), Fake("a")]
    for job in jobs:
        batcher.submit(job)
    assert [batcher.next_batch(anything) for _ in range(3)] == [jobs[:2], [jobs[2]], [jobs[3]]]


def test_resubmitted_jobs_keep_their_order() -> None:
    """A dead worker's entries are given back last first, so that the first of them is first again."""
    batcher: Batcher[Fake] = Batcher(8, 1000)
    batcher.submit(Fake("a", number=3))
    for number in (2, 1):
        batcher.resubmit(Fake("a", number=number))
    assert [entry.number for entry in batcher.next_batch(anything)] == [1, 2, 3]


class EveryJobLeavesOnce(RuleBasedStateMachine):
    """Any interleaving of arrivals, withdrawals, abandonments, resubmissions and pulls."""

    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.batcher: Batcher[Fake] = Batcher(4, 20)
        self.inside: list[Fake] = []
        self.left: list[Fake] = []

    @rule(target=waiting, lane=st.sampled_from("abc"), cost=st.integers(1, 25))
    def arrive(self, lane: str, cost: int) -> Fake:
        entry = Fake(lane, pixels_count=cost)
        self.batcher.submit(entry)
        self.inside.append(entry)
        return entry

    @rule(entry=consumes(waiting))
    def withdraw(self, entry: Fake) -> None:
        if not entry.abandoned:  # an abandoned entry may have been dropped by a pull
            assert self.batcher.withdraw(entry) == (entry in self.inside)
        else:
            self.batcher.withdraw(entry)
        if entry in self.inside:
            self.inside.remove(entry)

    @rule(entry=waiting)
    def abandon(self, entry: Fake) -> None:
        entry.abandoned = True

    @rule(target=waiting, lanes=st.sets(st.sampled_from("abc"), min_size=1))
    def pull(self, lanes: set[str]) -> object:
        candidates = [entry for entry in self.inside if entry.lane in lanes and not entry.abandoned]
        batch = self.batcher.next_batch(lambda lane: lane in lanes)
        assert bool(batch) == bool(candidates)
        if batch:
            lane = batch[0].lane
            assert batch == [entry for entry in self.inside if entry.lane == lane and not entry.abandoned][: len(batch)]
            assert len(batch) <= 4
            assert len(batch) == 1 or sum(entry.pixels_count for entry in batch) <= 20
        for entry in batch:
            assert entry not in self.left
            self.inside.remove(entry)
            self.left.append(entry)
        if not batch or any(entry.alone for entry in batch):
            return multiple()
        # The worker died: half of the batch comes back.
        again = batch[: len(batch) // 2]
        for entry in reversed(again):
            entry.alone = True
            self.left.remove(entry)
            self.inside.insert(0, entry)
            self.batcher.resubmit(entry)
        return multiple(*again)

    @invariant()
    def nothing_is_lost(self) -> None:
        alive = [entry for entry in self.inside if not entry.abandoned]
        assert len(alive) <= len(self.batcher) <= len(self.inside)


TestEveryJobLeavesOnce = EveryJobLeavesOnce.TestCase


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_all_leave_in_order_of_arrival_within_their_lane(lanes: list[str]) -> None:
    batcher: Batcher[Fake] = Batcher(4, 1000)
    entries = [Fake(lane, number) for number, lane in enumerate(lanes)]
    for entry in entries:
        batcher.submit(entry)
    left: list[Fake] = []
    while batch := batcher.next_batch(anything):
        left += batch
    for lane in "ab":
        assert [entry.number for entry in left if entry.lane == lane] == [
            entry.number for entry in entries if entry.lane == lane
        ]
