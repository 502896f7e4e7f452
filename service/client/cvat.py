"""A function for CVAT's auto-annotation, which ``cvat-cli`` runs beside any CVAT and which asks a camserve server.

    cvat-cli task auto-annotate 137 --function-module service.client.cvat \
        -p server=str:http://127.0.0.1:8000 -p kind=str:mask --allow-unmatched-labels

CVAT's SDK is not part of this package; whoever has ``cvat-cli`` has it. See docs/cvat.md.
"""

from __future__ import annotations

import base64
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from service.client.clients import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    from service import wire, wire_models
    from service.areas import Area
    from service.client.answers import Explained, ExplanationView

__all__ = ["Kind", "create"]

Kind = Literal["tag", "rectangle", "polygon", "mask", "click"]

_MULTI_LABEL_THRESHOLD = 0.5
_CLASSES_UNDER_A_CLICK = 3
_MOST_SIDE = 8192  # longest side of a mask that the server draws


def create(  # noqa: PLR0913  # options of a command line, by name
    server: str = "http://127.0.0.1:8000",
    model: str | None = None,
    kind: Kind = "mask",
    layer: str = "default",
    method: str = "gradcam",
    region_threshold: float = 0.5,
    api_key_file: str | None = None,
) -> DetectionFunction | InteractionFunction:
    """Make the function; ``cvat-cli`` calls this with what its option ``-p`` says.

    Args:
        server: where camserve is.
        model: name of the model; the default one if None.
        kind: what it makes: tags, rectangles, polygons or masks of pictures, or the mask under clicks (for agents).
        layer: whose map is used.
        method: by which it is made.
        region_threshold: share of the map's maximum that an area reaches.
        api_key_file: a file that holds an API key of the server.

    Raises:
        ValueError: there is no such kind.
        ClientError: the server cannot be reached, or has no such model.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, not {kind!r}.")
    key = None if api_key_file is None else Path(api_key_file).read_text(encoding="utf-8").strip()
    client = Client(server, api_key=key)
    try:
        entry = client.model(client.models().default if model is None else model)
        asked = _Server(client, entry, layer, method, region_threshold)
        return InteractionFunction(asked) if kind == "click" else DetectionFunction(asked, kind)
    except Exception:
        client.close()
        raise


class _Server:
    """A model of a server, asked with the same options for every picture."""

    def __init__(
        self, client: Client, entry: wire_models.ModelEntry, layer: str, method: str, threshold: float
    ) -> None:
        self.client, self.entry, self.threshold = client, entry, threshold
        self._options: Any = {"layer": layer, "method": method, "threshold": threshold}

    def labels(self) -> dict[str, int]:
        """Number the labels, each once: some models have one twice."""
        found = self.client.classes("", model=self.entry.name, limit=100_000)
        return {label: number for number, label in enumerate(dict.fromkeys(each.label for each in found.classes))}

    def named(self, image: PIL.Image.Image, threshold: float | None) -> list[wire.Prediction]:
        """Return the best class, or all of the best few that reach the threshold which was given."""
        predictions = list(self.client.predict(image, model=self.entry.name).predictions)
        if threshold is None:
            if not self.entry.multi_label:
                return predictions[:1]
            threshold = _MULTI_LABEL_THRESHOLD
        return [each for each in predictions if each.probability >= threshold]

    def explain(self, image: PIL.Image.Image, target: Any) -> Explained:
        """Explain a picture, with regions and masks."""
        drawn: Any = {"output": ("regions", "mask"), "image_format": "png", "max_side": _MOST_SIDE}
        return self.client.explain(image, model=self.entry.name, target=target, **self._options, **drawn)

    def levels(self, explained: Explained, explanation: ExplanationView) -> NDArray[np.uint8]:
        """Return a map on the picture's pixels, (h, w), 0 to 255."""
        from service.areas import levels_of  # noqa: PLC0415  # needs NumPy and Pillow

        drawn = explanation.raw.mask
        assert drawn is not None, "the mask was asked for"
        return levels_of(base64.b64decode(drawn.data), explained.image.width, explained.image.height)

    def areas(self, explained: Explained, explanation: ExplanationView) -> Iterator[Area]:
        """Yield what each region covers."""
        from service.areas import area_of  # noqa: PLC0415

        if not explanation.regions:
            return
        levels = self.levels(explained, explanation)
        for region in explanation.regions:
            if area := area_of(levels, region.polygon, self.threshold):
                yield area


class DetectionFunction:
    """What ``cvat-cli task auto-annotate`` runs for every picture of a task."""

    def __init__(self, server: _Server, kind: Literal["tag", "rectangle", "polygon", "mask"]) -> None:
        self._server, self._kind = server, kind
        self._ids = server.labels()

    def close(self) -> None:
        """Close the connections."""
        self._server.client.close()

    @cached_property
    def spec(self) -> Any:
        """The labels that it knows, and of which type they are."""
        import cvat_sdk.auto_annotation as cvataa  # noqa: PLC0415  # only cvat-cli's own environment has it

        labels = [cvataa.label_spec(label, number, type=self._kind) for label, number in self._ids.items()]
        return cvataa.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: PIL.Image.Image) -> list[Any]:
        """Return the picture's tags or shapes, as CVAT's SDK has them."""
        import cvat_sdk.auto_annotation as cvataa  # noqa: PLC0415

        found = self._server.named(image, context.conf_threshold)
        if self._kind == "tag":
            return [cvataa.tag(number) for number in dict.fromkeys(self._ids[each.label] for each in found)]
        if not found:
            return []
        explained = self._server.explain(image, [each.index for each in found])
        return [shape for each in explained.explanations for shape in self._shapes(context, explained, each)]

    def _shapes(self, context: Any, explained: Explained, explanation: ExplanationView) -> Iterator[Any]:
        import cvat_sdk.auto_annotation as cvataa  # noqa: PLC0415
        from cvat_sdk.masks import encode_mask  # noqa: PLC0415

        number = self._ids[explanation.label]
        if self._kind == "mask" and not context.conv_mask_to_poly:
            for area in self._server.areas(explained, explanation):
                whole = area.on_picture(explained.image.width, explained.image.height)
                yield cvataa.mask(number, encode_mask(whole))
            return
        for region in explanation.regions:
            box = region.box
            if self._kind == "rectangle":
                yield cvataa.rectangle(number, [box.left, box.top, box.right, box.bottom])
            else:
                yield cvataa.polygon(number, [coordinate for point in region.polygon for coordinate in point])


class InteractionFunction:
    """What an agent of ``cvat-cli`` runs for clicks."""

    def __init__(self, server: _Server) -> None:
        self._server = server

    def close(self) -> None:
        """Close the connections."""
        self._server.client.close()

    @cached_property
    def spec(self) -> Any:
        """How many clicks it needs: one of those on what should be masked; a box is taken, too."""
        import cvat_sdk.auto_annotation as cvataa  # noqa: PLC0415

        return cvataa.InteractionFunctionSpec(min_pos_points=1, min_neg_points=0, min_bounding_boxes=0)

    def detect(self, _context: Any, pp_image: PIL.Image.Image, prompts: Any) -> list[Any]:
        """Return the mask under the clicks, of the best class that has something there; nothing where it is empty."""
        import cvat_sdk.auto_annotation as cvataa  # noqa: PLC0415
        from cvat_sdk.masks import encode_mask  # noqa: PLC0415

        from service.areas import Clicks  # noqa: PLC0415

        box = prompts.bounding_box
        clicks = Clicks(prompts.pos_points, prompts.neg_points, None if box is None else (*box[0], *box[1]))
        classes = min(_CLASSES_UNDER_A_CLICK, self._server.entry.classes or 1)
        explained = self._server.explain(pp_image, f"top-{classes}")
        maps = [self._server.levels(explained, each) for each in explained.explanations if not each.empty]
        mask = clicks.best_part(maps, self._server.threshold) if maps else None
        if mask is None or not mask.any():
            return []
        return [cvataa.InteractionResultShape(type="mask", points=encode_mask(mask))]
