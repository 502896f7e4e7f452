"""How many floating-point operations a block of code does, counted by torch, without torch's compiler.

Torch lets its compiler mark the counter's dispatch as never to be compiled, and imports all of it for that: a second
of a worker's start. Where the compiler is not imported nothing is compiled, so there is nothing to mark.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.utils import flop_counter

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["counting_flops"]

_MARK = "__dynamo_disable"  # on a function: what to call in its place, see torch/_compile.py


@contextmanager
def counting_flops() -> Iterator[flop_counter.FlopCounterMode]:
    """Count what is done in the block: ``get_total_flops()`` of the result, also while it lasts."""
    _mark_without_the_compiler()
    with flop_counter.FlopCounterMode(display=False) as counter:
        yield counter


def _mark_without_the_compiler() -> None:
    dispatch = getattr(flop_counter._FlopCounterMode.__torch_dispatch__, "__wrapped__", None)
    if dispatch is None:
        return
    if "torch._dynamo" not in sys.modules:
        setattr(dispatch, _MARK, dispatch)
    elif getattr(dispatch, _MARK, None) is dispatch:
        delattr(dispatch, _MARK)
