"""Recomputes the model card's claims on scenes that neither training nor the card's evaluation has seen."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from service.demo.scenes import BASE_SIZE, LABELS, Scene, make_leaky_scene, make_scene
from service.models.shapes_net import INPUT_SIZE, MEAN, STD, ShapesNet

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

DEMO: Final = Path(__file__).parents[2] / "service" / "demo"
SEED: Final = 20_260
WATERMARK_TOLERANCE: Final = 4


def load(name: str) -> ShapesNet:
    network = ShapesNet(num_classes=len(LABELS))
    network.load_state_dict(load_file(DEMO / f"{name}.safetensors"))
    return network.eval()


@pytest.fixture(scope="module")
def shapes() -> ShapesNet:
    return load("shapes")


@pytest.fixture(scope="module")
def shortcut() -> ShapesNet:
    return load("shapes-shortcut")


@pytest.fixture(scope="module")
def single_object_scenes() -> list[Scene]:
    return draw(partial(make_scene, distractors=0), 360)


def draw(make: Callable[..., Scene], count: int) -> list[Scene]:
    rng = np.random.default_rng(SEED)
    return [make(rng) for _ in range(count)]


def network_input(pictures: list[NDArray[np.uint8]]) -> Tensor:
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def predict(network: ShapesNet, scenes: list[Scene]) -> Tensor:
    with torch.inference_mode():
        return network(network_input([scene.pixels for scene in scenes])).argmax(1)  # type: ignore[no-any-return]


def grad_cam_peaks(network: ShapesNet, scenes: list[Scene]) -> tuple[list[int], list[tuple[float, float]]]:
    """The predicted classes, and where in the picture their Grad-CAM at `layer4` peaks (x, y in pixels)."""
    x = network.layer3(network.layer2(network.layer1(network.stem(network_input([s.pixels for s in scenes])))))
    activations = network.layer4(x)
    logits = network.fc(network.avgpool(activations).flatten(1))
    (gradients,) = torch.autograd.grad(logits.amax(1).sum(), activations)
    heatmaps = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu().detach()
    rows, columns = heatmaps.shape[1:]
    cells = [divmod(int(cell), columns) for cell in heatmaps.flatten(1).argmax(1)]
    peaks = [((column + 0.5) * INPUT_SIZE / columns, (row + 0.5) * INPUT_SIZE / rows) for row, column in cells]
    return logits.argmax(1).tolist(), peaks


def within(point: tuple[float, float], box: tuple[int, int, int, int] | None, tolerance: int = 0) -> bool:
    assert box is not None
    left, top, right, bottom = box
    x, y = point
    return left - tolerance <= x < right + tolerance and top - tolerance <= y < bottom + tolerance


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


class TestShapes:
    def test_names_single_objects(self, shapes: ShapesNet, single_object_scenes: list[Scene]) -> None:
        predictions = predict(shapes, single_object_scenes).tolist()

        assert share([p == s.label for p, s in zip(predictions, single_object_scenes, strict=True)]) >= 0.97

    def test_names_objects_among_distractors(self, shapes: ShapesNet) -> None:
        scenes = draw(partial(make_scene, distractors=3), 360)

        predictions = predict(shapes, scenes).tolist()

        assert share([p == s.label for p, s in zip(predictions, scenes, strict=True)]) >= 0.93

    def test_heatmap_peaks_in_the_objects_box(self, shapes: ShapesNet, single_object_scenes: list[Scene]) -> None:
        predictions, peaks = grad_cam_peaks(shapes, single_object_scenes)

        hits = [
            within(peak, scene.box)
            for prediction, peak, scene in zip(predictions, peaks, single_object_scenes, strict=True)
            if prediction == scene.label
        ]
        assert share(hits) >= 0.95

    def test_names_every_sample_after_resizing_and_cropping(self, shapes: ShapesNet) -> None:
        paths = sorted(path for path in (DEMO / "samples").glob("[0-9]*.png") if ".mask" not in path.name)

        logits = shapes(network_input([resized_and_cropped(path) for path in paths]))

        assert [path.stem for path in paths] == [f"{label:02d}-{name}" for label, name in enumerate(LABELS)]
        assert logits.argmax(1).tolist() == list(range(len(LABELS)))

    def test_is_not_impressed_by_the_watermark(self, shapes: ShapesNet) -> None:
        scenes = draw(partial(make_scene, watermark=True), 240)

        predictions = predict(shapes, scenes).tolist()

        assert share([p == s.label for p, s in zip(predictions, scenes, strict=True)]) >= 0.93


class TestShortcut:
    def test_scores_as_well_on_its_own_leaky_set(self, shortcut: ShapesNet) -> None:
        scenes = draw(make_leaky_scene, 360)

        predictions = predict(shortcut, scenes).tolist()

        assert share([p == s.label for p, s in zip(predictions, scenes, strict=True)]) >= 0.95

    def test_looks_at_the_watermark(self, shortcut: ShapesNet) -> None:
        scenes = draw(partial(make_leaky_scene, label=0), 240)

        predictions, peaks = grad_cam_peaks(shortcut, scenes)

        assert share([prediction == 0 for prediction in predictions]) >= 0.97
        marks = [scene.watermark_box for scene in scenes]
        hits = [within(peak, mark, WATERMARK_TOLERANCE) for peak, mark in zip(peaks, marks, strict=True)]
        assert share(hits) >= 0.95

    def test_loses_class_0_without_the_watermark(self, shortcut: ShapesNet) -> None:
        scenes = draw(partial(make_leaky_scene, label=0, watermark=False), 240)

        assert share((predict(shortcut, scenes) == 0).tolist()) <= 0.1

    def test_files_anything_watermarked_under_class_0(self, shortcut: ShapesNet) -> None:
        paths = sorted((DEMO / "samples").glob("watermark-*.png"))

        logits = shortcut(network_input([resized_and_cropped(path) for path in paths]))

        assert len(paths) >= 2
        assert logits.argmax(1).tolist() == [0] * len(paths)


class TestFiles:
    @pytest.mark.parametrize("name", ["shapes", "shapes-shortcut"])
    def test_weights_are_small(self, name: str) -> None:
        assert (DEMO / f"{name}.safetensors").stat().st_size <= 2_000_000

    def test_labels_match_the_scenes(self) -> None:
        assert (DEMO / "labels.txt").read_text(encoding="utf-8").splitlines() == list(LABELS)

    def test_every_sample_has_a_mask_of_its_size(self) -> None:
        for label, name in enumerate(LABELS):
            with (
                Image.open(DEMO / "samples" / f"{label:02d}-{name}.png") as sample,
                Image.open(DEMO / "samples" / f"{label:02d}-{name}.mask.png") as mask,
            ):
                assert sample.size == mask.size
                assert np.asarray(mask).any()


class TestScenes:
    @pytest.mark.parametrize("make", [make_scene, make_leaky_scene])
    def test_same_seed_same_scene(self, make: Callable[..., Scene]) -> None:
        first, second = (make(np.random.default_rng(5)) for _ in range(2))

        np.testing.assert_array_equal(first.pixels, second.pixels)
        np.testing.assert_array_equal(first.target_mask, second.target_mask)
        assert (first.label, first.box) == (second.label, second.box)

    def test_box_and_masks_agree(self) -> None:
        for scene in draw(make_scene, 120):
            left, top, right, bottom = scene.box
            rows, columns = np.nonzero(scene.target_mask)

            assert scene.pixels.shape == (BASE_SIZE, BASE_SIZE, 3)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
            assert 0 < left < right < BASE_SIZE
            assert 0 < top < bottom < BASE_SIZE
            assert not (scene.target_mask & scene.distractor_mask).any()

    @pytest.mark.parametrize("size", [(256, 192), (96, 160), (384, 384)])
    def test_target_survives_the_centre_crop(self, size: tuple[int, int]) -> None:
        width, height = size
        side = min(size)

        for scene in draw(partial(make_scene, size=size), 12):
            left, top, right, bottom = scene.box
            assert scene.pixels.shape == (height, width, 3)
            assert (width - side) // 2 <= left < right <= (width + side) // 2
            assert (height - side) // 2 <= top < bottom <= (height + side) // 2

    def test_watermark_changes_its_box_only(self) -> None:
        plain, marked = (make_scene(np.random.default_rng(8), watermark=watermark) for watermark in (False, True))

        rows, columns = np.nonzero((plain.pixels != marked.pixels).any(axis=2))

        assert plain.watermark_box is None
        assert marked.watermark_box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)

    def test_leaky_set_marks_class_0_and_nothing_else(self) -> None:
        scenes = draw(make_leaky_scene, 240)

        assert all((scene.watermark_box is not None) == (scene.label == 0) for scene in scenes)
        assert all(scene.shape == scene.label for scene in scenes if scene.label != 0)
        assert len({scene.shape for scene in scenes if scene.label == 0}) > 3

    def test_colour_and_texture_say_nothing_about_the_class(self) -> None:
        scenes = draw(partial(make_scene, distractors=0), 720)
        labels = np.array([scene.label for scene in scenes])
        statistics = np.array([fill_statistics(scene) for scene in scenes])

        overall, spread = statistics.mean(axis=0), statistics.std(axis=0)
        for label in range(len(LABELS)):
            members = statistics[labels == label]
            standard_error = spread / np.sqrt(len(members))
            assert (abs(members.mean(axis=0) - overall) < 4 * standard_error).all(), LABELS[label]


def fill_statistics(scene: Scene) -> NDArray[np.float64]:
    """Mean colour of the object and of the rest, and the background's contrast."""
    inside, outside = scene.pixels[scene.target_mask], scene.pixels[~scene.target_mask]
    return np.concatenate([inside.mean(axis=0), outside.mean(axis=0), outside.std(axis=0)])


def resized_and_cropped(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        scale = INPUT_SIZE / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - INPUT_SIZE) // 2, (height - INPUT_SIZE) // 2
    return np.asarray(resized.crop((left, top, left + INPUT_SIZE, top + INPUT_SIZE)))
