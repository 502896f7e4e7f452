"""The only module that imports torchvision, because the import sometimes needs help.

Where a CPU-only torch meets a torchvision wheel built for CUDA, torchvision's C++ extension cannot load, and
``import torchvision`` then stops with "operator torchvision::nms does not exist": it registers fake kernels for two
detection operators whose schemas only the extension declares. No operator of that extension is needed to classify, so
the missing schemas are declared here and the import is tried again. Calling one of them would still fail, as it should.
"""

from __future__ import annotations

import torch
from torch import library

__all__ = ["torchvision"]

# The declarations go when their Library object is collected: it lives as long as this module.
_library = library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def _declare_missing_operators() -> None:
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]


try:
    import torchvision
except RuntimeError:
    _declare_missing_operators()
    import torchvision
