"""Which precisions are measured: bfloat16 only where it is computed by itself. Emulated, it takes minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from service.models.precision import why_not_native

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["left_out", "precisions"]


def precisions(device: str = "cpu") -> tuple[str, ...]:
    """Return those that a device computes by itself."""
    return ("float32",) if why_not_native(torch.device(device)) else ("float32", "bfloat16")


def left_out(device: str = "cpu") -> Iterator[str]:
    """Say what is not measured, and why."""
    if lacking := why_not_native(torch.device(device)):
        yield f"bfloat16 is not measured: {lacking}"
