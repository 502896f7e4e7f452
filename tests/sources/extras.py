"""The libraries that are not in everybody's environment. The one place that says what happens where they are not."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest

from service.models.sources.libraries import library

__all__ = ["need"]


def need(name: str, extra: str) -> Any:
    """Import a library for the tests of a module, which are skipped where it is not installed.

    ``CAMSERVE_TESTS_REQUIRE_SOURCES`` makes a failure of that.
    """
    if importlib.util.find_spec(name) is not None:
        return library(name, extra)
    reason = f"{name} is not installed (the extra {extra}): scripts/test-sources"
    if os.environ.get("CAMSERVE_TESTS_REQUIRE_SOURCES"):
        pytest.fail(reason, pytrace=False)
    return pytest.skip(reason, allow_module_level=True)
