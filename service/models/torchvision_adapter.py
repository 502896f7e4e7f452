"""The only module that imports torchvision, because the import sometimes needs help.

Where a CPU-only torch meets a torchvision wheel built for CUDA, torchvision's C++ extension cannot load, and
``import torchvision`` then stops with "operator torchvision::nms does not exist": it registers fake kernels for two
detection operators whose schemas only the extension declares. No operator of that extension is needed to classify, so
the missing schemas are declared here and the import is tried again. Calling one of them would still fail, as it should.

``torchvision.ops.roi_align`` also imports one function of torch's compiler, and with it the whole compiler: a second of
a worker's start. No classifier calls that operator, so the compiler is imported when somebody does.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import library

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["torchvision"]

COMPILER = "torch._dynamo.utils"

# The declarations go when their Library object is collected: it lives as long as this module.
_library = library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def _declare_missing_operators() -> None:
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]


def _is_compile_supported(device_type: str) -> bool:
    """What torch's compiler says, imported when it is asked."""
    from torch._dynamo.utils import is_compile_supported  # noqa: PLC0415

    return bool(is_compile_supported(device_type))


@contextmanager
def _without_the_compiler() -> Iterator[None]:
    """Let modules import the compiler's one function without the compiler, unless that is imported already."""
    if COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(COMPILER)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]


with _without_the_compiler():
    try:
        import torchvision
    except RuntimeError:
        _declare_missing_operators()
        import torchvision
