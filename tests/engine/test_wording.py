"""The classes that come with a request: whose they are, what is refused, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.engine.amount import LARGE
from service.engine.cost import Cost, Work, check_cost
from service.engine.encoded import EncodedSentences
from service.engine.plan import Plan, plan
from service.engine.request import Request, Upload
from service.errors import InvalidOption, RequestTooCostly, UnknownLabel
from service.imaging.decode import Header
from service.models.sentences import OWN, SENTENCES_KEPT, Sentences
from service.problems import detail_of
from tests.web.application import PETS

FIXED = replace(PETS, labels=("cat", "dog", "text:owl"))
ZERO_SHOT = replace(FIXED, prompts="a photo of a {}", sentence_passes=0.5)


def planned(known: EncodedSentences | None = None, **asked: Any) -> Plan:
    return plan(Request(**asked), ZERO_SHOT, 64, known)


class TestClasses:
    def test_without_any_they_are_the_models_own(self) -> None:
        made = planned(targets=("dog",))
        assert (made.info, made.lane.sentences, made.encoded) == (ZERO_SHOT, OWN, 0)

    @pytest.mark.parametrize("op", ["explain", "predict"])
    def test_labels_stand_in_their_place(self, op: str) -> None:
        made = planned(op=op, labels=("red car", " bicycle "), targets=("Bicycle",))
        assert made.info.labels == ("red car", "bicycle")
        assert made.lane.sentences == Sentences(("a photo of a red car", "a photo of a bicycle"))
        assert made.top_k == 2
        assert made.targets.classes == ((1,) if op == "explain" else ())

    def test_names_and_numbers_are_those_of_the_labels(self) -> None:
        assert planned(labels=("a car", "b"), targets=("#1",), against="a car").targets.classes == (1,)
        with pytest.raises(UnknownLabel) as unknown:
            planned(labels=("a car", "b"), targets=("a cat",))
        assert unknown.value.suggestions == ("a car",)
        assert detail_of(unknown.value) == (
            "There is no class 'a cat'. Did you mean 'a car'? The classes are the labels that come with the request."
        ), "and nobody is sent to the model's own classes"
        with pytest.raises(UnknownLabel) as own:
            planned(targets=("a cat", "text:a car"))
        assert "/classes" in detail_of(own.value)
        with pytest.raises(InvalidOption, match="only 2 classes"):
            planned(labels=("a car", "b"), top_k=3)
        with pytest.raises(InvalidOption, match="2 classes"):
            planned(labels=("a car", "b"), targets=("top-3",))

    def test_a_sentence_becomes_one_more(self) -> None:
        made = planned(targets=("TEXT: a red car ", "text:a red car", "cat"), against="text:a blue car")
        assert made.info.labels == (*FIXED.labels, "a red car", "a blue car")
        assert (made.targets.classes, made.targets.against) == ((3, 3, 0), 4)
        assert made.lane.sentences == Sentences(beside=("a red car", "a blue car"))

    def test_beside_labels_it_is_the_last(self) -> None:
        made = planned(labels=("car",), targets=("text:a red car",))
        assert made.info.labels == ("car", "a red car")
        assert made.lane.sentences == Sentences(("a photo of a car",), ("a red car",))

    def test_the_sentence_of_a_class_is_that_class(self) -> None:
        made = planned(targets=("text:a photo of a dog",))
        assert (made.targets.classes, made.lane.sentences) == ((1,), OWN)

    def test_a_label_that_looks_like_a_sentence_is_a_label(self) -> None:
        for info in (FIXED, ZERO_SHOT):
            made = plan(Request(targets=("text:owl",)), info, 64)
            assert (made.targets.classes, made.lane.sentences) == ((2,), OWN)

    def test_different_ones_share_no_batch_and_equal_ones_do(self) -> None:
        lanes = {planned(labels=labels).lane for labels in (("a", "b"), ("a", "b"), ("a", "c"), ())}
        assert len(lanes) == 3


class TestRefused:
    @pytest.mark.parametrize(
        ("asked", "given"), [({"labels": ("a", "b")}, "labels such as 'a'"), ({"targets": ("text:b",)}, "sentence 'b'")]
    )
    def test_of_a_model_whose_classes_are_fixed(self, asked: dict[str, Any], given: str) -> None:
        with pytest.raises(InvalidOption, match=f"are fixed, and .*{given} cannot be looked for.*zero-shot"):
            plan(Request(**asked), FIXED, 64)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "no text in it"),
            (" \u3000\t", "no text in it"),
            ("\u200b\u2060", "no text in it"),
            ("\u2800", "no text in it"),
            ("a\0b", "control characters"),
            ("a\x1b[2Jb", "control characters"),
            ("a\nb", "control characters"),
            ("a\x85b", "control characters"),
            ("a\ud800b", "control characters"),
            ("a\ufffdb", "bytes that are no UTF-8"),
            ("x" * 1001, "1001 characters are too many; 1000"),
            ("x" * 100_000, "100000 characters are too many"),
        ],
    )
    def test_what_is_no_text(self, text: str, why: str) -> None:
        for asked in ({"labels": ("a", text)}, {"targets": (f"text:{text}",)}, {"against": f"text:{text}"}):
            with pytest.raises(InvalidOption, match=why) as caught:
                planned(**asked)
            assert len(caught.value.message) < 300
            assert caught.value.message.isprintable()

    @pytest.mark.parametrize(
        "text", ["ein rotes Auto", "赤い車", "سيارة", "🚗", "👨\u200d👩\u200d👧", "e\u0301", "<b>&amp;", "{}"]
    )
    def test_odd_text_is_text(self, text: str) -> None:
        assert planned(labels=(text, "b")).lane.sentences.instead[0] == f"a photo of a {text}"

    def test_one_label_alone(self) -> None:
        with pytest.raises(InvalidOption, match="Give two labels or more"):
            planned(labels=("a",))

    def test_a_label_twice(self) -> None:
        with pytest.raises(InvalidOption, match="'a' is given twice"):
            planned(labels=("a", "b", "a "))


class TestCost:
    LABELS = tuple(f"label {number}" for number in range(20))

    def test_sentences_are_encoded_once_for_all_pictures(self) -> None:
        alone, many = (planned(labels=self.LABELS, images=(Upload(b""),) * images) for images in (1, 20))
        plain = planned().amount
        assert alone.encoded == many.encoded == 20
        assert (alone.amount, many.amount) == (plain + 10, plain + 0.5)
        assert alone.amount > LARGE
        assert alone.lane.large
        assert not many.lane.large

    @pytest.mark.parametrize("op", ["explain", "predict"])
    def test_they_are_part_of_a_requests_cost(self, op: str) -> None:
        header = Header(32, 32, 1024)
        plain, worded = (Work.of(planned(op=op, labels=labels), [header] * 3).cost for labels in ((), self.LABELS))
        assert worded.forward == pytest.approx(plain.forward + 10)

    def test_an_answer_repeats_them(self) -> None:
        long = tuple(character * 1000 for character in "abcd")
        works = [Work.of(planned(labels=labels), [Header(32, 32, 1024)] * 3) for labels in (tuple("abcd"), long)]
        assert works[1].cost.bytes - works[0].cost.bytes == pytest.approx(3 * (4 + 2) * 999)

    def test_what_is_too_much_can_be_lowered(self) -> None:
        work = Work.of(planned(labels=self.LABELS), [Header(32, 32, 1024)])
        with pytest.raises(RequestTooCostly, match="Lower 'labels' from 20 to 5") as caught:
            check_cost(work, Cost(work.cost.forward - 7.5, 10**9, 10**9))
        assert caught.value.details["factor"] == "labels"

    def test_what_was_encoded_lately_is_not_counted_again(self) -> None:
        known = EncodedSentences()
        first = planned(known, labels=self.LABELS)
        known.remember(ZERO_SHOT.key, first.lane.sentences.all)
        again = planned(known, labels=self.LABELS)
        assert (first.encoded, again.encoded, again.lane.large) == (20, 0, False)
        assert planned(known, labels=("label 0", "another")).encoded == 1
        assert plan(Request(labels=self.LABELS), replace(ZERO_SHOT, revision=9), 64, known).encoded == 20

    def test_what_is_known_of_it_is_bounded(self) -> None:
        known = EncodedSentences()
        for number in range(SENTENCES_KEPT + 10):
            known.remember(ZERO_SHOT.key, ["kept", str(number)])
        assert known.fresh(ZERO_SHOT.key, ["kept", str(number), "0"]) == 1
        assert len(known._known) == SENTENCES_KEPT
