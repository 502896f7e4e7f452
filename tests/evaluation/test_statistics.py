"""Intervals and tie sets: what a few pictures can tell, and what they cannot."""

from __future__ import annotations

import numpy as np
import pytest

from service.evaluation.pxap import BINS, average_precision
from service.evaluation.statistics import beats, compare, cross_fitted, interval, pooled_interval


def test_an_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(5, 1, 100)
    found = interval(np.append(values, np.nan), 0)
    assert found.n == 100
    assert found.mean == pytest.approx(values.mean())
    # Two standard errors, 0.2, on either side.
    assert found.high - found.low == pytest.approx(4 * values.std() / 10, rel=0.1)


def test_of_nothing_there_is_no_interval() -> None:
    assert interval(np.array([np.nan]), 0).n == 0


def test_the_same_seed_has_the_same_tie_set() -> None:
    scores = np.random.default_rng(0).normal(0, 1, (6, 30)) + np.linspace(0, 0.6, 6)[:, None]
    assert compare(scores, 7) == compare(scores, 7)


def test_two_identical_candidates_share_being_best() -> None:
    one = np.random.default_rng(0).random(30)
    found = compare(np.stack([one, one, one - 0.5]), 0)
    assert found.best_share == (0.5, 0.5, 0.0)
    assert sorted(found.ties) == [0, 1]
    swapped = compare(np.stack([one - 0.5, one, one]), 0)
    assert swapped.best_share == (0.0, 0.5, 0.5)


def test_a_small_difference_that_every_picture_shows_is_one() -> None:
    hardness = np.random.default_rng(0).normal(0, 10, 40)
    noise = np.random.default_rng(1).normal(0, 0.1, 40)
    found = compare(np.stack([hardness, hardness + 0.5 + noise]), 0)
    assert found.ties == (1,)
    assert found.behind[0][1] > 0


def test_a_large_difference_that_hangs_on_a_few_pictures_is_none() -> None:
    lucky = np.zeros(20)
    lucky[:2] = 1.0
    assert set(compare(np.stack([np.zeros(20), lucky]), 0).ties) == {0, 1}


def test_the_tie_set_holds_the_best_in_nineteen_of_twenty_cases() -> None:
    # Twelve candidates that are truly equal: the simultaneous bounds must not throw any of them out too often.
    rng = np.random.default_rng(0)
    kept = sum(len(compare(rng.normal(0, 1, (12, 40)), 0).ties) == 12 for _ in range(100))
    assert kept >= 88


def test_beating_is_beyond_doubt_or_not_at_all() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(30)
    assert beats(one + 0.5, one, 0) is True
    assert beats(one, one, 0) is False
    assert beats(one, one + 0.5, 0) is False
    assert beats(np.full(3, np.nan), one[:3], 0) is None


def test_a_threshold_is_judged_on_pictures_that_did_not_choose_it() -> None:
    # Noise at fifty thresholds: the best of them looks good on the pictures that chose it, and is no better elsewhere.
    scores = np.random.default_rng(0).normal(0, 1, (16, 200))
    assert scores.mean(axis=0).max() > 0.5
    assert abs(cross_fitted(scores, 0).mean()) < 0.5
    assert cross_fitted(np.array([[0.1, 0.9]]), 0).tolist() == [0.9]


def test_what_is_pooled_has_an_interval_too() -> None:
    counts = np.zeros((20, 2, BINS))
    counts[:, 0, 90] = counts[:, 1, 10] = 0.5
    counts[:4, 0, 90], counts[:4, 0, 5] = 0.0, 0.5
    found = pooled_interval(counts, average_precision, 0)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(0.8 + 0.2 * 20 / 40)
