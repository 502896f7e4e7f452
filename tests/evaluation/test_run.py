"""A whole run on a model whose answers are worked out by hand: steps, state, conclusions."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.evaluation.asked import Arm, Asked
from service.evaluation.outcome import outcome_of
from service.evaluation.report import report_of
from service.evaluation.run import Run
from service.evaluation.state import State
from tests.evaluation.fakes import INFO, Squares, picture

if TYPE_CHECKING:
    from service.evaluation.outcome import Outcome

ARMS = tuple(Arm(layer.name, "gradcam") for layer in INFO.layers)


def run_of(count: int = 16, *, marked: str = "mask", arms: tuple[Arm, ...] = ARMS, seed: int = 0) -> Run:
    return Run(Squares(), [picture(number, marked=marked) for number in range(count)], Asked(arms, seed=seed))


def three(*layers: str) -> tuple[Arm, ...]:
    return tuple(Arm(layer, "gradcam") for layer in layers)


def finished(run: Run) -> Outcome:
    for progress in run.steps():
        assert 0 < progress.done <= progress.total
    return outcome_of(run)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return finished(run_of())


class TestConclusions:
    def test_the_good_layer_is_recommended_for_every_purpose(self, outcome: Outcome) -> None:
        assert [ARMS[each.arm].layer for each in outcome.recommendations if each.arm is not None] == ["good"] * 3
        assert all(each.none_because is None for each in outcome.recommendations)

    def test_branches_single_cells_and_dead_layers_never_are(self, outcome: Outcome) -> None:
        reasons = {ARMS[arm].layer: gates.excluded for arm, gates in outcome.gates.items()}
        assert "parallel paths" in str(reasons["branch"])
        assert "grid is 1×1" in str(reasons["pool"])
        assert "nothing of places" in str(reasons["dead"])
        tied = {ARMS[arm].layer for each in outcome.recommendations for arm in each.ties}
        assert tied == {"good"}

    def test_layers_with_the_same_maps_are_measured_once(self, outcome: Outcome) -> None:
        twins = outcome.run.maps.twins
        assert ARMS[twins[3]].layer == "good"
        rows = {row["layer"]: row for row in outcome.as_json()["rows"]}
        assert rows["same"]["same_as"] == "good"
        assert rows["same"]["metrics"] == rows["good"]["metrics"]

    def test_noise_fails_the_gates(self, outcome: Outcome) -> None:
        gates = outcome.gates[0]
        assert gates.beaten("random") is False
        assert gates.beaten("shifted") is False

    def test_a_map_that_says_nothing_scores_as_chance(self, outcome: Outcome) -> None:
        dead = f"a{[arm.layer for arm in ARMS].index('dead')}"
        scores = outcome.scores
        area = np.mean([shown.truths[None].mask.mean() for shown in outcome.run.pictures])
        assert scores.interval("mass_inside", dead).mean == pytest.approx(area)
        assert scores.interval("grid_pointing_game", dead).mean == 0.25
        assert abs(scores.interval("road", dead).mean) < 0.02
        assert scores.interval("max_box_acc", dead).mean == 0.0
        assert "dead_maps" in {each.code for each in outcome.findings}

    def test_figures_of_the_good_layer(self, outcome: Outcome) -> None:
        found = {name: outcome.scores.interval(name, "a2").mean for name in outcome.scores.metrics}
        assert found["pointing_game"] == 1.0
        assert found["grid_pointing_game"] > 0.9
        assert found["road"] > 0.3
        assert found["max_box_acc"] > 0.6

    @pytest.mark.slow
    def test_the_same_seed_says_the_same(self, outcome: Outcome) -> None:
        assert finished(run_of()).as_json() == outcome.as_json()

    def test_json_is_as_documented(self, outcome: Outcome) -> None:
        told = json.loads(json.dumps(outcome.as_json(), allow_nan=False))
        assert told["images"] == 16
        assert {row["layer"] for row in told["rows"]} == {arm.layer for arm in ARMS}
        assert set(told["rows"][2]["metrics"]["pointing_game"]) == {"mean", "low", "high", "n"}
        assert [each["name"] for each in told["baselines"]] == ["random", "centre", "edges"]
        assert {"purpose", "layer", "method", "ties", "text", "none_because"} <= set(told["recommendations"][0])


class TestHonesty:
    def test_few_pictures_tell_nothing(self) -> None:
        found = finished(run_of(6, arms=three("good", "noisy")))
        assert {each.arm for each in found.recommendations} == {None}
        assert all("too few" in str(each.none_because) for each in found.recommendations)
        assert "few_pictures" in {each.code for each in found.findings}

    def test_nothing_good_means_no_recommendation(self) -> None:
        found = finished(run_of(arms=(Arm("noisy", "gradcam"), Arm("pool", "gradcam"))))
        assert {each.arm for each in found.recommendations} == {None}
        assert all(each.none_because for each in found.recommendations)

    def test_two_that_cannot_be_told_apart_are_never_called_better(self) -> None:
        found = finished(run_of(arms=(Arm("good", "gradcam"), Arm("good", "hirescam"), Arm("noisy", "gradcam"))))
        for each in found.recommendations:
            assert "better than" not in each.text or len(each.ties) == 1

    def test_without_marks_localisation_says_so(self) -> None:
        found = finished(run_of(12, marked="none", arms=three("good", "noisy")))
        (where,) = [each for each in found.recommendations if each.purpose == "localisation"]
        assert "give boxes or masks" in str(where.none_because)
        assert "pointing_game" not in found.scores.metrics

    def test_maps_outside_what_is_marked_are_warned_of(self) -> None:
        found = finished(run_of(12, marked="elsewhere", arms=three("good", "noisy")))
        assert "map_outside_object" in {each.code for each in found.findings}

    def test_one_class_has_no_mosaics(self) -> None:
        run = Run(Squares(), [picture(3 * number) for number in range(12)], Asked(three("good")))
        found = finished(run)
        (of_class,) = [each for each in found.recommendations if each.purpose == "class"]
        assert "one class" in str(of_class.none_because)

    def test_wrong_predictions_are_not_compared_with_marks(self) -> None:
        pictures = [picture(number) for number in range(12)]
        pictures[0] = replace(pictures[0], named=2)
        run = Run(Squares(), pictures, Asked(three("good")))
        found = finished(run)
        assert 0 not in run.marked
        assert "wrong_predictions" in {each.code for each in found.findings}


class TestSteps:
    def test_a_run_goes_on_from_its_state(self, outcome: Outcome) -> None:
        first = run_of()
        for number, _ in enumerate(first.steps()):
            if number == 60:
                break
        kept = State.from_bytes(first.state.to_bytes())
        second = run_of()
        second.state = kept
        found = finished(second)
        assert found.as_json() == outcome.as_json()

        third = Run(Squares(), first.pictures, first.asked, State.from_bytes(second.state.to_bytes()))
        for _ in third.steps():
            pass
        assert isinstance(third.subject, Squares)
        assert third.subject.calls == 0

    def test_nothing_is_computed_before_it_is_asked_for(self) -> None:
        run = run_of()
        steps = run.steps()
        next(steps)
        assert isinstance(run.subject, Squares)
        assert run.subject.calls == 1

    def test_fewer_candidates_reach_the_later_rounds(self) -> None:
        arms = three("good", "noisy")
        run = run_of(30, arms=arms)
        finished(run)
        measured = {arm.layer: int((~np.isnan(run.perturbed("road", f"a{n}"))).sum()) for n, arm in enumerate(arms)}
        assert measured["good"] == 30
        assert measured["noisy"] == 24


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in {"src", "href"}]


class TestReport:
    def test_it_needs_nothing_else(self, outcome: Outcome) -> None:
        links = _Links()
        links.feed(report_of(outcome, 12.0))
        assert links.found
        assert all(link.startswith("data:image/jpeg;base64,") for link in links.found)
        assert "script" not in links.tags
        assert {"svg", "table"} <= links.tags

    def test_it_says_what_was_found_and_how(self, outcome: Outcome) -> None:
        text = report_of(outcome, 12.0)
        for each in outcome.recommendations:
            assert each.text in text
        assert "to beat: a random map" in text
        assert "prefers-color-scheme: dark" in text
        assert "<dt>seed</dt><dd>0</dd>" in text

    def test_a_group_of_many_classes_names_some(self, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
        for count, shown in ((5, "class 3 (1), class 4 (1)</th>"), (9, "class 3 (1), and 5 classes more</th>")):
            monkeypatch.setattr(type(outcome), "labels", lambda *_, n=count: {f"class {i}": 1 for i in range(n)})
            assert shown in report_of(outcome)

    def test_boxes_are_explained_where_there_are_some(self, outcome: Outcome) -> None:
        pictures = [picture(number, marked="none") for number in range(12)]
        unmarked = finished(Run(Squares(), pictures, Asked(three("good", "noisy"), ("class",))))
        found = ["White boxes are what was marked." in report_of(each) for each in (outcome, unmarked)]
        assert found == [True, False]

    def test_names_are_text(self) -> None:
        evil = '<img src=x onerror="alert(1)">.png'
        pictures = [replace(picture(number), name=evil) for number in range(12)]
        subject = Squares()
        subject.info = replace(INFO, name="<b>model</b>", labels=("<i>red</i>", "g&g", "'blue\""))
        text = report_of(finished(Run(subject, pictures, Asked(three("good", "noisy")))))
        assert "<img src=x" not in text
        assert "<b>model</b>" not in text
        assert "<i>red</i>" not in text
        assert "&lt;img src=x" in text
