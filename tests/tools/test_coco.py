"""The COCO export under pycocotools: it indexes, decodes and compares what was written."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest

from service.client import Client
from tests.tools.conftest import NAMES, SAMPLES, Export
from tests.tools.packages import need

coco = need("pycocotools.coco")
cocoeval = need("pycocotools.cocoeval")
np = need("numpy")
Image = need("PIL.Image")


def grey_of(url: str, name: str) -> Any:
    with Client(url) as client:
        explained = client.explain(SAMPLES / name, output=["mask", "regions"], image_format="png")
    drawn = explained.explanations[0].raw.mask
    assert drawn is not None
    with Image.open(io.BytesIO(base64.b64decode(drawn.data))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("shapes", ["regions", "masks"])
def test_masks_are_read_as_they_were(url: str, export: Export, shapes: str) -> None:
    dataset = coco.COCO(str(export("coco", f"--{shapes}")))
    assert [image["file_name"] for image in dataset.loadImgs(dataset.getImgIds())] == list(NAMES)
    for image in dataset.loadImgs(dataset.getImgIds()):
        reached = grey_of(url, image["file_name"]) >= 128
        together = np.zeros(reached.shape, bool)
        for annotation in dataset.loadAnns(dataset.getAnnIds(imgIds=[image["id"]])):
            mask = dataset.annToMask(annotation).astype(bool)
            together |= mask
            assert annotation["area"] == pytest.approx(mask.sum(), rel=0 if shapes == "masks" else 0.05)
        differ = (together != reached).sum()
        assert differ <= 2 if shapes == "masks" else differ / reached.sum() < 0.05


def test_it_is_its_own_best_result(export: Export) -> None:
    """Read as ground truth and as results, every area finds itself: average precision 1."""
    out = export("coco", "--masks")
    truth = coco.COCO(str(out))
    written = json.loads(out.read_text())
    results = truth.loadRes(
        [
            {key: each[key] for key in ("image_id", "category_id", "score", "segmentation", "bbox")}
            for each in _compressed(written)
        ]
    )
    evaluation = cocoeval.COCOeval(truth, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def _compressed(written: Any) -> list[Any]:
    mask = need("pycocotools.mask")
    return [
        {**each, "segmentation": mask.frPyObjects(each["segmentation"], *each["segmentation"]["size"])}
        for each in written["annotations"]
    ]
