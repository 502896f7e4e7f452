"""Operators that onnx2torch lacks, added to its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnx2torch.node_converters.registry import add_converter
from onnx2torch.utils.common import OnnxToTorchModule, OperationConverterResult, onnx_mapping_from_node
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GlobalMaxPool"]

_OPSET = 17  # what graphs are brought to; operators that came later are asked for by this number, too


class GlobalMaxPool(nn.Module, OnnxToTorchModule):  # type: ignore[misc]
    """The largest value of each channel, as 1×1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, 1, 1) of (N, C, H, W)."""
        return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def _add(name: str, make: Callable[[dict[str, Any]], nn.Module], *versions: int) -> None:
    def convert(node: Any, _graph: Any) -> Any:
        return OperationConverterResult(torch_module=make(node.attributes), onnx_mapping=onnx_mapping_from_node(node))

    for version in versions:
        add_converter(operation_type=name, version=version)(convert)


_add("Gelu", lambda attributes: nn.GELU(attributes.get("approximate", "none")), _OPSET)
_add("Mish", lambda _attributes: nn.Mish(), _OPSET)
_add("GlobalMaxPool", lambda _attributes: GlobalMaxPool(), 1)
