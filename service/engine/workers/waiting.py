"""How OpenMP's threads wait for each other. Needs no torch to import: OpenMP reads it when it is loaded, with torch.

Runs in the worker process, or in whatever process calls it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.settings import environment, is_set

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["short_waits"]

_SPINS = "1000"  # some hundredths of a millisecond: longer than the pause between two loops


@contextmanager
def short_waits() -> Iterator[None]:
    """Import torch in the block: its threads wait for each other for a moment, unless the operator says how they wait.

    Left alone they wait for some milliseconds, on cores that the front needs to decode the next pictures. Asleep at
    once, they would have to be woken for every loop.
    """
    told = is_set("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    with environment(**({} if told else {"GOMP_SPINCOUNT": _SPINS})):
        yield
