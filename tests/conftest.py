from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.limits import end_the_run, seconds_for

if TYPE_CHECKING:
    from collections.abc import Generator

# No test depends on the clock, least of all on a busy machine. In CI the search is the same at every run, so that a
# change is judged by what it changes; elsewhere it is random and finds new cases.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# Threads of a torch operation that wait for each other burn their cores, and here several processes share a few cores.
# Read when torch is loaded, also by processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

GRACE_S = 60.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test its time limit: its own, that of slow tests, or the default in pyproject.toml.

    Those of the page come last: they are many files of middling length, after which all cores are done at about the
    same time, and one after the other, as they share servers and a browser.
    """
    for item in items:
        item.add_marker(pytest.mark.timeout(seconds_for(item)))
    items.sort(key=lambda item: "browser" in item.path.parts)


def pytest_collection_finish() -> None:
    """Let Python's garbage collector leave alone what stays to the end: thousands of tests, and what they import.

    Going through all of it again and again took a tenth of the run.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the run where a test goes on after its limit.

    The limit is an exception in the main thread. A task of asyncio that happens to run then keeps it to itself, and a
    fixture that hangs on its way out, after the test has failed, has no limit any more.
    """
    last = threading.Timer(seconds_for(item) + GRACE_S, end_the_run, [item])
    last.daemon = True
    last.start()
    try:
        return (yield)
    finally:
        last.cancel()
