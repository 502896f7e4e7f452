from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from service.engine.batcher import Batcher


class FakeLane(NamedTuple):
    name: str
    model: str = "m"
    large: bool = False


@dataclass(eq=False)
class Fake:
    """An entry of nothing but what the batcher looks at. Its lane may be given by its name alone."""

    name: str = "a"
    number: int = 0
    pixels_count: int = 1
    alone: bool = False
    abandoned: bool = False
    client: str = ""
    weight: float = 1.0
    amount: float = 1.0
    model: str = "m"
    large: bool = False

    @property
    def lane(self) -> FakeLane:
        return FakeLane(self.name, self.model, self.large)


A, B = FakeLane("a"), FakeLane("b")


def anything(_lane: FakeLane) -> bool:
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
    assert batcher.next_batch(lambda lane: lane.name == "b") == [second]
    assert batcher.next_batch(lambda lane: lane.name == "b") == []
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
    batcher.learn(A, 4, fits=2)
    batcher.learn(B, 1, fits=0)
    batcher.learn(B, 1, fits=None)
    for lane in "aaabbb":
        batcher.submit(Fake(lane))
    assert [len(batcher.next_batch(anything)) for _ in range(5)] == [2, 1, 1, 1, 1]


def test_what_did_not_fit_is_remembered_of_so_many_lanes_only() -> None:
    batcher: Batcher[Fake] = Batcher(8, 1000)
    for number in range(2000):
        batcher.learn(A._replace(name=str(number)), 4, fits=2)
    assert len(batcher._caps) == 1000


def test_memory_that_comes_back_is_used_again_step_by_step() -> None:
    batcher: Batcher[Fake] = Batcher(8, 10_000)
    batcher.learn(A, 8, fits=2)
    sizes: list[int] = []
    while len(sizes) < 100:
        for _ in range(20):
            batcher.submit(Fake("a"))
        sizes.append(len(batcher.next_batch(anything)))
        batcher.learn(A, sizes[-1], fits=None)
    assert [(size, sizes.count(size)) for size in (2, 4, 8)] == [(2, 32), (4, 32), (8, 36)]


def test_a_batch_smaller_than_the_cap_proves_nothing() -> None:
    batcher: Batcher[Fake] = Batcher(8, 10_000)
    batcher.learn(A, 8, fits=4)
    for _ in range(100):
        batcher.learn(A, 3, fits=None)
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


def test_resubmitted_jobs_keep_their_order_and_go_alone() -> None:
    """A dead worker's entries are given back last first, so that the first of them is first again."""
    batcher: Batcher[Fake] = Batcher(8, 1000)
    batcher.submit(Fake("a", number=3))
    for number in (2, 1):
        batcher.resubmit(Fake("a", number=number))
    assert [[entry.number for entry in batcher.next_batch(anything)] for _ in range(4)] == [[1], [2], [3], []]


def test_a_resubmitted_job_waits_for_a_worker_that_accepts_it() -> None:
    batcher: Batcher[Fake] = Batcher(8, 1000)
    again, other = Fake("a"), Fake("b")
    batcher.resubmit(again)
    batcher.submit(other)
    assert batcher.next_batch(lambda lane: lane.name == "b") == [other]
    assert len(batcher) == 1
    assert batcher.withdraw(again)
    assert not batcher.withdraw(again)
    assert batcher.next_batch(anything) == []


def test_a_batch_has_no_more_whole_passes_than_pictures() -> None:
    batcher: Batcher[Fake] = Batcher(8, 1000)
    for amount in (1.9, 1.1, 3.5, 3.5, 1.0, 20.0, 1.0):
        batcher.submit(Fake("a", amount=amount))
    taken = []
    while batch := batcher.next_batch(anything):
        taken.append([entry.amount for entry in batch])
    assert taken == [[1.9, 1.1, 3.5, 3.5], [1.0], [20.0], [1.0]]


def test_a_batch_is_no_longer_than_it_may_take() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000, max_batch_s=0.1)

    def size() -> int:
        for _ in range(16):
            batcher.submit(Fake("a"))
        taken = len(batcher.next_batch(anything))
        while batcher.next_batch(anything):
            pass
        return taken

    assert size() == 16, "nothing is known yet"
    batcher.learn_pace(A, 16, passes=16, seconds=0.32)
    assert size() == 5
    batcher.learn_pace(A, 2, passes=1, seconds=100.0)
    assert size() == 1, "one goes, however long it takes"
    batcher.learn_pace(A, 5, passes=5, seconds=0.05)
    assert size() == 10, "what is fast is not slowed down by what the machine did besides"
    assert Batcher[Fake](16, 1000, max_batch_s=0.1).next_batch(anything) == []


def test_batches_are_shorter_where_several_clients_want_the_model() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000, max_batch_s=0.1)
    batcher.learn_pace(A, 2, passes=1, seconds=0.02)
    for client in ("x", "x", "x", "x", "x", "x", "y", "y"):
        batcher.submit(Fake("a", client=client))
    sizes = []
    while batch := batcher.next_batch(anything):
        sizes.append("".join(entry.client for entry in batch))
    assert sizes == ["xyx", "yxx", "xx"]

    def taken_by_one() -> int:
        for _ in range(6):
            batcher.submit(Fake("a", client="x"))
        taken = len(batcher.next_batch(anything))
        while batcher.next_batch(anything):
            pass
        return taken

    assert taken_by_one() == 3, "the other was here a moment ago"
    for _ in range(8):
        taken_by_one()
    assert taken_by_one() == 5


def test_a_client_that_is_alone_has_larger_batches_of_a_slow_model() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000, max_batch_s=0.1)

    def size(*clients: str, threads: int = 3) -> int:
        for client in clients:
            batcher.submit(Fake("a", client=client))
        taken = len(batcher.next_batch(anything, threads))
        while batcher.next_batch(anything, threads):
            pass
        return taken

    batcher.learn_pace(A, 1, passes=1, seconds=0.2)
    assert size(*["x"] * 16) == 4, "they may take four and a half times what one takes"
    batcher.learn_pace(A, 4, passes=4, seconds=0.4)
    assert size(*["x"] * 16) == 9, "and more fit, where they take less together: as many for each thread"
    assert size(*["x"] * 16, threads=2) == 8, "four for each are enough"
    assert size("x", "x", "y") == 1, "whoever comes next waits for one picture"
    assert size("x", "x") == 1, "and so for a while"


def test_every_thread_has_as_many_pictures_of_a_batch() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000, max_batch_s=0.75)
    batcher.learn_pace(A, 2, passes=1, seconds=0.1)
    for threads, amount, size in ((0, 1, 7), (1, 1, 7), (2, 1, 6), (3, 1, 6), (4, 1, 7), (2, 2.5, 3), (1, 2.5, 3)):
        for _ in range(16):
            batcher.submit(Fake("a", amount=amount))
        taken = len(batcher.next_batch(anything, threads))
        assert taken == size, "seven passes have time; of four threads none has two pictures"
        while batcher.next_batch(anything):
            pass
    batcher.learn_pace(A, 2, passes=1, seconds=0.05)
    for _ in range(16):
        batcher.submit(Fake("a", amount=2.0))
    assert len(batcher.next_batch(anything, 2)) == 6, "fifteen passes are seven pictures, and three for each are six"


def test_another_device_than_a_cpu_has_as_many_as_there_is_time_for() -> None:
    batcher: Batcher[Fake] = Batcher(32, 1000, max_batch_s=0.05)
    batcher.learn_pace(A, 1, passes=1, seconds=0.1)
    batcher.learn_pace(A, 20, passes=20, seconds=0.4)
    for threads, size in ((0, 22), (2, 8)):
        for _ in range(32):
            batcher.submit(Fake("a"))
        assert len(batcher.next_batch(anything, threads)) == size
        while batcher.next_batch(anything):
            pass


def test_what_was_learned_of_a_model_goes_with_it() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000, max_batch_s=0.1)
    batcher.learn(A, 4, fits=2)
    batcher.learn_pace(A, 1, passes=1, seconds=1.0)
    batcher.forget(lambda model: model == "m")
    for _ in range(16):
        batcher.submit(Fake("a"))
    assert len(batcher.next_batch(anything)) == 16


# -- clients and models -----------------------------------------------------------------------------------------------


def test_who_asks_for_little_is_next_however_much_others_wait_for() -> None:
    batcher: Batcher[Fake] = Batcher(4, 1000)
    for number in range(100):
        batcher.submit(Fake("a", number, client="bulk"))
    assert [entry.number for entry in batcher.next_batch(anything)] == [0, 1, 2, 3]
    little = Fake("b", client="little")
    batcher.submit(little)
    assert batcher.next_batch(anything) == [little]
    assert [entry.number for entry in batcher.next_batch(anything)] == [4, 5, 6, 7]


def test_entries_of_several_clients_join_in_the_order_of_what_these_have_had() -> None:
    batcher: Batcher[Fake] = Batcher(6, 1000)
    for client, count in (("x", 6), ("y", 2), ("z", 1)):
        for number in range(count):
            batcher.submit(Fake("a", number, client=client))
    taken = [(entry.client, entry.number) for entry in batcher.next_batch(anything)]
    assert taken == [("x", 0), ("y", 0), ("z", 0), ("x", 1), ("y", 1), ("x", 2)]


def test_who_withdraws_pays_nothing() -> None:
    batcher: Batcher[Fake] = Batcher(1, 1000)
    given_up = [Fake("a", client="x", amount=100.0) for _ in range(5)]
    for entry in given_up:
        batcher.submit(entry)
    kept, other = Fake("a", client="x"), Fake("a", client="y")
    batcher.submit(kept)
    batcher.submit(other)
    assert all(batcher.withdraw(entry) for entry in given_up)
    assert batcher.next_batch(anything) == [kept]
    assert batcher.next_batch(anything) == [other]


def test_small_entries_do_not_wait_for_what_their_client_has_had_of_large_ones() -> None:
    batcher: Batcher[Fake] = Batcher(16, 1000)
    for number in range(3):
        batcher.submit(Fake("l", number, client="x", amount=300.0, alone=True, large=True))
    small = [Fake("s", client=client) for client in "xy"]
    for entry in small:
        batcher.submit(entry)
    assert batcher.next_batch(anything) == small
    assert [entry.number for entry in batcher.next_batch(anything)] == [0]


def test_models_have_equal_amounts() -> None:
    batcher: Batcher[Fake] = Batcher(1, 1000)
    for model, amount in (("heavy", 3.0), ("light", 1.0)):
        for _ in range(20):
            batcher.submit(Fake("a", model=model, amount=amount))
    had = {"heavy": 0.0, "light": 0.0}
    for _ in range(20):
        (entry,) = batcher.next_batch(anything)
        had[entry.model] += entry.amount
        assert abs(had["heavy"] - had["light"]) <= 3.0


@st.composite
def backlogs(draw: st.DrawFn) -> dict[str, tuple[float, list[float]]]:
    """Clients with their weights and the amounts that they wait for."""
    amounts = st.lists(st.floats(0.5, 20.0), min_size=1, max_size=40)
    return draw(st.dictionaries(st.sampled_from("vwxyz"), st.tuples(st.floats(0.25, 8.0), amounts), min_size=2))


@given(backlogs())
def test_clients_that_wait_have_shares_by_their_weights(backlog: dict[str, tuple[float, list[float]]]) -> None:
    """What two of them have had, for their weights, differs by no more than their largest entries."""
    batcher: Batcher[Fake] = Batcher(1, 1000)
    for client, (weight, amounts) in backlog.items():
        for amount in amounts:
            batcher.submit(Fake("a", client=client, weight=weight, amount=amount))
    had = dict.fromkeys(backlog, 0.0)
    left = {client: len(amounts) for client, (_, amounts) in backlog.items()}
    while all(left.values()):
        (entry,) = batcher.next_batch(anything)
        had[entry.client] += entry.amount / entry.weight
        left[entry.client] -= 1
        for one, other in combinations(backlog, 2):
            bound = sum(max(backlog[client][1]) / backlog[client][0] for client in (one, other))
            assert abs(had[one] - had[other]) <= bound + 1e-6


@given(backlogs(), st.integers(0, 40))
def test_a_newcomer_goes_before_all_that_had_a_turn_however_much_they_wait_for(
    backlog: dict[str, tuple[float, list[float]]], turns: int
) -> None:
    batcher: Batcher[Fake] = Batcher(1, 1000)
    for client, (weight, amounts) in backlog.items():
        for amount in amounts:
            batcher.submit(Fake("a", client=client, weight=weight, amount=amount))
    served = {entry.client for _ in range(turns) for entry in batcher.next_batch(anything)}
    newcomer = Fake("b", client="new")
    batcher.submit(newcomer)
    while (batch := batcher.next_batch(anything)) != [newcomer]:
        assert batch[0].client not in served  # it has not had its first turn, and came before
        served.add(batch[0].client)


@settings(max_examples=40)  # some thousand turns each
@given(st.floats(1.0, 300.0), st.floats(0.5, 20.0))
def test_newcomers_without_end_starve_nobody_and_are_forgotten(debt: float, amount: float) -> None:
    """One client has had much and waits; every turn a client comes that was never there."""
    batcher: Batcher[Fake] = Batcher(1, 1000)
    waiting = Fake("a", client="old")
    batcher.submit(Fake("a", client="old", amount=debt))
    batcher.submit(waiting)
    batcher.next_batch(anything)
    # Two wait, so half of what is given moves virtual time on: past the debt, and past the two turns that newcomers
    # have in advance. A newcomer is remembered for as long as it would come back with less than it left with.
    advance = 2 * max(debt, amount)
    turns = 0
    while True:
        batcher.submit(Fake("a", client=f"address {turns}", amount=amount))
        if batcher.next_batch(anything) == [waiting]:
            break
        turns += 1
        assert remembered(batcher) <= 2 * (advance + amount) / amount + 3
    assert turns * amount <= 2 * (debt + advance + amount)


@given(st.lists(st.floats(0.5, 3.0), min_size=1, max_size=5), st.integers(0, 3))
def test_who_asks_for_less_than_its_share_is_next_each_time(bulk: list[float], more: int) -> None:
    """Clients that always wait, one entry's amount each, and one that comes after every other turn of each of them."""
    batcher: Batcher[Fake] = Batcher(1, 1000)
    period = 2 * len(bulk) + more
    for client, amount in enumerate(bulk):
        for _ in range(60 * period):
            batcher.submit(Fake("a", client=f"bulk {client}", amount=amount))
    for _ in range(50):
        for _ in range(period):
            batcher.next_batch(anything)
        seldom = Fake("a", client="seldom", amount=min(bulk))
        batcher.submit(seldom)
        assert batcher.next_batch(anything) == [seldom]


@given(st.integers(1, 5))
def test_who_always_comes_back_at_once_has_its_share_and_no_more(count: int) -> None:
    batcher: Batcher[Fake] = Batcher(1, 1000)
    for client in range(count):
        for _ in range(100):
            batcher.submit(Fake("a", client=f"bulk {client}"))
    batcher.submit(back := Fake("a", client="back"))
    had = 0
    for _ in range(100):
        if batcher.next_batch(anything) == [back]:
            had += 1
            batcher.submit(back := Fake("a", client="back"))
    assert abs(had - 100 / (count + 1)) <= 3


def test_nothing_is_remembered_of_clients_when_nobody_waits() -> None:
    batcher: Batcher[Fake] = Batcher(4, 1000)
    for number in range(1000):
        batcher.submit(Fake("a", client=f"address {number}", amount=300.0))
    for number in range(1000, 2000):
        entry = Fake("a", client=f"address {number}")
        batcher.submit(entry)
        batcher.withdraw(entry)
    while batcher.next_batch(anything):
        pass
    assert remembered(batcher) == 0


def test_who_had_nothing_to_ask_has_no_credit() -> None:
    batcher: Batcher[Fake] = Batcher(1, 1000)
    for _ in range(40):
        batcher.submit(Fake("a", client="busy"))
    for _ in range(20):
        batcher.next_batch(anything)
    for _ in range(20):
        batcher.submit(Fake("a", client="idle"))
    served = [batcher.next_batch(anything)[0].client for _ in range(20)]
    assert served.count("busy") in (9, 10)


def remembered(batcher: Batcher[Fake]) -> int:
    """How many clients it knows something of."""
    return sum(len(group.clients) for group in batcher._groups.values())


# -- any interleaving -------------------------------------------------------------------------------------------------


class EveryJobLeavesOnce(RuleBasedStateMachine):
    """Any interleaving of arrivals, withdrawals, abandonments, resubmissions and pulls."""

    waiting = Bundle("waiting")

    def __init__(self) -> None:
        super().__init__()
        self.batcher: Batcher[Fake] = Batcher(4, 20)
        self.inside: list[Fake] = []
        self.left: list[Fake] = []

    @rule(
        target=waiting,
        lane=st.sampled_from("abc"),
        cost=st.integers(1, 25),
        client=st.sampled_from("xy"),
        amount=st.sampled_from([0.5, 1.0, 3.0]),
    )
    def arrive(self, lane: str, cost: int, client: str, amount: float) -> Fake:
        large = lane == "c"
        entry = Fake(lane, pixels_count=cost, client=client, amount=amount, model=lane, large=large, alone=large)
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
        candidates = [entry for entry in self.inside if entry.name in lanes and not entry.abandoned]
        batch = self.batcher.next_batch(lambda lane: lane.name in lanes)
        assert bool(batch) == bool(candidates)
        if batch:
            lane = batch[0].name
            for client in "xy":
                taken = [entry for entry in batch if entry.client == client]
                alive = [entry for entry in self.inside if not entry.abandoned and entry.client == client]
                assert taken == [entry for entry in alive if entry.name == lane][: len(taken)]
            assert len(batch) <= 4
            assert len(batch) == 1 or sum(int(entry.amount) for entry in batch) <= 4
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
        assert [entry.number for entry in left if entry.name == lane] == [
            entry.number for entry in entries if entry.name == lane
        ]
