"""Mixed requests, many: nothing grows. ``SOAK_REQUESTS=10000`` for the long run; ``make bench ARGS=soak`` prints it."""

from __future__ import annotations

import os

import pytest

from benchmarks.soak import growth_mb, soak

pytestmark = [pytest.mark.slow, pytest.mark.alone]

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "1000"))


def test_front_and_worker_do_not_grow() -> None:
    ran = soak(REQUESTS)
    assert ran.statuses.total() == REQUESTS
    assert set(ran.statuses) <= {0, 200, 400, 422}, "nothing is our fault"
    assert ran.statuses[200] > REQUESTS / 2
    for name, samples in (("front", ran.front), ("worker", ran.worker)):
        middle, last = samples[len(samples) // 2], samples[-1]
        # One decoded picture kept per request would be 50 MB over the half that lies between, in a thousand requests.
        assert growth_mb(samples) < 20, f"{name}: {[round(sample.rss_mb) for sample in samples]}"
        assert last.descriptors <= middle.descriptors + 8, name  # as many as there are clients
        assert last.threads <= middle.threads + 2, name
