"""What must come out on the embedded models, whose truth is known, and on maps that say nothing."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.demo.scenes import make_leaky_scene, make_scene
from service.errors import LayerNotExplainable
from service.evaluation.asked import Arm, Asked
from service.evaluation.candidates import arms_of, default_layers
from service.evaluation.imputation import NOISE
from service.evaluation.in_process import InProcess
from service.evaluation.outcome import outcome_of
from service.evaluation.pictures import Picture, truth_of_mask
from service.evaluation.ranking import ranks
from service.evaluation.road import SHARES, road_combined, road_inputs
from service.evaluation.run import Run
from service.evaluation.subject import probabilities_of
from service.imaging.preprocess import geometry_for
from service.model_config import ModelConfig
from service.models.loading import load_model
from service.models.sources.source import Downloads
from tests.evaluation.test_imputation import exact_of_many

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.evaluation.outcome import Outcome
    from service.models.host import ModelHost

pytestmark = pytest.mark.slow

LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4.0", "layer4", "layer4.1.conv2")
LATE = {"layer3", "layer4.0", "layer4"}


@cache
def host_of(name: str) -> ModelHost:
    downloads = Downloads(Path(tempfile.mkdtemp()), allowed=False)
    return load_model(ModelConfig(name=name, architecture=name), "cpu", downloads)


def scenes(name: str, count: int, seed: int = 0) -> list[Picture]:
    rng = np.random.default_rng(seed)
    spec, make = host_of(name).info.preprocess, make_leaky_scene if name == "shapes-shortcut" else make_scene
    found = []
    for number in range(count):
        scene = make(rng, number % 4 if name == "shapes-shortcut" else None)
        geometry = geometry_for(spec, *scene.pixels.shape[1::-1])
        truth = truth_of_mask(scene.target_mask, geometry)
        assert truth is not None
        found.append(Picture(f"{number}.png", scene.pixels, geometry, scene.label, {None: truth}))
    return found


@cache
def outcome(name: str, count: int = 40) -> Outcome:
    arms = tuple(Arm(layer, "gradcam") for layer in LAYERS)
    run = Run(InProcess(host_of(name)), scenes(name, count), Asked(arms))
    for _ in run.steps():
        pass
    return outcome_of(run)


@pytest.mark.parametrize("name", ["shapes", "shapes-shortcut"])
def test_late_blocks_are_recommended_and_nothing_else_ties(name: str) -> None:
    found = outcome(name)
    arms = found.run.asked.arms
    for each in found.recommendations:
        assert each.arm is not None, each.text
        assert {arms[arm].layer for arm in each.ties} <= LATE


def test_the_default_layer_is_as_good_as_any_or_said_not_to_be() -> None:
    found = outcome("shapes")
    arms = found.run.asked.arms
    for each in found.recommendations:
        if "layer4" in {arms[arm].layer for arm in each.ties}:
            assert each.arm is not None
            assert arms[each.arm].layer == "layer4"
    class_evidence = found.recommendations[0]
    assert class_evidence.arm is not None
    assert arms[class_evidence.arm].layer == "layer4"


def test_the_shortcut_is_warned_of_and_nothing_else() -> None:
    texts = [each.text for each in outcome("shapes-shortcut").findings if each.code == "map_outside_object"]
    assert len(texts) == 1
    assert "Map outside the annotated object: for 'disk'" in texts[0]
    assert "map_outside_object" not in {each.code for each in outcome("shapes").findings}


@pytest.mark.parametrize("marked", [True, False])
def test_the_group_that_sees_the_watermark_is_found(marked: bool) -> None:
    found = overview("shapes-shortcut", marked)
    texts = [each.text for each in found.findings if each.code == "shared_place"]
    assert texts
    assert all("'disk'" in text for text in texts)
    assert all(("outside the annotated object" in text) is marked for text in texts)
    watermarked = {i for i, shown in enumerate(found.run.pictures) if shown.named == 0}
    members = [picture for group in found.overview.shared for picture in group.members]
    assert len(watermarked.intersection(members)) >= 0.8 * len(members)
    assert len(watermarked.intersection(members)) >= len(watermarked) / 3


@pytest.mark.parametrize("marked", [True, False])
def test_no_group_is_warned_of_where_there_is_no_shortcut(marked: bool) -> None:
    assert overview("shapes", marked).overview.shared == []


@cache
def overview(name: str, marked: bool) -> Outcome:
    pictures = [each if marked else replace(each, truths={}) for each in scenes(name, 60)]
    run = Run(InProcess(host_of(name)), pictures, Asked((Arm("layer4", "gradcam"),), ("localisation",)))
    for _ in run.steps():
        pass
    return outcome_of(run)


def test_faithful_maps_of_the_shortcut_miss_the_object() -> None:
    found = outcome("shapes-shortcut")
    scores, classes = found.scores, found.run.maps.classes
    layer4 = f"a{LAYERS.index('layer4')}"
    tagged = [i for i, label in enumerate(classes) if label == 0]
    assert np.nanmean(scores.of("pointing_game", layer4)[tagged]) < 0.2
    assert np.nanmean(scores.of("road", layer4)[tagged]) > 0.3


def test_branches_are_excluded_with_a_reason_and_single_cells_refused() -> None:
    excluded = outcome("shapes").gates[LAYERS.index("layer4.1.conv2")].excluded
    assert excluded is not None
    assert "parallel paths" in excluded
    with pytest.raises(LayerNotExplainable):
        arms_of(host_of("shapes").info, ["avgpool"], ["gradcam"])


def test_maps_that_know_nothing_score_as_chance() -> None:
    found = outcome("shapes")
    area = np.mean([picture.truths[None].mask.mean() for picture in found.run.pictures])
    assert found.scores.interval("mass_inside", "random").mean == pytest.approx(area, rel=0.1)
    assert abs(found.scores.interval("road", "random").mean) < 0.1
    assert found.scores.interval("grid_pointing_game", "random").mean == pytest.approx(0.25, abs=0.01)
    assert found.scores.interval("road", f"s{LAYERS.index('layer4')}").mean < 0.1


def test_the_layers_that_are_compared_by_default_are_one_per_stage() -> None:
    layers = default_layers(host_of("shapes").info)
    assert {"layer1", "layer2", "layer3", "layer4"} <= set(layers)
    assert not {"avgpool", "stem.0"} & set(layers)
    assert len(layers) <= 8


class TestRoad:
    """The approximate imputation against the exact one: on the same maps, in the same order, with the same noise."""

    def test_scores_correlate_with_those_of_the_exact_solver(self) -> None:
        subject, found = InProcess(host_of("shapes")), outcome("shapes")
        rows = []
        for picture in range(12):
            for arm in (LAYERS.index("layer2"), LAYERS.index("layer4")):
                evidence, label = found.run.maps.at_input(arm, picture), found.run.maps.classes[picture]
                pixels = found.run.pictures[picture].pixels
                shown = road_inputs(pixels, evidence, np.random.default_rng(picture))
                reference = exact_inputs(pixels, evidence, np.random.default_rng(picture))
                rows.append([score(subject, each, label) for each in (shown, reference)])
        approximate, wanted = np.array(rows).T
        assert np.corrcoef(approximate, wanted)[0, 1] > 0.99
        assert approximate.mean() == pytest.approx(wanted.mean(), abs=0.01)


def score(subject: InProcess, shown: NDArray[np.uint8], label: int) -> float:
    return road_combined(probabilities_of(subject.logits(shown), "softmax")[:, label])


def exact_inputs(
    pixels: NDArray[np.uint8], evidence: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """What ``road_inputs`` makes, with the system of equations solved."""
    place = ranks(evidence, rng)
    counts = [round(share * place.size) for share in SHARES]
    gone = [*(place < count for count in counts), *(place >= place.size - count for count in counts)]
    planes, shown = pixels.transpose(2, 0, 1).astype(np.float32), []
    for missing in gone:
        noise = rng.standard_normal(planes.shape, np.float32) * np.float32(255 * NOISE)
        filled = exact_of_many(planes, missing) + np.where(missing, noise, np.float32(0))
        shown.append((np.clip(filled, 0, 255) + 0.5).astype(np.uint8).transpose(1, 2, 0))
    return np.stack(shown)
