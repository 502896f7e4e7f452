"""What a model's outputs are taken for: one logit, logits, probabilities; and whose labels are whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.eager import EagerNetwork
from service.cam.targets import Targets
from service.errors import ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.host import HowTo
from service.models.inputs import Probe
from service.models.probabilities import examine
from tests.models.test_host import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.models.info import ModelInfo
    from tests.models.conftest import LoadToy

RAW: dict[str, Any] = {"mean": 0, "std": 1}  # the model sees pixels in 0–1


class Toy(nn.Module):
    """A 1×1 convolution with ReLU, pooled; then ``read`` makes the output of three features."""

    def __init__(self, read: Callable[[Tensor], Any], outputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
        self.head = nn.Linear(3, outputs)
        self.read = read

    def forward(self, x: Tensor) -> Any:
        return self.read(self.head(self.body(x).mean((2, 3))))


class Colours(nn.Module):
    """The features are the mean red, green and blue of the picture, and ``read`` makes the output of them."""

    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.pixels = nn.AvgPool2d(1)
        self.read = read

    def forward(self, x: Tensor) -> Any:
        return self.read(self.pixels(x).mean((2, 3)))


def codes(info: ModelInfo) -> list[str]:
    return [warning.code for warning in info.warnings]


class TestOneOutput:
    RED: Callable[[Tensor], Tensor] = staticmethod(lambda means: 4 * means[:, :1] - 2)

    def test_is_one_of_two_classes(self, load_toy: LoadToy) -> None:
        host = load_toy(Colours(self.RED), **RAW)

        assert (host.info.labels, host.info.activation, codes(host.info)) == (("class 0", "class 1"), "sigmoid", [])
        np.testing.assert_allclose(host.predict(plain((255, 0, 0), (0, 0, 0))), [[-2, 2], [2, -2]], atol=1e-6)

    @pytest.mark.parametrize(
        "read",
        [
            lambda means: 4 * means[:, 0] - 2,  # (N,)
            lambda means: (4 * means[:, :1] - 2).squeeze(),  # (N,), and () of one picture
        ],
        ids=["no axis of classes", "squeezed"],
    )
    def test_may_have_lost_its_axis(self, read: Callable[[Tensor], Tensor], load_toy: LoadToy) -> None:
        host = load_toy(Colours(read), **RAW)

        np.testing.assert_allclose(host.predict(plain((255, 0, 0))), [[-2, 2]], atol=1e-6)
        (answer,) = host.explain(plain((255, 0, 0)), [Targets((0, 1))], HowTo(("pixels",), ("gradcam",)))
        assert [float(raw.values.max()) for raw in answer.maps] == [0.0, pytest.approx(4 / 64)]

    @pytest.mark.parametrize(
        ("labels", "expected"), [(("cat",), ("not cat", "cat")), (("dog", "cat"), ("dog", "cat"))], ids=str
    )
    def test_labels(self, labels: tuple[str, ...], expected: tuple[str, ...], load_toy: LoadToy) -> None:
        assert load_toy(Colours(self.RED), labels=labels).info.labels == expected

    def test_three_labels_are_too_many(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="'toy' has 2 classes, but its source names 3"):
            load_toy(Colours(self.RED), labels=("a", "b", "c"))

    def test_of_a_multi_label_model_is_one_class(self, load_toy: LoadToy) -> None:
        host = load_toy(Colours(self.RED), labels=("cat",), multi_label=True, **RAW)

        assert (host.info.labels, host.info.activation) == (("cat",), "sigmoid")
        np.testing.assert_allclose(host.predict(plain((255, 0, 0))), [[2]], atol=1e-6)

    def test_that_is_a_probability_leaves_the_rest_to_the_other_class(self, load_toy: LoadToy) -> None:
        host = load_toy(Colours(lambda means: self.RED(means).sigmoid()), **RAW)

        assert (host.info.activation, codes(host.info)) == ("none", ["probabilities"])
        sigmoid = 1 / (1 + np.exp(-2))
        np.testing.assert_allclose(host.predict(plain((255, 0, 0))), [[1 - sigmoid, sigmoid]], atol=1e-6)

    def test_a_softmax_of_it_is_its_sigmoid(self, load_toy: LoadToy) -> None:
        """With a logit of 0 for the other class; of one class alone it would be 1 for every picture."""
        assert load_toy(Colours(self.RED), activation="softmax").info.activation == "sigmoid"

    @pytest.mark.parametrize(("read", "always"), [(torch.softmax, 1), (torch.log_softmax, 0)], ids=["plain", "log"])
    @pytest.mark.parametrize("multi_label", [True, False])
    def test_a_softmax_of_it_inside_the_model_is_refused(
        self, read: Callable[[Tensor, int], Tensor], always: int, multi_label: bool, load_toy: LoadToy
    ) -> None:
        with pytest.raises(ModelLoadError, match=f"a softmax of one output: {always} for every picture"):
            load_toy(Toy(lambda x: read(x, 1), 1), multi_label=multi_label)

    def test_the_number_of_the_best_class_is_no_output(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match=r"numbers of type torch.int64.* Let it return the logits"):
            load_toy(Colours(lambda means: means.argmax(1)))

    @pytest.mark.parametrize(
        "read",
        [
            lambda means: means.max(1),
            lambda means: means.topk(2),
            lambda means: tuple(means.sort(1, descending=True)),
            lambda means: {"scores": means.topk(1).values, "classes": means.topk(1).indices},
        ],
        ids=["max", "topk", "sort", "dict"],
    )
    def test_nor_are_the_best_values_beside_it(self, read: Callable[[Tensor], Any], load_toy: LoadToy) -> None:
        """The first of them would be explained as class 0, whatever class it is."""
        with pytest.raises(ModelLoadError, match="a place in its output is no class"):
            load_toy(Colours(read))

    @pytest.mark.parametrize(
        "read", [lambda means: means.topk(3).values, lambda means: 2 * means.sort(1).values], ids=["topk", "sort"]
    )
    def test_nor_are_sorted_values_alone(self, read: Callable[[Tensor], Any], load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="a place among them is no class"):
            load_toy(Colours(read))

    def test_numbers_of_another_shape_are_beside_the_point(self, load_toy: LoadToy) -> None:
        info = load_toy(Colours(lambda means: (means, means.argmax(1)))).info

        assert (list(info.heads), len(info.labels)) == (["0"], 3)

    def test_no_class_at_all_is_refused(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="built for 0 classes"):
            load_toy(Colours(lambda means: means[:, :0]))


def halves(first: Tensor, second: Tensor) -> Tensor:
    return (first.softmax(1) + second.softmax(1)) / 2


class TestProbabilities:
    @pytest.mark.parametrize(
        "read",
        [
            lambda x: x.softmax(1),
            lambda x: x.exp() / x.exp().sum(1, keepdim=True),
            lambda x: halves(x, 3 * x),  # an ensemble's mean
            lambda x: x.log_softmax(1).exp(),
            lambda x: x.softmax(1)[:, :, None].squeeze(2),
        ],
        ids=["softmax", "by hand", "ensemble", "exp of log_softmax", "reshaped"],
    )
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_that_sum_to_one_are_noticed(self, read: Callable[[Tensor], Tensor], dtype: str, load_toy: LoadToy) -> None:
        info = load_toy(Toy(read), precision=dtype).info

        assert info.activation == "none"
        (warning,) = (each for each in info.warnings if each.code != "precision_emulated")  # on some machines
        assert warning.code == "probabilities"
        assert warning.text.startswith("The outputs are probabilities already: each picture's sum to 1.")
        assert "set activation=softmax" in warning.text

    @pytest.mark.parametrize(
        ("read", "evidence"),
        [
            (lambda x: 100 * x.softmax(1), "each picture's sum to 100"),
            (lambda x: 100 * halves(x, 3 * x), "each picture's sum to 100"),
            (lambda x: 100 * x.sigmoid(), "they are made by a sigmoid, and reach from"),
            (lambda x: 2 * x.sigmoid() - 1, "they are made by a sigmoid, and reach from"),
            (lambda x: -x.softmax(1), "they are made by a softmax, and reach from"),
            (lambda x: 2 * x.softmax(1), "they are made by a softmax, and reach from"),
            (lambda x: 1.5 * (x - 9).sigmoid(), "they are made by a sigmoid, and reach from"),
            (lambda x: 0.5 * x.softmax(1), "they are made by a softmax, and sum to 0.5"),
            (lambda x: 1 - x.softmax(1), "they are made by a softmax, and sum to 2"),
            (lambda x: -x.log_softmax(1), "they are negative logarithms, smallest for the likeliest class"),
        ],
        ids=[
            "percent",
            "ensemble in percent",
            "sigmoids in percent",
            "from -1 to 1",
            "negated",
            "doubled",
            "sigmoids and more",
            "halved",
            "what is missing to 1",
            "negative logarithms",
        ],
    )
    def test_on_another_scale_are_refused(
        self, read: Callable[[Tensor], Tensor], evidence: str, load_toy: LoadToy
    ) -> None:
        """The softmax of percentages is 1.0 for nearly every picture."""
        with pytest.raises(ModelLoadError, match=f"probabilities on another scale: {evidence}"):
            load_toy(Toy(read))
        assert load_toy(Toy(read), activation="sigmoid").info.activation == "sigmoid"

    @pytest.mark.parametrize(
        "read",
        [
            lambda x: 0.9 * x.softmax(1) + 0.1 / 3,
            lambda x: x.softmax(1).clamp(1e-6, 1 - 1e-6),
            lambda x: (x / 0.01).softmax(1),
            lambda x: 1 - x.sigmoid(),
        ],
        ids=["smoothed", "clamped", "of a low temperature", "of the rest"],
    )
    def test_on_their_own_scale_are_taken_whatever_was_done_to_them(
        self, read: Callable[[Tensor], Tensor], load_toy: LoadToy
    ) -> None:
        assert load_toy(Toy(read)).info.activation == "none"

    @pytest.mark.parametrize("outputs", [1, 3])
    def test_a_tanh_gives_none_and_is_warned_of(self, outputs: int, load_toy: LoadToy) -> None:
        info = load_toy(Toy(lambda x: (x.abs() + 0.1).tanh(), outputs)).info  # in 0–1 for every picture

        assert (info.activation, codes(info)) == ("sigmoid" if outputs == 1 else "softmax", ["squashed"])

    def test_a_tanh_that_is_brought_to_them_is_theirs(self, load_toy: LoadToy) -> None:
        assert load_toy(Toy(lambda x: (x.tanh() + 1) / 2)).info.activation == "none"

    @pytest.mark.parametrize("multi_label", [True, False])
    @pytest.mark.parametrize("read", [torch.sigmoid, functional.hardsigmoid], ids=["sigmoid", "hard"])
    def test_of_each_class_for_itself_are_noticed(
        self, read: Callable[[Tensor], Tensor], multi_label: bool, load_toy: LoadToy
    ) -> None:
        info = load_toy(Toy(read), multi_label=multi_label).info

        assert (info.activation, codes(info)) == ("none", ["probabilities"])
        assert "set activation=sigmoid" in info.warnings[0].text
        assert "lie between 0 and 1" in info.warnings[0].text

    @pytest.mark.parametrize(
        "module",
        [
            Colours(lambda means: means),  # in 0–1 for every picture there is
            Colours(lambda means: 0.2 + 0.1 * means),
            Colours(lambda means: torch.cat([means[:, :1], 1 - means[:, :1]], 1)),  # and a sum of 1
            Colours(lambda means: means.relu()),
            Toy(lambda x: x * 1e-3 + 0.5),
            Toy(lambda x: x),
            Toy(lambda x: x.log_softmax(1)),
        ],
        ids=["means", "small", "complements", "relu", "narrow", "logits", "log_softmax"],
    )
    def test_logits_are_taken_for_logits(self, module: nn.Module, load_toy: LoadToy) -> None:
        info = load_toy(module, **RAW).info

        assert (info.activation, info.warnings) == ("softmax", ())

    def test_a_bounded_network_that_ends_in_a_linear_layer_gives_logits(self, load_toy: LoadToy) -> None:
        """A LayerNorm takes the size of the input away: nothing would drive these logits out of 0–1."""

        class Bounded(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.norm, self.head = nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Linear(8, 1)
                nn.init.constant_(self.head.weight, 0.01)
                nn.init.constant_(self.head.bias, 0.4)

            def forward(self, x: Tensor) -> Tensor:
                logit: Tensor = self.head(self.norm(self.body(x).mean((2, 3)))).squeeze(1)
                return logit

        assert load_toy(Bounded()).info.activation == "sigmoid"

    def test_a_model_that_writes_into_its_input_is_looked_at_all_the_same(self) -> None:
        class Writes(Toy):
            def forward(self, x: Tensor) -> Any:
                return super().forward(x.clamp_(0, 1))

        spec = PreprocessSpec(height=8, width=8, mean=(0.0,) * 3, std=(1.0,) * 3)
        seen = examine(EagerNetwork(Writes(torch.sigmoid).eval()), Probe(spec, torch.device("cpu"), torch.float32))

        assert seen.evidence == "they lie between 0 and 1 for every picture tried"

    def test_a_model_that_refuses_what_is_no_picture_is_tried_with_pictures_alone(self, load_toy: LoadToy) -> None:
        class Strict(Toy):
            def forward(self, x: Tensor) -> Any:
                if x.amax() > 1 or x.amin() < 0:
                    raise ValueError("pixels lie in 0 to 1")
                return super().forward(x)

        assert load_toy(Strict(torch.sigmoid), **RAW).info.activation == "none"

    @pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
    def test_what_is_configured_holds_with_a_warning(self, activation: str, load_toy: LoadToy) -> None:
        info = load_toy(Toy(lambda x: x.softmax(1)), activation=activation).info

        assert (info.activation, codes(info)) == (activation, ["probabilities"])
        assert info.warnings[0].text.endswith(f"A {activation} of them is too even. Set activation=none.")

    def test_none_for_probabilities_is_right_and_needs_no_word(self, load_toy: LoadToy) -> None:
        info = load_toy(Toy(lambda x: x.softmax(1)), activation="none").info

        assert (info.activation, info.warnings) == ("none", ())

    def test_none_for_logits_is_taken_at_its_word(self, load_toy: LoadToy) -> None:
        info = load_toy(Toy(lambda x: 10 * x), activation="none").info

        assert (info.activation, codes(info)) == ("none", ["no_probabilities"])

    @pytest.mark.parametrize(("multi_label", "outputs"), [(False, 1), (True, 3)])
    def test_a_sigmoid_of_logarithms_is_warned_of(self, multi_label: bool, outputs: int, load_toy: LoadToy) -> None:
        info = load_toy(Toy(functional.logsigmoid, outputs), multi_label=multi_label).info

        assert (info.activation, codes(info)) == ("sigmoid", ["log_probabilities"])

    def test_sigmoids_may_be_asked_for_without_several_classes_at_once(self, load_toy: LoadToy) -> None:
        """Classes that exclude each other are sometimes trained so."""
        info = load_toy(Toy(lambda x: x), activation="sigmoid").info

        assert (info.activation, info.multi_label, info.warnings) == ("sigmoid", False, ())


class Pair(NamedTuple):
    colour: Tensor
    side: Tensor


@dataclass
class Record:
    colour: Tensor
    side: Tensor


def pair_of(kind: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    """Two heads of three classes each."""
    return Colours(lambda means: kind(10 * means, 10 * means.flip(1) - 5))


class TestHeads:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, Path]:
        texts = {"colour": "red\ngreen\nblue\n", "side": "left\nmiddle\nright\n", "two": "a\nb\n"}
        for name, text in texts.items():
            (tmp_path / f"{name}.txt").write_text(text)
        return {name: tmp_path / f"{name}.txt" for name in texts}

    @pytest.mark.parametrize(
        ("kind", "first", "second"),
        [
            (lambda a, b: {"colour": a, "side": b}, "colour", "side"),
            (lambda a, b: (a, b), "0", "1"),
            (Pair, "colour", "side"),
            (Record, "colour", "side"),
        ],
        ids=["dict", "tuple", "named tuple", "dataclass"],
    )
    def test_a_head_does_not_borrow_the_labels_of_another(
        self, kind: Callable[..., Any], first: str, second: str, files: dict[str, Path], load_toy: LoadToy
    ) -> None:
        info = load_toy(pair_of(kind), labels=None, **_file(files["colour"])).info

        assert info.head_view(first).labels == ("red", "green", "blue")
        assert info.head_view(second).labels == ("class 0", "class 1", "class 2")
        (warning,) = info.warnings
        assert warning.code == "unlabelled_head"
        assert f"labels.{second}=FILE" in warning.text

    def test_labels_alone_are_those_of_the_configured_head(self, files: dict[str, Path], load_toy: LoadToy) -> None:
        info = load_toy(pair_of(Pair), head="side", **_file(files["side"])).info

        assert info.labels == ("left", "middle", "right")
        assert info.head_view("colour").labels[0] == "class 0"

    def test_each_may_have_its_own(self, files: dict[str, Path], load_toy: LoadToy) -> None:
        info = load_toy(pair_of(Pair), **_file({"colour": files["colour"], "side": files["side"]})).info

        assert info.head_view("colour").labels == ("red", "green", "blue")
        assert info.head_view("side").labels == ("left", "middle", "right")
        assert info.warnings == ()

    def test_two_may_share_a_file(self, files: dict[str, Path], load_toy: LoadToy) -> None:
        info = load_toy(pair_of(Pair), **_file(dict.fromkeys(("colour", "side"), files["colour"]))).info

        assert info.head_view("side").labels == ("red", "green", "blue")

    def test_where_nothing_is_labelled_nothing_is_missing(self, load_toy: LoadToy) -> None:
        assert load_toy(pair_of(Pair)).info.warnings == ()

    @pytest.mark.parametrize(
        ("heads", "message"),
        [
            ({"sid": "side"}, "has no head 'sid' to give labels to; it has the heads colour, side"),
            ({"side": "two"}, r"has 3 classes, but .*two\.txt names 2"),
        ],
    )
    def test_labels_that_do_not_fit(
        self, heads: dict[str, str], message: str, files: dict[str, Path], load_toy: LoadToy
    ) -> None:
        with pytest.raises(ModelLoadError, match=message):
            load_toy(pair_of(Pair), **_file({head: files[name] for head, name in heads.items()}))

    def test_a_model_with_one_output_has_no_heads_to_label(self, files: dict[str, Path], load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="no head 'side' to give labels to; it has one output: give one file"):
            load_toy(Colours(lambda means: means), **_file({"side": files["side"]}))

    def test_each_is_read_for_what_it_is(self, load_toy: LoadToy) -> None:
        heads: dict[str, Callable[[Tensor], Tensor]] = {
            "logits": lambda means: 10 * means - 5,
            "sure": lambda means: (10 * means).softmax(1),
            "yes": lambda means: 10 * means[:, :1] - 5,
        }
        host = load_toy(Colours(lambda means: {name: read(means) for name, read in heads.items()}), **RAW)

        assert {name: head.activation for name, head in host.info.heads.items()} == {
            "logits": "softmax",
            "sure": "none",
            "yes": "sigmoid",
        }
        assert [warning.text.partition(" are ")[0] for warning in host.info.warnings] == ["The outputs of head 'sure'"]
        np.testing.assert_allclose(host.predict(plain((255, 0, 0)), "yes"), [[-5, 5]], atol=1e-5)

    def test_a_head_that_is_not_finite_is_left_out(self, load_toy: LoadToy) -> None:
        info = load_toy(Colours(lambda means: (10 * means, means / 0))).info

        assert (list(info.heads), codes(info)) == (["0"], ["unusable_head"])

    def test_a_loss_per_picture_is_no_head(self, load_toy: LoadToy) -> None:
        assert list(load_toy(Colours(lambda means: (means.sum(1), 10 * means))).info.heads) == ["1"]

    def test_squeezed_heads_are_heads(self, load_toy: LoadToy) -> None:
        info = load_toy(Colours(lambda means: {"red": 9 * means[:, 0] - 5, "blue": 9 * means[:, 2] - 5})).info

        assert {name: len(head.labels) for name, head in info.heads.items()} == {"red": 2, "blue": 2}


def _file(labels: Path | dict[str, Path]) -> dict[str, Any]:
    """The configuration's labels; those of ``load_toy`` itself are the source's."""
    return {"configured_labels": labels}


def test_outputs_that_no_picture_changes_are_warned_of(load_toy: LoadToy) -> None:
    info = load_toy(Toy(lambda x: 0 * x + torch.tensor([1.0, 2.0, 3.0]))).info

    assert codes(info) == ["constant"]
    assert "the same for every picture tried" in info.warnings[0].text


def test_equal_labels_of_a_file_are_warned_of(load_toy: LoadToy, tmp_path: Path) -> None:
    """A table of pictures and their labels has as many rows as there are classes only by chance."""
    file = tmp_path / "labels.txt"
    file.write_text("cat\ndog\ncat\n")
    info = load_toy(Toy(lambda x: x), configured_labels=file).info

    assert codes(info) == ["equal_labels"]
    assert "labels.txt calls several classes 'cat': #0, #2. By its label the first is meant" in info.warnings[0].text
    assert load_toy(Toy(lambda x: x), labels=("crane", "boat", "crane")).info.warnings == ()


class TestActivationOfEachHead:
    TWO = staticmethod(lambda x: {"sure": 3 * x, "each": x})

    def test_is_configured_for_it_and_found_out_for_others(self, load_toy: LoadToy) -> None:
        both = load_toy(Toy(self.TWO), activation={"each": "sigmoid"}).info
        found = load_toy(Toy(lambda x: {"sure": x.softmax(1), "each": x})).info

        assert {name: head.activation for name, head in both.heads.items()} == {"sure": "softmax", "each": "sigmoid"}
        assert {name: head.activation for name, head in found.heads.items()} == {"sure": "none", "each": "softmax"}

    @pytest.mark.parametrize(
        ("configured", "sure"), [({}, "sigmoid"), ({"each": "none"}, "sigmoid"), ({"sure": "auto"}, "softmax")]
    )
    def test_is_the_artefacts_own_for_heads_that_are_not_named(
        self, configured: dict[str, str], sure: str, load_toy: LoadToy
    ) -> None:
        heads = load_toy(Toy(self.TWO), activation=configured, said={"activation": "sigmoid"}).info.heads

        assert heads["sure"].activation == sure
        assert heads["each"].activation == configured.get("each", "sigmoid")

    def test_of_a_head_that_is_not_there_is_refused(self, load_toy: LoadToy) -> None:
        with pytest.raises(
            ModelLoadError, match="no head 'side' to give an activation to; it has the heads sure, each"
        ):
            load_toy(Toy(self.TWO), activation={"side": "sigmoid"})
        with pytest.raises(ModelLoadError, match="it has one output: give one"):
            load_toy(Toy(lambda x: x), activation={"side": "sigmoid"})
