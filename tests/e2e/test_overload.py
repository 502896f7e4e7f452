"""Three times the capacity: what is let in is answered in a time that the queue bounds, the rest hears when to come."""

from __future__ import annotations

import os
import re

import pytest

from benchmarks.overload import MAX_QUEUE, overload

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SECONDS = float(os.environ.get("OVERLOAD_S", "20"))


def gauge(metrics: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_what_is_let_in_is_answered_in_time_and_the_rest_is_told_when_to_come() -> None:
    ran = overload(SECONDS)
    answered, refused = ran.times(200), ran.times(429)
    assert len(answered) + len(refused) == len(ran.outcomes), "every request has one answer, and no other status"
    assert len(answered) >= MAX_QUEUE
    assert refused

    wait_s = MAX_QUEUE / (len(answered) / ran.seconds)  # a full queue at the rate of service
    assert answered[-1] < 3 * wait_s + 5
    assert refused[len(refused) // 2] < wait_s, "a refusal does not wait in the queue"
    assert all(1 <= outcome.retry_after_s <= 30 for outcome in ran.outcomes if outcome.retry_after_s is not None)
    assert sum(outcome.retry_after_s is not None for outcome in ran.outcomes) == len(refused)
    assert max(ran.probes) < 20, "it says that it is alive"

    assert ran.served_after == 200
    assert gauge(ran.metrics, "camserve_queue_depth") == 0
    assert gauge(ran.metrics, "camserve_in_flight") == 0
    assert ran.after.rss_mb < ran.before.rss_mb + 50
    assert ran.after.descriptors <= ran.before.descriptors
    assert ran.after.threads <= ran.before.threads + 1
