"""Ranks and what they prove, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service.verification.gates import differ, other_class
from service.verification.score import Scale
from service.verification.verdict import Drops, Gates, Verification, sentence, undecided

NONE = Gates()


def judged(here: float, *elsewhere: float, rounding: float = 0.0) -> Verification:
    return Drops(here, 0.5, elsewhere, rounding).judged(NONE, 20)


class TestRanks:
    @pytest.mark.parametrize(("reaching", "p"), [(0, 0.05), (1, 0.1), (5, 0.3), (19, 1.0)])
    def test_p_counts_the_controls_that_drop_as_far(self, reaching: int, p: float) -> None:
        found = judged(2.0, *[3.0] * reaching, *[1.0] * (19 - reaching))
        assert found.p == p
        assert found.verdict == ("supported" if reaching == 0 else "not_supported")

    def test_an_equal_drop_counts(self) -> None:
        assert judged(2.0, 2.0, *[1.0] * 18).p == 0.1

    def test_what_differs_by_rounding_is_equal(self) -> None:
        assert judged(2.0, 1.9995, *[1.0] * 18, rounding=1e-3).p == 0.1
        assert judged(2.0, 1.99, *[1.0] * 18, rounding=1e-3).p == 0.05

    @pytest.mark.parametrize(("drop", "verdict"), [(0.1, "supported"), (0.099, "not_supported"), (-1, "not_supported")])
    def test_a_drop_that_changes_nothing_proves_nothing(self, drop: float, verdict: str) -> None:
        found = judged(drop, *[-2.0] * 19)
        assert (found.p, found.verdict) == (0.05, verdict)

    def test_a_class_that_becomes_more_probable_is_not_what_was_hidden(self) -> None:
        """Its logit drops, and those of others drop further."""
        found = Drops(2.0, -0.02, [1.0] * 19).judged(NONE, 20)
        assert (found.p, found.verdict) == (0.05, "not_supported")
        assert "raises its probability" in sentence(found, "cat")
        assert Drops(2.0, -0.02, [1.0] * 19, alone=False).judged(NONE, 20).verdict == "supported", "of two classes"

    def test_eighteen_controls_are_too_few(self) -> None:
        found = judged(9.0, *[1.0] * 18)
        assert (found.p, found.verdict, found.reason) == (None, "undecided", "few_controls")

    def test_controls_in_numbers(self) -> None:
        controls = judged(9.0, 5.0, *[1.0] * 10, *[0.0] * 8).controls
        assert controls is not None
        assert (controls.median, controls.max, controls.count) == (1.0, 5.0, 19)

    def test_no_control_at_all(self) -> None:
        found = judged(9.0)
        assert (found.controls, found.verdict) == (None, "undecided")


class TestSentences:
    @pytest.mark.parametrize(
        ("found", "says"),
        [
            (
                judged(2.0, *[1.0] * 19),
                "Supported: hiding what the map calls important lowers the logit of 'cat' by 2.00",
            ),
            (judged(2.0, *[3.0] * 4, *[1.0] * 15), "at 4 of 19 other places the same shape does at least as much"),
            (judged(-2.0, *[1.0] * 19), "Not supported: hiding what the map calls important raises the logit"),
            (judged(0.05, *[0.0] * 19), "all but nothing"),
            (judged(2.0, 1.0), "Undecided: hiding what the map calls important lowers"),
            (judged(2.0), "fits in 0 other places only"),
            (undecided("empty"), "Undecided: the map shows nothing that could be hidden."),
            (undecided("nothing_to_hide"), "nothing that the map shows in the picture speaks for 'cat', so there is"),
        ],
    )
    def test_they_say_what_is(self, found: Verification, says: str) -> None:
        assert says in sentence(found, "cat")

    def test_a_sentence_ends_with_one_full_stop(self) -> None:
        for found in (
            judged(2.0, *[1.0] * 19),
            judged(2.0, *[3.0] * 19),
            judged(2.0),
            undecided("empty"),
            undecided("nothing_to_hide"),
        ):
            assert sentence(found, "cat").endswith(".")
            assert ".." not in sentence(found, "cat")


class TestScores:
    def test_logits_as_they_are(self) -> None:
        outputs = np.array([[3.0, 1.0], [0.0, 0.0]], np.float32)
        scale = Scale("softmax", 0)
        assert scale.logits(outputs).tolist() == [3, 0]
        assert scale.probability(outputs) == pytest.approx([1 / (1 + np.exp(-2)), 0.5])
        assert Scale("softmax", 0, against=1).logits(outputs).tolist() == [2, 0]

    def test_log_odds_of_probabilities(self) -> None:
        outputs = np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
        scale = Scale("none", 0)
        assert scale.logits(outputs) == pytest.approx([np.log(3), 0])
        assert scale.probability(outputs).tolist() == [0.75, 0.5]

    def test_certain_ones_have_some_too(self) -> None:
        assert np.isfinite(Scale("none", 0).logits(np.array([[1.0, 0.0]], np.float32))).all()

    def test_numbers_that_are_no_probabilities_are_taken_as_they_are(self) -> None:
        assert Scale("none", 0).logits(np.array([[7.0, -3.0]], np.float32)).tolist() == [7]


class TestGates:
    RISING = np.arange(16, dtype=np.float32).reshape(4, 4)

    def test_the_same_map_at_any_scale_is_the_same(self) -> None:
        assert not differ(self.RISING, 1000 * self.RISING)

    def test_what_speaks_against_a_class_is_not_compared(self) -> None:
        assert not differ(self.RISING, np.where(self.RISING > 0, self.RISING, -99).astype(np.float32))

    def test_another_place_is_another_map(self) -> None:
        assert differ(self.RISING, self.RISING[::-1].copy())

    def test_a_map_that_shows_nothing_is_another(self) -> None:
        assert differ(self.RISING, -self.RISING)

    def test_the_other_class_is_the_most_probable_beside_those_asked_about(self) -> None:
        outputs = np.array([4, 9, 7, 1], np.float32)
        assert other_class(outputs, 1, None) == 2
        assert other_class(outputs, 0, None) == 1
        assert other_class(outputs, 1, 2) == 0
        assert other_class(outputs[:2], 1, 0) is None
        assert other_class(outputs[:1], 0, None) is None

    def test_a_proof_is_a_value(self) -> None:
        assert replace(undecided("empty"), passes=0) == undecided("empty")
