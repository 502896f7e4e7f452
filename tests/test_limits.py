"""No test can hang the suite: each has a time limit, which is felt wherever a test may wait."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import SLOW_S, seconds_for

ROOT = Path(__file__).parents[1]

PREAMBLE = """
import asyncio, subprocess, sys, threading, pytest
from tests.browser.conftest import browser
NEVER, LOCK = threading.Event(), threading.Lock()
PROCESS = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
"""
WAITS = """
async def test_a_future():
    await asyncio.get_running_loop().create_future()

def test_a_thread():
    thread = threading.Thread(target=NEVER.wait, daemon=True)
    thread.start()
    thread.join()

def test_a_lock():
    LOCK.acquire()
    LOCK.acquire()

def test_a_process():
    PROCESS.wait()

def test_what_a_process_says():
    PROCESS.stdout.read()

def test_a_loop():
    while True:
        pass

@pytest.fixture
def slow_to_come():
    NEVER.wait()

def test_a_fixture(slow_to_come):
    pass

@pytest.fixture
async def slow_to_go():
    yield
    await asyncio.Event().wait()

def test_the_end_of_a_fixture(slow_to_go):
    pass
"""
PAGE = """
@pytest.mark.timeout(60)
def test_that_it_starts(browser):
    assert browser.new_page().evaluate("1 + 1") == 2

@pytest.mark.timeout(3)
def test_a_page(browser):
    browser.new_page().evaluate("() => new Promise(() => {})")

@pytest.mark.timeout(60)
def test_that_it_still_is_of_use(browser):
    assert browser.new_page().evaluate("1 + 1") == 2
"""
# Here the exception goes to a task that keeps it, and the test goes on.
DEAF = """
async def test():
    async def deaf():
        while True:
            try:
                await asyncio.sleep(0)
            except BaseException:
                pass
    task = asyncio.create_task(deaf())
    await asyncio.Event().wait()
"""
# After a failure pytest-timeout no longer looks; fixtures still have to end.
LATE = """
@pytest.fixture
def slow_to_go():
    yield
    NEVER.wait()

def test(slow_to_go):
    assert False
"""
OWN = """
def test(request):
    assert request.node.get_closest_marker("timeout").args == ()

@pytest.mark.slow
def test_slow(request):
    assert request.node.get_closest_marker("timeout").args == ()

@pytest.mark.slow
@pytest.mark.timeout(7)
def test_own(request):
    assert request.node.get_closest_marker("timeout").args == ()
"""


def run(folder: Path, tests: str, grace_s: float = 30) -> str:
    """Run tests with the hooks and the configuration of this suite, but short limits; return what is said."""
    (folder / "test_it.py").write_text(PREAMBLE + tests)
    (folder / "conftest.py").write_text(
        f"from tests import conftest\nfrom tests.conftest import *\nconftest.GRACE_S = {grace_s}\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={folder}", str(folder)]
    options = ["-o", "timeout=0.3", "-p", "no:cacheprovider", "-W", "ignore"]
    wide = {**os.environ, "COLUMNS": "200"}  # the summary is cut to the terminal
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=wide, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


def test_every_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    assert request.config.getini("timeout_method") == "signal"
    for item in request.session.items:
        marker = item.get_closest_marker("timeout")
        assert marker is not None
        assert 0 < marker.args[0] == seconds_for(item) <= SLOW_S


def test_it_is_felt_wherever_a_test_waits_and_the_others_are_run(tmp_path: Path) -> None:
    said = run(tmp_path, WAITS)
    felt = re.findall(r"(?:FAILED|ERROR) \S+::(\w+) - Failed: Timeout \(>0.3s\)", said)
    assert set(felt) == set(re.findall(r"def (test_\w+)", WAITS)), said


@pytest.mark.slow
@pytest.mark.alone
def test_it_is_felt_in_a_browser_too(tmp_path: Path) -> None:
    said = run(tmp_path, PAGE)
    if "3 skipped" in said:
        pytest.skip("Chromium is not installed")
    assert re.findall(r"FAILED \S+::(\w+) - Failed: Timeout", said) == ["test_a_page"], said
    assert "1 failed, 2 passed" in said


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("test", [DEAF, LATE], ids=["a deaf task", "a fixture after a failure"])
def test_where_it_is_not_the_run_ends_and_says_where_every_thread_was(tmp_path: Path, test: str) -> None:
    said = run(tmp_path, test, grace_s=1)
    assert "test_it.py::test goes on after its time limit" in said
    assert "Thread MainThread:" in said


@pytest.mark.slow
@pytest.mark.alone
def test_slow_tests_have_more_and_a_test_may_have_its_own(tmp_path: Path) -> None:
    said = run(tmp_path, OWN)
    assert re.findall(r"^E +assert \((.*),\) == \(\)", said, re.MULTILINE) == ["0.3", "1800.0", "7"]
