"""The table of class activation methods: one row each, naming its function. Needs no torch to import."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: the name used in the literature.
        summary: one line: what it shows.
        paper: where it is defined.
        needs_gradients: whether it differentiates the score.
        class_specific: whether different classes get different maps.
        forwards: rough cost per picture in forward passes at the last stage, first target.
        function: ``module:name`` of the function; a name, so that the front process can list methods without torch.
    """

    title: str
    summary: str
    paper: str
    needs_gradients: bool
    class_specific: bool
    forwards: float
    function: str

    @property
    def compute(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(activations, gradients), both (N, C, h, w) float32, to raw maps (N, h, w)."""
        return cast("Callable[[Tensor, Tensor], Tensor]", pkgutil.resolve_name(self.function))


METHODS: dict[str, Method] = {
    "gradcam": Method(
        title="Grad-CAM",
        summary="Where the channels that speak for the class are active.",
        paper="https://arxiv.org/abs/1610.02391",
        needs_gradients=True,
        class_specific=True,
        forwards=1.0,
        function="service.cam.gradient:gradcam",
    ),
}
