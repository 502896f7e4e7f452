from __future__ import annotations

from dataclasses import replace

import pytest

from service.cam.layers import Layer, LayerCall, Layout
from service.errors import LayerNotExplainable, UnknownLabel, UnknownLayer
from service.imaging.preprocess import PreprocessSpec
from service.models.info import Head, ModelInfo


def layer(name: str, order: int, *, call: LayerCall | None = None, refused: str | None = None) -> Layer:
    return Layer(
        name=name,
        call=call or LayerCall(name),
        type="Conv2d",
        kind="conv",
        shape=(4, 7, 7),
        layout=Layout("nchw", 7, 7),
        stride=32,
        order=order,
        on_every_path=True,
        explainable=refused is None,
        note=refused,
    )


LABELS = ("tabby", "Egyptian cat", "crane", "tiger cat", "catamaran", "Crane", "polecat", "Straße")

INFO = ModelInfo(
    name="birds",
    version="1",
    architecture="resnet18",
    labels=LABELS,
    preprocess=PreprocessSpec(),
    layers=(
        layer("layer1", 0),
        layer("block.relu:0", 1, call=LayerCall("block.relu", 0)),
        layer("block.relu:1", 2, call=LayerCall("block.relu", 1)),
        layer("layer4", 3),
        layer("avgpool", 4, refused="1×1 output: no position is left to show"),
    ),
    default_layer="layer4",
    dtype="float32",
    device="cpu",
    parameters=7,
)


class TestLayer:
    def test_by_name(self) -> None:
        assert INFO.layer("layer1") is INFO.layers[0]

    def test_default_is_the_models_default(self) -> None:
        assert INFO.layer("default").name == "layer4"
        assert replace(INFO, default_layer="layer1").layer("default").name == "layer1"

    def test_every_call_of_a_repeated_module_has_a_name(self) -> None:
        assert INFO.layer("block.relu:0").call == LayerCall("block.relu", 0)
        assert INFO.layer("block.relu:1").call == LayerCall("block.relu", 1)

    def test_the_bare_name_of_a_repeated_module_is_its_last_call(self) -> None:
        assert INFO.layer("block.relu").call == LayerCall("block.relu", 1)

    def test_a_refused_layer_says_why_and_what_to_try(self) -> None:
        with pytest.raises(LayerNotExplainable) as caught:
            INFO.layer("avgpool")

        assert "1×1 output: no position is left to show" in caught.value.message
        assert caught.value.message.endswith("Try 'layer4'.")
        assert caught.value.model == "birds"
        assert caught.value.details == {"suggestions": ["layer4"]}

    def test_an_unknown_layer_comes_with_the_closest_that_can_be_explained(self) -> None:
        with pytest.raises(UnknownLayer) as caught:
            INFO.layer("layer_4")

        assert caught.value.details["suggestions"][0] == "layer4"
        assert "There is no layer 'layer_4'. Did you mean 'layer4'" in caught.value.message
        assert (caught.value.kind, caught.value.name, caught.value.model) == ("layer", "layer_4", "birds")

    def test_a_refused_layer_is_never_suggested(self) -> None:
        with pytest.raises(UnknownLayer) as caught:
            INFO.layer("avgpoo")

        assert "avgpool" not in caught.value.details["suggestions"]

    @pytest.mark.parametrize("name", ["block.relu:2", "Layer4", "layer4 ", "", "block"])
    def test_names_are_exact(self, name: str) -> None:
        with pytest.raises(UnknownLayer):
            INFO.layer(name)

    def test_an_error_never_echoes_a_megabyte(self) -> None:
        with pytest.raises(UnknownLayer) as caught:
            INFO.layer("x" * 1_000_000)

        assert len(caught.value.message) < 500
        assert len(caught.value.name or "") < 100


class TestHeadView:
    TWO = replace(
        INFO,
        heads={
            "birds": Head(LABELS),
            "others": Head(tuple("abcdefgh"), "none"),
            "coarse": Head(("no", "yes"), "sigmoid"),
        },
        default_head="birds",
    )

    @pytest.mark.parametrize(
        ("head", "labels", "activation"),
        [("others", tuple("abcdefgh"), "none"), ("coarse", ("no", "yes"), "sigmoid")],
    )
    def test_a_head_has_its_own_labels_and_activation(
        self, head: str, labels: tuple[str, ...], activation: str
    ) -> None:
        """Also where it has as many classes as the default one: they are other classes."""
        seen = self.TWO.head_view(head)
        assert (seen.labels, seen.activation, seen.default_head) == (labels, activation, head)

    @pytest.mark.parametrize("head", [None, "birds"])
    def test_its_own_head_changes_nothing(self, head: str | None) -> None:
        assert self.TWO.head_view(head) is self.TWO


class TestClassIndex:
    def test_an_unknown_label_comes_with_the_closest_whatever_the_case(self) -> None:
        with pytest.raises(UnknownLabel) as caught:
            INFO.class_index("TABBI")

        assert caught.value.details["suggestions"] == ["tabby"]

    @pytest.mark.parametrize("target", [3, "3", " 3 ", "003", "0000000000000003"])
    def test_by_index(self, target: str | int) -> None:
        assert INFO.class_index(target) == 3

    @pytest.mark.parametrize("target", ["tiger cat", "Tiger Cat", " TIGER CAT\n"])
    def test_by_label_whatever_the_case(self, target: str) -> None:
        assert INFO.class_index(target) == 3

    def test_case_is_folded_not_lowered(self) -> None:
        assert INFO.class_index("STRASSE") == 7

    @pytest.mark.parametrize("target", ["CRANE", "crANE"])
    def test_the_first_of_equal_labels_wins(self, target: str) -> None:
        assert INFO.class_index(target) == 2

    @pytest.mark.parametrize(("target", "index"), [("crane", 2), ("Crane", 5)])
    def test_a_label_as_it_is_written_comes_before_one_that_is_equal(self, target: str, index: int) -> None:
        assert INFO.class_index(target) == index

    def test_the_other_of_equal_labels_goes_by_index(self) -> None:
        assert INFO.class_index(5) == 5

    @pytest.mark.parametrize(
        ("target", "index"),
        [
            ("3", 0),  # the label "3"
            ("0", 3),
            ("#3", 3),  # the class 3, whose label is "0"
            ("#0", 0),
            (" #2 ", 2),
            (3, 3),
            (0, 0),
            ("4", 4),  # no label: the index
            ("-1", 5),
            ("#5", 5),
        ],
    )
    def test_a_label_that_is_a_number_wins_over_the_index(self, target: str | int, index: int) -> None:
        digits = replace(INFO, labels=("3", "1", "2", "0", "#1", "-1"))

        assert digits.class_index(target) == index

    def test_the_sign_and_a_number_are_always_the_index(self) -> None:
        assert replace(INFO, labels=("a", "b", "#1")).class_index("#1") == 1

    @pytest.mark.parametrize(
        ("label", "typed"),
        [
            ("caf\u00e9", "cafe\u0301"),  # one letter, or e and an accent
            ("cafe\u0301", "CAF\u00c9"),
            ("tiger\u00a0cat", "tiger cat"),  # a no-break space
            ("tiger  cat", "tiger\tcat"),
            ("\u212bngstr\u00f6m", "\u00c5NGSTR\u00d6M"),  # the unit's sign, and the letter
            ("\uff21\uff22", "ab"),  # full-width letters
            ("\u0390", "\u03b9\u0308\u0301"),  # casefolding decomposes it
        ],
    )
    def test_labels_are_equal_however_they_are_typed(self, label: str, typed: str) -> None:
        info = replace(INFO, labels=("other", label))

        assert info.class_index(typed) == 1
        assert info.search_labels(typed, limit=20) == [1]

    @pytest.mark.parametrize(
        "target", [8, "8", "#8", -1, "-1", "-8", 10**12 + 3, "1" + "0" * 12, "9" * 99, "9" * 10_000]
    )
    def test_out_of_range(self, target: str | int) -> None:
        with pytest.raises(UnknownLabel, match=r"out of range: model 'birds' has 0 to 7\.") as caught:
            INFO.class_index(target)

        assert len(caught.value.message) < 200
        assert caught.value.name is None, "it was an index"

    @pytest.mark.parametrize("target", ["--3", "3-", "3.0", "1e0", "+-3", "-", "", "²"])
    def test_what_is_no_number_is_a_label(self, target: str) -> None:
        with pytest.raises(UnknownLabel, match="There is no class"):
            INFO.class_index(target)

    def test_an_unknown_label_comes_with_the_closest(self) -> None:
        with pytest.raises(UnknownLabel) as caught:
            INFO.class_index("tigercat")

        assert caught.value.details["suggestions"][0] == "tiger cat"
        assert "Did you mean 'tiger cat'" in caught.value.message
        assert (caught.value.kind, caught.value.name, caught.value.model) == ("class", "tigercat", "birds")


class TestSearch:
    def test_labels_that_begin_with_it_come_first_then_by_index(self) -> None:
        found = [LABELS[index] for index in INFO.search_labels("cat", limit=20)]

        assert found == ["catamaran", "Egyptian cat", "tiger cat", "polecat"]

    def test_whatever_the_case(self) -> None:
        assert INFO.search_labels(" CRANE ", limit=20) == [2, 5]

    def test_at_most_limit_and_the_best_of_them(self) -> None:
        assert INFO.search_labels("cat", limit=2) == [4, 1]

    def test_nothing_asked_lists_from_the_beginning(self) -> None:
        assert INFO.search_labels("", limit=3) == [0, 1, 2]

    def test_nothing_found(self) -> None:
        assert INFO.search_labels("submarine", limit=20) == []
