"""Whether a network in bfloat16 answers as it does in float32: its logits and maps of pictures, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.capture import TOLERANCE, logits_apart
from service.cam.explain import explain, predict
from service.cam.targets import CamOptions, Targets, Top
from service.models.info import SelfCheck

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from service.cam.explain import Explained
    from service.cam.layers import Layer
    from service.cam.network import Network

__all__ = ["Computed", "compare", "compute", "objection", "worst"]

# What is asked of the pictures together.
_LEAST_CORRELATION, _LEAST_SAME = 0.995, 0.95
# What is asked of every picture: one map that is another picture's is not made good by many that are right.
_LOWEST_CORRELATION = 0.9
# How far logits may lie apart, as a share of the largest.
_MOST_APART = TOLERANCE[torch.bfloat16]
# Two cells, or two classes, that differ by less of the range of them all are equals: either may come first.
_TIE = 0.01
# A map whose range is less of the greatest magnitude in it is flat: it has no shape that could be the same.
_FLAT = 0.01

_SIGNED = CamOptions(signed=True)
_BEST = Targets((Top(1),))


@dataclass(frozen=True)
class Computed:
    """What a network makes of N pictures.

    Attributes:
        logits: (N, classes).
        maps: (N, h, w), with what is below zero; None where nothing is explained.
        classes: which class each map is of.
    """

    logits: Tensor
    maps: Tensor | None = None
    classes: tuple[int, ...] = ()


def compute(
    network: Network,
    batches: Iterable[Tensor],
    layer: Layer | None,
    method: str | None,
    classes: Sequence[int] | None = None,
) -> Computed:
    """Compute logits, and a map of each picture at ``layer`` by ``method``; where one of them is None, logits alone.

    Args:
        network: what computes them.
        batches: pictures (N, C, H, W), in the network's dtype.
        layer: where to look.
        method: a name from ``METHODS``.
        classes: what to explain of each picture; the best of each if None.
    """
    if layer is None or method is None:
        return Computed(torch.cat([predict(network, batch) for batch in batches]))
    found: list[Explained] = []
    for batch in batches:
        begun = len(found)
        asked = [Targets((each,)) for each in classes[begun : begun + len(batch)]] if classes else [_BEST] * len(batch)
        found += explain(network, batch, asked, [layer], [method], _SIGNED)
    return Computed(
        torch.stack([each.logits for each in found]),
        torch.stack([each.maps[0].values for each in found]),
        tuple(each.maps[0].target for each in found),
    )


def compare(full: Computed, reduced: Computed, method: str | None) -> SelfCheck:
    """Say how near ``reduced`` is to ``full``; both are of the same pictures and classes.

    Maps are compared as they are shown, without what is below zero. Where that leaves a flat one, there is nothing to
    correlate; then the other has to be as flat, or its strongest cell counts as another one. ``correlation`` is None
    where all are flat.
    """
    apart = logits_apart(reduced.logits, full.logits)
    same_class = _as_strong(full.logits, reduced.logits)
    if full.maps is None or reduced.maps is None:
        return SelfCheck(len(full.logits), None, None, None, None, _share(same_class), apart)
    magnitude = full.maps.abs().amax((1, 2))
    drawn, other = full.maps.relu().flatten(1), reduced.maps.relu().flatten(1)
    flat = _range(drawn) <= _FLAT * magnitude
    as_flat = (drawn - other).abs().amax(1) <= _MOST_APART * magnitude
    same_cell = torch.where(flat, as_flat, _as_strong(drawn, other))
    found = _correlations(drawn, other)[~flat]
    shaped = len(found) > 0
    return SelfCheck(
        len(drawn),
        method,
        float(found.mean()) if shaped else None,
        float(found.min()) if shaped else None,
        _share(same_cell),
        _share(same_class),
        apart,
    )


def worst(checks: Sequence[SelfCheck]) -> SelfCheck:
    """Make one of the checks of several heads: the worst of each number."""
    explained = [check for check in checks if check.method is not None]
    shaped = [check for check in explained if check.correlation is not None]
    every = len(shaped) == len(explained)
    return SelfCheck(
        checks[0].pictures,
        explained[0].method if explained else None,
        min((check.correlation for check in shaped if check.correlation is not None), default=None) if every else None,
        min((each.lowest_correlation for each in shaped if each.lowest_correlation is not None), default=None),
        min((check.same_cell for check in explained if check.same_cell is not None), default=None),
        min(check.same_class for check in checks),
        max(check.logits_apart for check in checks),
    )


def objection(check: SelfCheck) -> str | None:
    """Say what speaks against a network that came so near to itself in float32; None where nothing does."""
    if not check.logits_apart <= _MOST_APART:
        return f"logits differ by {check.logits_apart:.2g} of the largest (allowed: {_MOST_APART})"
    if check.same_class < _LEAST_SAME:
        return f"the best class is the same for {check.same_class:.0%} of the pictures only (needed: {_LEAST_SAME:.0%})"
    if check.method is None:
        return None
    if check.correlation is None or check.lowest_correlation is None or check.same_cell is None:
        return "maps of the default layer are flat, so that they cannot be compared"
    if not check.correlation >= _LEAST_CORRELATION:
        return f"maps correlate to {check.correlation:.4f} on average (needed: {_LEAST_CORRELATION})"
    if not check.lowest_correlation >= _LOWEST_CORRELATION:
        return f"one map correlates to {check.lowest_correlation:.3f} (needed: {_LOWEST_CORRELATION})"
    if check.same_cell < _LEAST_SAME:
        return f"the strongest cell is the same for {check.same_cell:.0%} of the maps only (needed: {_LEAST_SAME:.0%})"
    return None


def _as_strong(values: Tensor, others: Tensor) -> Tensor:
    """Whether the largest of ``others`` (N, K) is the largest of ``values`` too, or ties with it: (N,)."""
    there = values.gather(1, others.argmax(1, keepdim=True))[:, 0]
    return values.amax(1) - there <= _TIE * _range(values)


def _range(values: Tensor) -> Tensor:
    return values.amax(1) - values.amin(1)


def _correlations(values: Tensor, others: Tensor) -> Tensor:
    """Return Pearson's correlation of the rows of two (N, K); 0 where one of them is constant."""
    one, other = (each.double() - each.double().mean(1, keepdim=True) for each in (values, others))
    norms = one.norm(dim=1) * other.norm(dim=1)
    return torch.where(norms > 0, (one * other).sum(1) / norms.clamp(min=torch.finfo(norms.dtype).tiny), 0.0)


def _share(rows: Tensor) -> float:
    return float(rows.float().mean())
