from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cores import threads

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on two."""
    with threads(1):
        yield
