"""The auto-annotation function under CVAT's own SDK: its loader, its checks of specifications and of answers."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.tools.conftest import NAMES, SAMPLES
from tests.tools.packages import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

cvataa = need("cvat_sdk.auto_annotation")
driver = need("cvat_sdk.auto_annotation.driver")
masks = need("cvat_sdk.masks")
models = need("cvat_sdk.models")
cli = need("cvat_cli._internal.common")
np = need("numpy")
Image = need("PIL.Image")

LABELS = [line.strip() for line in (SAMPLES.parent / "labels.txt").read_text().splitlines() if line.strip()]


Load = Callable[..., Any]


@pytest.fixture
def load(url: str) -> Iterator[Load]:
    """Load the function as cvat-cli does for ``--function-module service.client.cvat -p …``."""
    with contextlib.ExitStack() as at_the_end:

        def loaded(**parameters: Any) -> Any:
            function = cli.FunctionLoader("service.client.cvat", None, {"server": url, **parameters}).load()
            at_the_end.callback(function.close)
            return function

        yield loaded


def context(**fields: Any) -> Any:
    return driver._DetectionFunctionContextImpl(**{"frame_name": "a.png", "conf_threshold": None, **fields})


def picture(name: str) -> Any:
    with Image.open(SAMPLES / name) as image:
        image.load()
        return image


def mapper(function: Any, types: dict[str, str], **options: Any) -> Any:
    """What remaps the answers to a task whose labels have these types."""
    labels = [
        models.Label(id=100 + n, name=name, type=kind, attributes=[], sublabels=[])
        for n, (name, kind) in enumerate(types.items())
    ]
    settings = {"allow_unmatched_labels": True, "conv_mask_to_poly": False, **options}
    return driver._AnnotationMapper(logging.getLogger("test"), function.spec.labels, labels, **settings)


def native(url: str, name: str, **options: Any) -> Any:
    """What the API says of a picture."""
    with (SAMPLES / name).open("rb") as file:
        answer = httpx.post(
            f"{url}/api/v1/explain",
            files={"image": file},
            data={"output": ["regions", "mask"], "image_format": "png", **options},
            timeout=60,
        )
    return answer.json()["results"][0]


@pytest.mark.parametrize("kind", ["tag", "rectangle", "polygon", "mask"])
@pytest.mark.parametrize("task", ["own", "any"])
def test_answers_are_what_the_sdk_takes(url: str, load: Load, kind: str, task: str) -> None:
    function = load(kind=kind)
    assert isinstance(function.spec, cvataa.DetectionFunctionSpec)
    assert [label.name for label in function.spec.labels] == LABELS
    types = dict.fromkeys(LABELS, kind if task == "own" else "any")
    for frame, name in enumerate(NAMES):
        annotations = function.detect(context(), picture(name))
        tags, shapes = mapper(function, types).validate_and_remap(annotations, frame)
        result = native(url, name)
        label = result["predictions"][0]["label"]
        found = tags if kind == "tag" else shapes
        assert (len(tags) > 0) == (kind == "tag")
        assert found
        assert {each.label_id for each in found} == {100 + LABELS.index(label)}
        assert {each.frame for each in found} == {frame}
        if kind != "tag":
            assert len(found) == len(result["explanations"][0]["regions"])
            assert {each.type.value for each in found} == {kind}


def test_masks_are_the_maps_own_pixels(url: str, load: Load) -> None:
    function = load(kind="mask", region_threshold=0.4)
    for name in NAMES:
        result = native(url, name, threshold=0.4)
        width, height = result["image"]["width"], result["image"]["height"]
        drawn = result["explanations"][0]["mask"]["data"]
        with Image.open(io.BytesIO(base64.b64decode(drawn))) as image:
            grey = np.asarray(image)
        together = np.zeros((height, width), bool)
        for shape in function.detect(context(), picture(name)):
            together |= masks.decode_mask(shape.points, image_width=width, image_height=height)
        assert (together != (grey >= 102)).sum() <= 2


def test_masks_become_polygons_where_cvat_wants_them(load: Load) -> None:
    function = load(kind="mask")
    annotations = function.detect(context(conv_mask_to_poly=True), picture("03-star.png"))
    remap = mapper(function, {"star": "polygon"}, conv_mask_to_poly=True)
    _, shapes = remap.validate_and_remap(annotations, 0)
    assert {shape.type.value for shape in shapes} == {"polygon"}
    assert all(len(shape.points) >= 6 for shape in shapes)


def test_the_confidence_threshold_is_kept(load: Load) -> None:
    for kind in ("tag", "mask"):
        function = load(kind=kind)
        assert function.detect(context(conf_threshold=0.9999), picture("03-star.png")) == []
        several = function.detect(context(conf_threshold=0.00001), picture("03-star.png"))
        assert len({each.label_id for each in several}) > 1


def test_labels_that_the_task_lacks_are_left_out_or_named(load: Load) -> None:
    function = load(kind="tag")
    tags, _ = mapper(function, {"disk": "any"}).validate_and_remap(
        function.detect(context(), picture("03-star.png")), 0
    )
    assert tags == []
    with pytest.raises(cvataa.BadFunctionError, match="is not in dataset"):
        mapper(function, {"disk": "any"}, allow_unmatched_labels=False)


class Prompts(cvataa.InteractionPrompts):  # type: ignore[misc, name-defined]
    pos_points: Any = ()
    neg_points: Any = ()
    bounding_box: Any = None

    def __init__(self, *pos_points: Any, neg_points: Any = (), bounding_box: Any = None) -> None:
        self.pos_points, self.neg_points, self.bounding_box = pos_points, neg_points, bounding_box


def test_clicks(url: str, load: Load) -> None:
    function = load(kind="click")
    assert isinstance(function.spec, cvataa.InteractionFunctionSpec)
    result = native(url, "03-star.png")
    width, height = result["image"]["width"], result["image"]["height"]
    peak = result["explanations"][0]["peak"]

    def mask(prompts: Any) -> Any:
        (shape,) = function.detect(None, picture("03-star.png"), prompts)
        assert isinstance(shape, cvataa.InteractionResultShape)
        assert shape.type == "mask"
        return masks.decode_mask(shape.points, image_width=width, image_height=height)

    whole = mask(Prompts((peak["x"], peak["y"])))
    assert whole[int(peak["y"]), int(peak["x"])]
    ys, xs = np.nonzero(whole)
    cut = mask(Prompts((peak["x"], peak["y"]), neg_points=[(float(xs.max()), float(ys[xs.argmax()]))]))
    assert 0 < cut.sum() < whole.sum()
    boxed = mask(
        Prompts((peak["x"], peak["y"]), bounding_box=((peak["x"] - 5, peak["y"] - 5), (peak["x"] + 5, peak["y"] + 5)))
    )
    assert boxed.sum() <= 12 * 12
    assert function.detect(None, picture("03-star.png"), Prompts((-5.0, -5.0))) == []


def test_parameters_are_read_and_checked(load: Load, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("camserve_unused\n")
    named = load(model="shapes-shortcut", kind="rectangle", layer="layer3", method="gradcam++", api_key_file=str(key))
    assert named.detect(context(), picture("03-star.png"))
    with pytest.raises(ValueError, match="kind is one of"):
        load(kind="skeleton")
    with pytest.raises(Exception, match="no model 'shape'"):
        load(model="shape")
    with pytest.raises(TypeError):
        load(colour="red")
