"""Models that return several outputs: which there are, and one of them by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["find_heads", "is_ranking", "pick_head"]


def find_heads(output: Any, n: int) -> dict[str, int]:
    """Name the outputs that are logits, with their number of classes.

    Args:
        output: what a model returned for ``n`` images: a tuple or list (heads are named by position), a mapping, or
            an object with fields (a dataclass, a named tuple).
        n: the batch size.

    Returns:
        Name to number of outputs per image, in the output's own order; empty for a single tensor. Parts of shape (n,)
        are heads of one output where there is nothing of shape (n, classes): beside that, they are losses or variances.
    """
    if isinstance(output, Tensor):
        return {}
    rows = {
        name: part
        for name, part in _parts(output).items()
        if isinstance(part, Tensor) and part.ndim in {1, 2} and len(part) == n and part.is_floating_point()
    }
    logits = {name: part.shape[1] for name, part in rows.items() if part.ndim == 2}
    return logits or dict.fromkeys(rows, 1)


def is_ranking(output: Any, n: int) -> bool:
    """Whether a model returned values together with whole numbers for each, as ``topk()`` and ``max()`` do."""
    parts = [part for part in _parts(output).values() if isinstance(part, Tensor) and part.ndim and len(part) == n]
    values, numbers = ([part.shape for part in parts if part.is_floating_point() is kind] for kind in (True, False))
    return bool(values) and all(shape in numbers for shape in values)


def pick_head(output: Any, head: str) -> object:
    """Return the part of a model's ``output`` that ``find_heads`` names ``head``; None where there is none."""
    return _parts(output).get(head)


def _parts(output: Any) -> Mapping[str, Any]:
    if isinstance(output, Mapping):
        return {str(name): part for name, part in output.items()}
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return output._asdict()  # type: ignore[no-any-return]  # a named tuple's
    if isinstance(output, tuple | list):
        return {str(index): part for index, part in enumerate(output)}
    return {}
