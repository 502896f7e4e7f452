"""Where the cells of a model's layers look: measured once, and kept beside the weights.

Measuring takes a few dozen forward passes. What was found is kept in a file per network, named by everything that it
depends on; where there is none, or it cannot be written, it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.cam.flops import counting_flops
from service.cam.layers import LayerCall
from service.cam.measurement import Finding, apply, measure
from service.placement import AxisPlacement, Placement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from service.cam.layers import Layer
    from service.cam.network import Network

__all__ = ["images_to_measure", "place_layers"]

log = logging.getLogger("camserve.models")

# Changes whenever other numbers are measured of the same network.
_VERSION = 4

# With so many operations per forward pass one image is disturbed, with fewer more. ResNet-50 has 8e9.
_OPERATIONS = 1e10
_MOST_IMAGES = 4

# What few channels answer to noise is noise itself: the sign of one sum. A colour for another says more.
_FEW_CHANNELS, _COLOURS = 4, 8


def images_to_measure(network: Network, images: Tensor) -> int:
    """Return how many images to measure a network with: the fewer operations one takes, the more, 2 to 5."""
    with counting_flops() as counter:
        network.observe(images[:1], (), lambda *_: None)  # counting needs gradients where a model asks for them itself
    operations = max(1, counter.get_total_flops())
    return 1 + max(1, min(_MOST_IMAGES, int(_OPERATIONS / operations)))


def place_layers(
    network: Network,
    weights: str,
    images: Tensor,
    catalogues: Mapping[str | None, Sequence[Layer]],
    cache_dir: Path,
) -> dict[str | None, tuple[Layer, ...]]:
    """Return the catalogues of all heads with what was found out about where cells look.

    Args:
        network: seen through any head; left as it was.
        weights: digest of what it is made of.
        images: noise, different in every row, (N, 3, H, W), as the network takes it.
        catalogues: by head.
        cache_dir: where findings are kept, in a folder ``placements``.
    """
    # Where a cell looks does not depend on the head.
    asked = list(
        {layer.call: layer for layers in catalogues.values() for layer in layers if layer.explainable}.values()
    )
    file = cache_dir / "placements" / f"{_fingerprint(network, weights, images, asked)}.json"
    findings = _read(file)
    if findings is None or findings.keys() != {layer.call for layer in asked}:
        findings = measure(network, images, asked)
        narrow = [layer for layer in asked if layer.shape[0] <= _FEW_CHANNELS]
        if narrow:
            findings |= _finer(findings, measure(network, _of_one_colour(images), narrow))
        _write(file, findings)
    return {
        head: tuple(apply(layer, findings[layer.call]) if layer.explainable else layer for layer in layers)
        for head, layers in catalogues.items()
    }


def _of_one_colour(images: Tensor) -> Tensor:
    """Return images of the same size, each of one colour that occurs in the first of ``images``."""
    colours = images[0, :, 0, :_COLOURS].T  # (N, C)
    return colours[:, :, None, None].expand(-1, -1, *images.shape[2:])


def _finer(findings: Mapping[LayerCall, Finding], others: Mapping[LayerCall, Finding]) -> dict[LayerCall, Finding]:
    """Return those of ``others`` that find cells in the same order as ``findings``, and on a straighter line."""
    return {call: other for call, other in others.items() if _is_finer(other, findings[call])}


def _is_finer(finding: Finding, before: Finding) -> bool:
    if finding.placement is None or before.placement is None or finding.order != before.order:
        return False
    residual, residual_before = finding.placement.residual, before.placement.residual
    if residual is None or residual_before is None:
        return False
    return finding.as_before == before.as_before and residual < residual_before


def _fingerprint(network: Network, weights: str, images: Tensor, layers: Sequence[Layer]) -> str:
    """Sum up what findings depend on: the weights, the layers, the images, and the code by what it makes of them.

    Of the code, it is where in its output every layer answers most: networks that differ in the order of tokens alone
    give the same logits.
    """
    most: list[int] = []
    calls = {layer.call for layer in layers}
    network.watch(images[:1], calls, lambda _, output: most.append(int(output.abs().argmax())))
    facts = [_VERSION, images.shape, images.dtype, [(layer.call, layer.layout) for layer in layers]]
    return hashlib.sha256(repr((weights, facts, most)).encode()).hexdigest()[:32]


def _read(file: Path) -> dict[LayerCall, Finding] | None:
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return {LayerCall(row["module"], row["call"], row["batch_axis"]): _finding(row) for row in rows}
    except (OSError, ValueError, TypeError, LookupError):  # not there, or not as this version writes it
        return None


def _finding(row: Mapping[str, Any]) -> Finding:
    placement = None
    if row["x"] is not None:
        placement = Placement(AxisPlacement(*row["x"]), AxisPlacement(*row["y"]), row["residual"])
    return Finding(placement, None if row["order"] is None else tuple(row["order"]), row["refusal"], row["as_before"])


def _write(file: Path, findings: Mapping[LayerCall, Finding]) -> None:
    rows = [_row(call, finding) for call, finding in findings.items()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Complete or not at all: several workers load the same model at once.
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            draft = Path(folder, file.name)
            draft.write_text(json.dumps(rows), encoding="utf-8")
            draft.replace(file)
    except OSError as error:
        log.debug("what was measured is not kept: %s", error)


def _row(call: LayerCall, finding: Finding) -> dict[str, Any]:
    placement = finding.placement
    return {
        "module": call.module,
        "call": call.call,
        "batch_axis": call.batch_axis,
        "x": placement and [placement.x.start, placement.x.step],
        "y": placement and [placement.y.start, placement.y.step],
        "residual": placement and placement.residual,
        "order": finding.order,
        "refusal": finding.refusal,
        "as_before": finding.as_before,
    }
