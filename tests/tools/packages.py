"""The tools' packages, which have an environment of their own: what happens where they are not there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from typing import Any

import pytest

__all__ = ["need"]


def need(name: str) -> Any:
    """Import a tool's package for the tests of a module, which are skipped where it is not installed.

    ``CAMSERVE_TESTS_REQUIRE_TOOLS`` makes a failure of that.
    """
    try:
        found = importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        found = False
    if found:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the tool itself is built on
            return importlib.import_module(name)
    reason = f"{name} is not installed: scripts/test-tools"
    if os.environ.get("CAMSERVE_TESTS_REQUIRE_TOOLS"):
        pytest.fail(reason, pytrace=False)
    return pytest.skip(reason, allow_module_level=True)
