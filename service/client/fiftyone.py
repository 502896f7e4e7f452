"""Heatmaps, classes and regions as labels of FiftyOne, which is not part of this package: ``pip install fiftyone``.

    import fiftyone as fo
    from service.client import Client
    from service.client.fiftyone import add_explanations

    dataset = fo.Dataset.from_images_dir("photos")
    with Client("http://127.0.0.1:8000") as client:
        failed = add_explanations(dataset, client, layer="layer4")
    fo.launch_app(dataset)

Labels are made on the picture's own grid: FiftyOne stretches a heatmap over the whole picture, of which the model may
have seen a part.
"""

from __future__ import annotations

import base64
import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from service.errors import OF_A_PICTURE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Unpack

    from service import wire
    from service.client.answers import Explained, ExplanationView
    from service.client.clients import Client
    from service.options import ExplainArguments

__all__ = ["add_explanations", "field_names", "labels_of"]

_HEAT_SIDE = 256  # longest side of a heatmap's grid: finer than any layer, and small in the database
_MOST_SIDE = 8192  # longest side of a mask that the server draws
_OURS = {"output", "image_format", "size", "signed", "max_side"}
_THRESHOLD = 0.5  # the server's default


def add_explanations(
    samples: Iterable[Any],
    client: Client,
    *,
    prefix: str = "",
    masks: bool = True,
    at_once: int = 4,
    model: str | None = None,
    **options: Unpack[ExplainArguments],
) -> dict[str, Exception]:
    """Explain the pictures of a dataset or a view, and add the labels to their samples.

    The fields are those of :func:`labels_of`, behind ``prefix``; samples that are in a database are saved.

    Args:
        samples: a dataset, a view, or samples that have a ``filepath``.
        client: asks the server.
        prefix: begins the names of the fields, such as ``resnet50_``.
        masks: whether regions have masks; otherwise boxes alone.
        at_once: requests at a time.
        model: name of the model; the default one if None.
        **options: as of ``client.explain``, but for those that say how pictures are drawn.

    Returns:
        What is wrong with pictures that have no labels, by path: files that cannot be read, or are too large.

    Raises:
        ClientError: the server cannot be reached, or refuses more than a picture. Samples before have their labels.
        TypeError: an option says how pictures are drawn.
    """
    asked = _asked(options, masks=masks)
    threshold = _threshold(options)

    def explain(sample: Any) -> Explained | Exception:
        try:
            return client.explain(sample.filepath, model=model, **asked)
        except (OSError, *OF_A_PICTURE) as error:
            return error

    failed: dict[str, Exception] = {}
    with ThreadPoolExecutor(at_once) as pool:
        for some in _batches(_with_bar(samples), at_once):
            for sample, answer in zip(some, pool.map(explain, some), strict=True):
                if isinstance(answer, Exception):
                    failed[sample.filepath] = answer
                    continue
                for name, label in labels_of(answer, masks=masks, threshold=threshold).items():
                    sample[f"{prefix}{name}"] = label
                if sample._in_db:  # what save() asks, too, but with an error
                    sample.save()
    return failed


def _with_bar(samples: Any) -> Iterable[Any]:
    iter_samples = getattr(samples, "iter_samples", None)
    with_bar: Iterable[Any] = samples if iter_samples is None else iter_samples(progress=True)
    return with_bar


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while some := list(itertools.islice(left, size)):
        yield some


def _threshold(options: Mapping[str, Any]) -> float:
    given = options.get("threshold")
    return _THRESHOLD if given is None else float(given)


def _asked(options: Mapping[str, Any], *, masks: bool) -> dict[str, Any]:
    """Return the options to send.

    Raises:
        TypeError: one of them says how pictures are drawn.
    """
    if taken := _OURS & {name for name, value in options.items() if value is not None}:
        raise TypeError(f"Leave out {', '.join(sorted(taken))}: labels are made of what is asked for here.")
    side = _MOST_SIDE if masks else _HEAT_SIDE
    return {**options, "output": ("mask", "regions"), "image_format": "png", "max_side": side}


def labels_of(explained: Explained, *, masks: bool = True, threshold: float = _THRESHOLD) -> dict[str, Any]:
    """Make labels of an answer that has regions and, as PNG, the mask (``output=["mask", "regions"]``).

    Args:
        explained: the answer.
        masks: whether regions have masks; otherwise boxes alone.
        threshold: which the regions were asked for with.

    Returns:
        By the name of the field: ``prediction``, the best class; ``top_k``, the best classes; ``heatmap``, and where
        several layers or methods were asked for, ``heatmap_LAYER``, so that none is shown in another's place;
        ``regions``, what speaks for the classes that were explained.

    Raises:
        ValueError: the answer has no mask, or no regions.
        ImportError: FiftyOne is not installed.
    """
    import fiftyone as fo  # noqa: PLC0415  # its import takes seconds, and it is the user's own

    explanations = explained.explanations
    names = field_names("heatmap", [(each.layer, each.method) for each in explanations])
    classes = [fo.Classification(label=each.label, confidence=each.probability) for each in explained.predictions]
    detections = [
        fo.Detection(**fields)
        for each in explanations
        for fields in _detections(each, explained.image, masks, threshold)
    ]
    heatmaps = {
        name: fo.Heatmap(map=_heat(each), range=[0, 255]) for name, each in zip(names, explanations, strict=True)
    }
    return {
        "prediction": fo.Classification(
            label=explained.predictions[0].label, confidence=explained.predictions[0].probability
        ),
        "top_k": fo.Classifications(classifications=classes),
        **heatmaps,
        "regions": fo.Detections(detections=detections),
    }


def field_names(begin: str, explanations: Sequence[tuple[str, str]]) -> list[str]:
    """Name the fields of explanations, given as (layer, method): after what tells them apart, or by number."""
    tells_layer = len({layer for layer, _ in explanations}) > 1
    tells_method = len({method for _, method in explanations}) > 1
    names: list[str] = []
    for layer, method in explanations:
        parts = [begin, *([_safe(layer)] if tells_layer else ()), *([_safe(method)] if tells_method else ())]
        name = "_".join(parts)
        number = sum(1 for each in names if each == name or re.fullmatch(rf"{re.escape(name)}_\d+", each))
        names.append(f"{name}_{number + 1}" if number else name)
    return names


def _safe(text: str) -> str:
    """Replace what a field's name may not have."""
    return re.sub(r"\W+", "_", text.replace("+", "plus"), flags=re.ASCII).strip("_")


def _heat(explanation: ExplanationView) -> Any:
    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    grey = explanation.mask().convert("L")
    grey.thumbnail((_HEAT_SIDE, _HEAT_SIDE), Image.Resampling.BOX)
    return np.asarray(grey)


def _detections(
    explanation: ExplanationView, image: wire.ImageInfo, masks: bool, threshold: float
) -> Iterator[dict[str, Any]]:
    """Yield the fields of each region: its box relative to the picture, and its mask inside the box."""
    from service.areas import area_of, levels_of  # noqa: PLC0415  # needs NumPy and Pillow

    width, height = image.width, image.height
    about = {
        "label": explanation.label,
        "confidence": explanation.probability,
        "layer": explanation.layer,
        "method": explanation.method,
    }
    regions = explanation.regions
    drawn = explanation.raw.mask
    levels = levels_of(base64.b64decode(drawn.data), width, height) if masks and regions and drawn else None
    for region in regions:
        box = region.box
        left, top, right, bottom = box.left, box.top, box.right, box.bottom
        fields: dict[str, Any] = {}
        if levels is not None:
            area = area_of(levels, region.polygon, threshold)
            if area is None:
                continue
            left, top, right, bottom = area.left, area.top, area.right + 1, area.bottom + 1
            fields["mask"] = area.bits
        relative = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        yield {**about, **fields, "bounding_box": relative}
