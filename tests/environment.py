"""The settings that commands find in the environment: a test's own, and none from outside."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def settings_of_tests(**settings: str | Path) -> Iterator[None]:
    """Set ``CAMSERVE_…`` as given, beside one thread, as more only wait for each other; unset all others."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.upper().startswith("CAMSERVE_")]:
            environment.delenv(name)
        for name, value in {"threads": "1", **settings}.items():
            environment.setenv(f"CAMSERVE_{name.upper()}", str(value))
        yield
