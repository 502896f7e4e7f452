"""Models that return several outputs: which there are, and a view of the model that returns one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["HeadView", "find_heads"]


def find_heads(output: Any, n: int) -> dict[str, int]:
    """Name the outputs that are logits, with their number of classes.

    Args:
        output: what a model returned for ``n`` pictures: a tuple or list (heads are named by position), a mapping, or
            an object with fields (a dataclass, a named tuple).
        n: the batch size.

    Returns:
        Name to number of classes, in the output's own order; empty for a single tensor.
    """
    if isinstance(output, Tensor):
        return {}
    return {
        name: part.shape[1]
        for name, part in _parts(output).items()
        if isinstance(part, Tensor) and part.ndim == 2 and len(part) == n
    }


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


class HeadView(nn.Module):
    """A model seen through one of its heads. It holds no state of its own, so views can be made at will.

    The model is not registered as a submodule: layers keep their names.
    """

    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        object.__setattr__(self, "_model", model)
        self._head = head

    def forward(self, inputs: Tensor) -> Any:
        """Return the head's logits (N, classes)."""
        return _parts(self._model(inputs)).get(self._head)

    def get_submodule(self, target: str) -> nn.Module:
        """Return the model's submodule of that name."""
        return self._model.get_submodule(target)  # type: ignore[no-any-return]

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """Iterate over the model's submodules, and the model itself under an empty name."""
        return self._model.named_modules(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_model"), name)
