"""The Label Studio export under its SDK: the labelling configuration, predictions that go with it, and brushes."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from service.client import Client
from tests.tools.conftest import NAMES, SAMPLES
from tests.tools.packages import need

if TYPE_CHECKING:
    from tests.tools.conftest import Export

label_interface = need("label_studio_sdk.label_interface")
brush = need("label_studio_sdk.converter.brush")
np = need("numpy")
Image = need("PIL.Image")


def read(export: Export, shapes: str) -> tuple[Any, list[Any]]:
    out = export("label-studio", f"--{shapes}")
    interface = label_interface.LabelInterface(out.with_name("out-config.xml").read_text())
    return interface, json.loads(out.read_text())


@pytest.mark.parametrize("shapes", ["boxes", "regions", "masks"])
def test_tasks_go_with_their_configuration(export: Export, shapes: str) -> None:
    interface, tasks = read(export, shapes)
    assert len(tasks) == len(NAMES)
    assert interface.is_valid
    for task in tasks:
        assert interface.validate_task({"data": task["data"]})
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        assert len(prediction["result"]) > 1


def test_brushes_are_the_maps_own_pixels(url: str, export: Export) -> None:
    _, tasks = read(export, "masks")
    for task, name in zip(tasks, NAMES, strict=True):
        with Client(url) as client:
            explained = client.explain(SAMPLES / name, output=["mask", "regions"], image_format="png")
        drawn = explained.explanations[0].raw.mask
        assert drawn is not None
        with Image.open(io.BytesIO(base64.b64decode(drawn.data))) as image:
            reached = np.asarray(image) >= 128
        together = np.zeros(reached.shape, bool)
        for region in task["predictions"][0]["result"][1:]:
            assert (region["original_height"], region["original_width"]) == reached.shape
            rgba = brush.decode_rle(region["value"]["rle"]).reshape(*reached.shape, 4)
            assert set(np.unique(rgba)) <= {0, 255}
            together |= rgba[..., 3] > 0
        assert (together != reached).sum() <= 2


def test_our_brushes_are_theirs_byte_for_byte_where_they_are_read(export: Export) -> None:
    from service.labelling.rle import encode

    mask = np.random.default_rng(2).random((60, 40)) > 0.6
    ours = brush.decode_rle(encode(mask)).reshape(60, 40, 4)
    theirs = brush.decode_rle(brush.mask2rle(mask.astype(np.uint8) * 255)).reshape(60, 40, 4)
    assert (ours[..., 3] == theirs[..., 3]).all()
