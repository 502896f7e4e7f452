from __future__ import annotations

import argparse
import hashlib
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from service.errors import ModelLoadError
from service.models import state_dicts
from service.models.state_dicts import digest, load_file_into, load_into, read_weights
from service.models.weight_sets import find_sets

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.models.info import ModelWarning


def small_net(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    state: dict[str, Tensor] = small_net().state_dict()
    state["1.running_mean"] += torch.tensor([1.0, 2.0, 3.0, 4.0])
    return state


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Other weights of the same network."""
    return {key: value + 1 for key, value in state.items()}


def assert_equal(read: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(read) == set(expected)
    for key, value in expected.items():
        assert read[key].dtype == value.dtype, key
        assert torch.equal(read[key], value), key


def save(content: object, file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file(content, file)  # type: ignore[arg-type]  # of a state dict
    else:
        torch.save(content, file)
    return file


class Read:
    """What is read from a file with some content for ``small_net``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, content: object, suffix: str = "pth", **options: Any) -> dict[str, Tensor]:
        """Read the weights, of which nothing had to be said."""
        state, warnings = self.with_warnings(content, suffix, **options)
        assert warnings == ()
        return state

    def with_warnings(
        self, content: object, suffix: str = "pth", **options: Any
    ) -> tuple[dict[str, Tensor], tuple[ModelWarning, ...]]:
        file = save(content, self._folder / f"w.{suffix}")
        weights = read_weights(file, small_net(classes=9).state_dict(), **options)
        return weights.state, weights.warnings

    def with_one(self, content: object, code: str, **options: Any) -> tuple[dict[str, Tensor], str]:
        """Read the weights and the text of the one warning, which has this code."""
        state, (warning,) = self.with_warnings(content, **options)
        assert warning.code == code
        return state, warning.text


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return Read(tmp_path)


def apart(backbone: str, head: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put a backbone under one prefix and the last layer under another."""
    return {(head if key.startswith("4.") else backbone) + key: value for key, value in state.items()}


class TestTwoPlaces:
    """A backbone and a head that were put together for training: the architecture has both, and all is there."""

    @pytest.mark.parametrize(
        ("backbone", "head"), [("backbone.", "head."), ("backbone.", ""), ("model.features.", "model.classifier.fc.")]
    )
    def test_are_joined(self, backbone: str, head: str, state: dict[str, Tensor], read: Read) -> None:
        found, text = read.with_one({"state_dict": apart(backbone, head, state)}, "weights_joined")

        assert_equal(found, state)
        assert f"{head}4.weight, {head}4.bias" in text

    def test_unless_two_heads_would_do(self, state: dict[str, Tensor], read: Read) -> None:
        both = apart("backbone.", "side.", state) | under("colour.", {k: v for k, v in state.items() if k[:2] == "4."})
        found, _ = read.with_warnings(both)

        assert "4.bias" not in found  # which load_into refuses

    def test_and_never_with_an_average(self, state: dict[str, Tensor], read: Read) -> None:
        found, _ = read.with_warnings(apart("backbone.", "ema.", state))

        assert "4.weight" not in found


class TestFormsThatAreNotRead:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda value: value.to_sparse(),
                r"holds 4\.weight as torch\._utils\._rebuild_sparse_tensor, which is no plain",
            ),
            (
                lambda _value: torch.zeros(1).expand(3, 4),
                r"holds 4\.weight as torch\.Tensor\.expand, which is no plain",
            ),
        ],
        ids=["sparse", "expanded"],
    )
    def test_are_named(
        self, change: Callable[[Tensor], Tensor], message: str, state: dict[str, Tensor], read: Read
    ) -> None:
        state["4.weight"] = change(state["4.weight"])
        with pytest.raises(ModelLoadError, match=message):
            read(state)

    def test_numpy(self, state: dict[str, Tensor], read: Read) -> None:
        with pytest.raises(ModelLoadError, match="NumPy arrays instead of tensors"):
            read({"state_dict": {key: value.numpy() for key, value in state.items()}})

    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint16, torch.int64, torch.complex64])
    def test_whole_and_complex_numbers_are_no_weights(
        self, dtype: torch.dtype, state: dict[str, Tensor], tmp_path: Path
    ) -> None:
        """They would be taken for the floats that they once stood for: every answer would be wrong."""
        file = save({key: value.to(dtype) for key, value in state.items()}, tmp_path / "w.pth")
        name = str(dtype).removeprefix("torch.")
        with pytest.raises(
            ModelLoadError, match=rf"w\.pth holds 0\.weight as {name}, and the network computes with real"
        ):
            load_file_into(small_net(), file)

    def test_quantised_modules(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"holds quantised weights \(torch\.QInt8Storage\)"):
            load_file_into(small_net(), save({"a": _quantised()}, tmp_path / "w.pth"))

    def test_one_part_of_several(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        state.pop("4.bias")
        file = save(state, tmp_path / "model-00001-of-00002.safetensors")
        with pytest.raises(ModelLoadError, match=r"lacks 4\.bias\. It is one of several parts"):
            load_file_into(small_net(), file)


def _quantised() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on its way out; files of it stay
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def test_a_normalisation_in_front_is_named_with_its_numbers(state: dict[str, Tensor], read: Read) -> None:
    """As of ``nn.Sequential(Normalize(mean, std), network)``: without it the network sees other pictures."""
    file = under("1.", state) | {"0.mean": torch.tensor([[[0.5]], [[0.25]], [[0.125]]]), "0.std": torch.tensor([2.0])}
    found, said = read.with_warnings(file)

    assert_equal(found, state)
    (text,) = [warning.text for warning in said if warning.code == "normalisation_set_aside"]
    assert "0.mean 0.5/0.25/0.125, 0.std 2. Set the model's mean and std" in text


class TestLists:
    def test_of_one_set_are_looked_into(self, state: dict[str, Tensor], read: Read) -> None:
        assert_equal(read((state, {"epoch": 3})), state)
        assert_equal(read({"models": [state]}), state)

    def test_of_several_leave_the_choice_to_the_user(self, state: dict[str, Tensor], read: Read) -> None:
        with pytest.raises(ModelLoadError, match=r"several sets of weights that fit: models\.0 and models\.1"):
            read({"models": [state, shifted(state)]})

    def test_names_that_are_bytes_are_names(self, state: dict[str, Tensor], read: Read) -> None:
        assert_equal(read({key.encode(): value for key, value in state.items()}), state)


class TestFinding:
    @pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "bin", "ckpt"])
    def test_gives_back_what_was_saved(self, suffix: str, state: dict[str, Tensor], read: Read) -> None:
        assert_equal(read(state, suffix), state)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
            lambda state: {"model_state_dict": state},
            lambda state: {"epoch": 90, "model": {"state_dict": OrderedDict(state)}},
            lambda state: {**state, "epoch": 3, "best": 0.71},
            lambda state: {"generator": state},
            lambda state: {"state_dict": under("module.", state), "best_acc1": torch.tensor(7.0), "arch": "small"},
            lambda state: {"model": state, "args": argparse.Namespace(lr=0.1), "epoch": 3},
            lambda state: {"state_dict": state, "best": np.float64(0.9)},
            lambda state: {"state_dict": under("model.", state), "hyper_parameters": {"out": Path("runs")}},
            lambda state: {
                "state_dict": {
                    key: nn.Parameter(value) if value.is_floating_point() else value for key, value in state.items()
                }
            },
        ],
        ids=[
            "state_dict",
            "model",
            "model_state_dict",
            "nested",
            "numbers among the tensors",
            "a name of one's own",
            "ImageNet example",
            "torchvision's references",
            "NumPy's numbers",
            "Lightning",
            "parameters",
        ],
    )
    def test_takes_wrappers_off(
        self, wrap: Callable[[dict[str, Tensor]], Any], state: dict[str, Tensor], read: Read
    ) -> None:
        assert_equal(read(wrap(state)), state)

    @pytest.mark.parametrize(
        "prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.", "net.model.", "backbone.", "a.b.c."]
    )
    @pytest.mark.parametrize("suffix", ["safetensors", "pth"])
    def test_takes_prefixes_off(self, prefix: str, suffix: str, state: dict[str, Tensor], read: Read) -> None:
        assert_equal(read(under(prefix, state), suffix), state)

    @pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_fsdp_wrapped_module."])
    @pytest.mark.parametrize("prefix", ["", "model."])
    def test_takes_off_what_wraps_a_part_of_the_network(self, wrapper: str, prefix: str, tmp_path: Path) -> None:
        network = {
            "features.0.weight": torch.ones(4, 3),
            "features.2.weight": torch.ones(4, 4),
            "fc.weight": torch.ones(2, 4),
        }
        wrapped = {prefix + key.replace("features.", f"features.{wrapper}"): value for key, value in network.items()}

        assert_equal(read_weights(save(wrapped, tmp_path / "w.pth"), network).state, network)

    def test_a_part_of_the_network_that_is_called_like_a_wrapper_stays(self, tmp_path: Path) -> None:
        network = {"net.module.weight": torch.ones(4, 3), "net.fc.weight": torch.ones(2, 4)}

        assert_equal(read_weights(save(network, tmp_path / "w.pth"), network).state, network)

    def test_a_prefix_that_the_network_has_stays(self, tmp_path: Path) -> None:
        network = {"model.weight": torch.ones(2, 2), "head.weight": torch.zeros(3, 2)}
        file = save(network, tmp_path / "w.safetensors")

        assert_equal(read_weights(file, network).state, network)

    def test_a_network_within_a_network_of_the_same_names(self, tmp_path: Path) -> None:
        """Layer ``0`` has a layer ``0`` of its own: the shorter prefix finds more."""
        network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)).state_dict()
        file = save(under("0.", network), tmp_path / "w.pth")

        assert_equal(read_weights(file, network).state, network)

    def test_renames_old_densenet_keys_and_no_others(self, tmp_path: Path) -> None:
        old = {
            "features.denseblock1.denselayer1.norm.1.weight": torch.tensor([1.0]),
            "features.denseblock1.denselayer1.norm.1.running_var": torch.tensor([2.0]),
            "features.denseblock4.denselayer16.conv.2.weight": torch.tensor([3.0]),
            "features.norm5.weight": torch.tensor([4.0]),
            "features.norm.1.weight": torch.tensor([5.0]),
        }
        renamed = {
            "features.denseblock1.denselayer1.norm1.weight": 1,
            "features.denseblock1.denselayer1.norm1.running_var": 2,
            "features.denseblock4.denselayer16.conv2.weight": 3,
            "features.norm5.weight": 4,
            "features.norm.1.weight": 5,
        }
        network = dict.fromkeys(renamed, torch.zeros(1))

        read = read_weights(save(old, tmp_path / "w.pth"), network).state

        assert {key: value.item() for key, value in read.items()} == renamed


class TestSettingAside:
    @pytest.mark.parametrize(
        ("prefix", "extra"),
        [
            ("model.", {"criterion.pos_weight": torch.ones(3)}),
            ("model.", {"criterion.weight": torch.ones(3)}),
            ("model.", {"val_acc.tp": torch.zeros(3)}),
            ("model.", {"val_confmat.confmat": torch.zeros(3, 3)}),
            ("model.", {"center_loss.centers": torch.zeros(3, 4)}),
            ("model.", {"teacher.0.weight": torch.zeros(8, 3, 5, 5), "teacher.9.weight": torch.zeros(3, 4)}),
            ("model.", {"class_counts": torch.zeros(3)}),
            ("module.", {"n_averaged": torch.tensor(9)}),
            ("", {"total_ops": torch.zeros(1), "total_params": torch.zeros(1)}),
            ("", {"0.total_ops": torch.zeros(1)}),
            ("", {"criterion.pos_weight": torch.ones(3)}),
            ("", {"bce.pos_weight": torch.ones(3)}),
            ("", {"train_metrics.MulticlassAccuracy.tp": torch.zeros(3)}),
            ("", {"steps": torch.tensor(100)}),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, dict) else value or "no prefix",
    )
    def test_what_is_not_the_networks_is_named(
        self, prefix: str, extra: dict[str, Tensor], state: dict[str, Tensor], read: Read
    ) -> None:
        found, text = read.with_one({"state_dict": {**under(prefix, state), **extra}}, "weights_set_aside")

        assert_equal(found, state)
        assert text.endswith(f"set aside: {', '.join(extra)}.")

    @pytest.mark.parametrize(
        ("prefix", "extra"),
        [
            ("", {"4.1.weight": torch.zeros(3, 4)}),
            ("", {"5.weight": torch.zeros(4)}),
            ("backbone.", {"backbone.norm.weight": torch.zeros(4)}),
            ("backbone.", {"head.weight": torch.zeros(2, 3)}),
            ("backbone.", {"head.weight": torch.zeros(2, 4)}),
            ("backbone.", {"adapter.weight": torch.zeros(3, 1, 1, 1)}),
        ],
        ids=["in a layer", "behind", "under the prefix", "on its logits", "on its features", "before its input"],
    )
    def test_what_looks_like_a_layer_is_an_error(
        self, prefix: str, extra: dict[str, Tensor], state: dict[str, Tensor], tmp_path: Path
    ) -> None:
        """Without it, the network would answer something else than what was trained."""
        file = save({**under(prefix, state), **extra}, tmp_path / "w.pth")
        name = next(iter(extra)).removeprefix("backbone.")

        with pytest.raises(ModelLoadError, match=rf"w\.pth does not fit the architecture: it has {re.escape(name)}\. "):
            load_file_into(small_net(), file)


class TestSeveralSets:
    def test_plain_weights_are_taken_before_averaged_ones_and_it_is_said(
        self, state: dict[str, Tensor], read: Read
    ) -> None:
        content = {"state_dict": state, "state_dict_ema": shifted(state)}
        found, text = read.with_one(content, "ema_weights")

        assert_equal(found, state)
        assert text == (
            "w.pth holds averaged weights (EMA). Taken was state_dict. Set use_ema=true to take state_dict_ema."
        )
        assert_equal(read(content, use_ema=False), state)
        assert_equal(read(content, use_ema=True), shifted(state))

    def test_of_torchvisions_references(self, read: Read) -> None:
        net = small_net()
        averaged = AveragedModel(net)
        with torch.no_grad():
            averaged.module.get_parameter("0.weight").add_(1)
        content = {"model": net.state_dict(), "model_ema": averaged.state_dict(), "epoch": 3}

        found, text = read.with_one(content, "weights_set_aside", use_ema=True)

        assert_equal(found, averaged.module.state_dict())
        assert "n_averaged" in text

    def test_under_prefixes_of_one_dict(self, state: dict[str, Tensor], read: Read) -> None:
        content = {"state_dict": {**under("net.", state), **under("net_ema.module.", shifted(state))}}

        assert_equal(read.with_warnings(content)[0], state)
        assert_equal(read.with_warnings(content, use_ema=True)[0], shifted(state))

    def test_averaged_weights_alone_are_taken(self, state: dict[str, Tensor], read: Read) -> None:
        found, text = read.with_one({"model_ema": state}, "ema_weights")

        assert_equal(found, state)
        assert "There are no others" in text
        with pytest.raises(ModelLoadError, match=r"averaged weights \(EMA\) only\. Leave use_ema out"):
            read({"model_ema": state}, use_ema=False)

    def test_there_are_no_averaged_ones(self, state: dict[str, Tensor], read: Read) -> None:
        with pytest.raises(ModelLoadError, match=r"w\.pth has no averaged weights \(EMA\)\. Leave use_ema out"):
            read(state, use_ema=True)

    def test_the_usual_place_wins_and_it_is_said(self, state: dict[str, Tensor], read: Read) -> None:
        content = {"current_model_state": shifted(state), "state_dict": state}
        found, text = read.with_one(content, "weights_chosen")

        assert_equal(found, state)
        assert text.endswith("Taken was state_dict, not current_model_state.")

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda one, other: {"student": one, "teacher": other},
            lambda one, other: {"state_dict": {**under("left.", one), **under("right.", other)}},
        ],
        ids=["dicts", "prefixes"],
    )
    def test_two_in_unknown_places_are_refused(
        self, wrap: Callable[[Any, Any], Any], state: dict[str, Tensor], read: Read
    ) -> None:
        with pytest.raises(
            ModelLoadError, match=r"several sets of weights that fit: .* and .*\. Save the one that you"
        ):
            read(wrap(state, shifted(state)))

    def test_the_same_weights_twice_are_one(self, state: dict[str, Tensor], read: Read) -> None:
        assert_equal(read({"left": state, "right": dict(state)}), state)

    def test_the_student_of_a_larger_teacher(self, tmp_path: Path) -> None:
        """The teacher has all that the student has, and more."""
        student, teacher = (nn.Sequential(*(nn.Linear(2, 2) for _ in range(n))).state_dict() for n in (2, 4))
        file = save({**under("student.", student), **under("teacher.", teacher)}, tmp_path / "w.pth")

        weights = read_weights(file, student)

        assert_equal(weights.state, student)
        assert [warning.code for warning in weights.warnings] == ["weights_set_aside"]


class TestRefusing:
    def test_nothing_else_reads_pickles_of_others(self) -> None:
        root = Path(state_dicts.__file__).parents[1]
        found = {
            (file.relative_to(root).as_posix(), " ".join(call.split()))
            for file in root.rglob("*.py")
            for call in re.findall(
                r"\b(?:torch|torch\.jit|torch\.export|pickle|marshal|dill|joblib|np)\.loads?\([^)]*\)",
                # Not what messages tell people to do where they trained.
                re.sub(r"(?:torch\.(?:jit\.|export\.)?|pickle\.)load\((?:open\()?\"\{", "", file.read_text("utf-8")),
            )
        }
        assert found == {
            ("engine/messages.py", "pickle.loads(body)"),
            ("evaluation/state.py", "np.load(stream, allow_pickle=False)"),
            # An archive that was made anew of what was read as data, see tests/hostile/test_exported.py.
            ("models/sources/exported.py", "torch.export.load(program.archive)"),
        }

    @pytest.mark.parametrize(
        ("wrap", "expression"),
        [
            (lambda net: net, 'torch.load("w.pth", weights_only=False).state_dict()'),
            (lambda net: {"net": net, "acc": 0.9}, 'torch.load("w.pth", weights_only=False)["net"].state_dict()'),
        ],
        ids=["itself", "in a dict"],
    )
    def test_a_whole_pickled_model_comes_with_the_line_that_converts_it(
        self, wrap: Callable[[nn.Module], Any], expression: str, read: Read
    ) -> None:
        with pytest.raises(ModelLoadError) as caught:
            read(wrap(small_net()))

        assert "w.pth holds a whole model (torch.nn.modules.container.Sequential)" in caught.value.message
        assert f'torch.save({expression}, "weights.pth")' in caught.value.message

    @pytest.mark.parametrize(
        "content",
        [{}, {"epoch": 3}, {"state_dict": {}}, [torch.ones(1)], torch.ones(1)],
        ids=["nothing", "a number", "an empty state dict", "a list", "a lone tensor"],
    )
    def test_no_named_tensors(self, content: object, read: Read) -> None:
        with pytest.raises(ModelLoadError, match=r"w\.pth holds no state dict.*torch\.save\(model\.state_dict\(\)"):
            read(content)

    def test_a_safetensors_file_without_tensors(self, read: Read) -> None:
        with pytest.raises(ModelLoadError, match=r"w\.safetensors holds no state dict"):
            read({}, "safetensors")

    def test_another_network(self, read: Read) -> None:
        other = {f"blocks.layer{index}.weight": torch.ones(2) for index in range(20)}

        with pytest.raises(ModelLoadError) as caught:
            read(under("module.", other))

        assert "does not fit the architecture: it has module.blocks.layer0.weight" in caught.value.message
        assert "lacks 0.weight" in caught.value.message
        assert caught.value.message.endswith("Name the architecture that these weights were trained with.")

    def test_the_same_names_in_other_shapes(self, tmp_path: Path) -> None:
        file = save({"0.weight": torch.ones(2, 2), "1.weight": torch.ones(2, 2)}, tmp_path / "w.pth")

        with pytest.raises(ModelLoadError, match="it has tensors of these names in other shapes"):
            load_file_into(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)), file)

    def test_a_network_that_has_little_in_common(self, state: dict[str, Tensor], read: Read) -> None:
        other = {"0.weight": state["0.weight"], **{f"extra.layer{index}.weight": torch.ones(2) for index in range(20)}}

        with pytest.raises(ModelLoadError, match=r"it has extra\.layer0\.weight, .* and lacks 0\.bias"):
            read(other)


class TestLoading:
    def test_the_module_computes_as_the_one_that_was_saved(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        torch.manual_seed(2)
        saved, fresh, images = small_net().eval(), small_net().eval(), torch.randn(2, 3, 6, 6)
        saved.load_state_dict(state)
        assert not torch.equal(fresh(images), saved(images))

        load_file_into(fresh, save(state, tmp_path / "w.safetensors"))

        assert torch.equal(fresh(images), saved(images))

    def test_half_precision_files_load_into_a_float32_module(self, state: dict[str, Tensor]) -> None:
        net = small_net()

        load_into(net, {key: value.half() for key, value in state.items()}, "w.pth")

        weight = net.state_dict()["4.weight"]
        assert weight.dtype == torch.float32
        assert torch.equal(weight, state["4.weight"].half().float())

    def test_old_files_lack_the_batch_counter(self, state: dict[str, Tensor]) -> None:
        net = small_net()

        load_into(net, {key: value for key, value in state.items() if "num_batches" not in key}, "w.pth")

        assert torch.equal(net.state_dict()["1.running_mean"], state["1.running_mean"])

    def test_a_replaced_head_is_named(self, state: dict[str, Tensor]) -> None:
        state["4.1.weight"], state["4.1.bias"] = state.pop("4.weight"), state.pop("4.bias")

        with pytest.raises(ModelLoadError) as caught:
            load_into(small_net(), state, "birds.pth")

        assert caught.value.message.startswith(
            "birds.pth does not fit the architecture: it has 4.1.weight, 4.1.bias and lacks 4.weight, 4.bias. "
        )
        assert "mypackage.nets.build" in caught.value.message

    def test_names_four_keys_and_counts_the_rest(self) -> None:
        with pytest.raises(ModelLoadError, match=r"it lacks 0\.weight, 0\.bias, 4\.weight, 4\.bias and 4 more\. Name"):
            load_into(small_net(), {}, "birds.pth")

    def test_the_surprising_ones_come_first(self, state: dict[str, Tensor]) -> None:
        more = {f"0.{index}.weight": torch.ones(1) for index in range(100)}

        with pytest.raises(ModelLoadError, match=r"it has neck\.weight, 0\.0\.weight, .* and 97 more"):
            load_into(small_net(), {**state, **more, "neck.weight": torch.ones(2)}, "birds.pth")

    def test_one_other_shape(self, state: dict[str, Tensor]) -> None:
        state["0.weight"] = torch.ones(4, 1, 3, 3)

        with pytest.raises(ModelLoadError) as caught:
            load_into(small_net(), state, "birds.pth")

        message = caught.value.message
        assert message.startswith(
            "birds.pth does not fit the architecture: 0.weight is 4×1×3×3 and should be 4×3×3×3. "
        )
        assert "write a function" in message

    def test_many_other_shapes(self, state: dict[str, Tensor]) -> None:
        narrow = {key: value[:1] if value.ndim else value for key, value in state.items()}

        with pytest.raises(ModelLoadError, match=r"0\.bias is 1 and should be 4, and 6 more\. Name the architecture"):
            load_into(small_net(), narrow, "birds.pth")


class TestDigest:
    def test_is_the_beginning_of_the_files_sha256(self, tmp_path: Path) -> None:
        (tmp_path / "abc").write_bytes(b"abc")

        assert digest(tmp_path / "abc") == "ba7816bf8f01"  # FIPS 180-2, appendix B.1

    def test_follows_content_not_name(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        first, second = (save(state, tmp_path / name) for name in ("a.safetensors", "b.safetensors"))

        assert digest(first) == digest(second) == hashlib.sha256(first.read_bytes()).hexdigest()[:12]
        state["4.bias"] += 1
        assert digest(save(state, tmp_path / "c.safetensors")) != digest(first)


class TestAmounts:
    """Names that make much of little: patterns and sets grow with the square of what is sent."""

    def test_names_of_a_million_parts(self, state: dict[str, Tensor], read: Read) -> None:
        many = {"a." * 500_000 + key: value for key, value in state.items()}
        assert_equal(read({"state_dict": state, "x": many, "y": {"_" * 1_000_000: torch.ones(2)}}), state)

    def test_a_prefix_of_its_own_for_each_of_ten_thousand(self, state: dict[str, Tensor]) -> None:
        each = {f"{number}.4.bias": torch.ones(3) for number in range(10_000)}
        assert len(find_sets({"x": each}, state)) == 100
