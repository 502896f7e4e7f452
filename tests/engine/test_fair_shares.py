from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.engine.fair_shares import FairShares

PIECES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20)), min_size=1, max_size=60)
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}


@given(PIECES)
def test_those_who_have_work_get_it_by_weight(pieces: list[tuple[str, int]]) -> None:
    shares = FairShares()
    waiting = sorted(
        (shares.stamp(owner, size, WEIGHTS[owner]), i, owner, size) for i, (owner, size) in enumerate(pieces)
    )
    had = dict.fromkeys(WEIGHTS, 0.0)
    for place, (stamp, _, owner, size) in enumerate(waiting):
        shares.begin(stamp)
        had[owner] += size / WEIGHTS[owner]
        for one in {each[2] for each in waiting[place + 1 :]}:
            # Who waits is never behind another by more than the largest piece of each.
            most_behind = max(value - 20 / WEIGHTS[other] for other, value in had.items())
            assert most_behind - had[one] <= 20 / WEIGHTS[one]


@given(PIECES)
def test_of_one_owner_the_first_comes_first(pieces: list[tuple[str, int]]) -> None:
    shares = FairShares()
    stamps = [shares.stamp("a", size) for _, size in pieces]
    assert stamps == sorted(stamps)


def test_who_was_idle_has_no_credit() -> None:
    shares = FairShares()
    for _ in range(100):
        shares.begin(shares.stamp("busy", 10))
    now = shares.stamp("busy", 10)
    assert shares.stamp("idle", 10) >= now - 10


@given(st.lists(st.text(max_size=5), max_size=100))
def test_who_has_no_work_left_is_forgotten(owners: list[str]) -> None:
    shares = FairShares()
    for stamp in sorted([shares.stamp(owner, 1) for owner in owners] + [shares.stamp("last", 1000)]):
        shares.begin(stamp)
    shares.begin(2000)
    assert len(shares) == 0
