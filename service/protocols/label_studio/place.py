"""What a backend's address names: a model, a layer and a method; and what its predictions are known by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.engine.explainer import Explainer
    from service.models.info import ModelInfo
    from service.protocols.label_studio.config import Labelling
    from service.settings import LabelStudioScore

__all__ = ["Place", "model_version", "other_layer"]

_LONGEST_LAYER = 80


@dataclass(frozen=True)
class Place:
    """What the path of a backend says; what it leaves out is the default."""

    model: str | None = None
    layer: str = "default"
    method: str = Options.methods[0]


def model_version(
    engine: Explainer, place: Place, labelling: Labelling, score: LabelStudioScore, unknown: str | None = None
) -> str:
    """Return what predictions are known by: it differs where they would.

    While nothing is known of the model yet, it says ``unknown``, or its state, instead of keeping Label Studio waiting.

    Raises:
        UnknownModel: there is none of that name.
        UnknownLayer, LayerNotExplainable: the model has no such layer.
    """
    status = engine.model(place.model)
    info = status.info or status.known
    name = status.config.name
    version = f"{info.version}-{info.digest[:12]}" if info is not None else unknown or status.state
    layer = place.layer if info is None else info.layer(place.layer).name
    parts = [
        name,
        version,
        _short(layer),
        place.method,
        f"t{labelling.threshold:g}",
        *(() if score == "probability" else (score,)),
        *_of_labels(status.config.label_map, labelling),
    ]
    return "/".join(parts)


def _of_labels(label_map: Mapping[str, Sequence[int | str]], labelling: Labelling) -> tuple[str, ...]:
    """Return what tells apart what labels mean and from which probability on they are chosen; nothing by default."""
    chosen_from = {each.name: each.threshold for each in labelling.controls if each.threshold is not None}
    if not (label_map or chosen_from):
        return ()
    told = json.dumps([label_map, chosen_from], sort_keys=True)
    return (f"labels-{hashlib.sha256(told.encode()).hexdigest()[:8]}",)


def _short(layer: str) -> str:
    if len(layer) <= _LONGEST_LAYER:
        return layer
    return f"{layer[:_LONGEST_LAYER]}-{hashlib.sha256(layer.encode()).hexdigest()[:8]}"


def other_layer(info: ModelInfo, layer: str) -> str | None:
    """Return the layer that a layer is compared with: another one worth trying."""
    return next((name for name in info.recommended if name != info.layer(layer).name), None)
