from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.errors import ModelLoadError
from service.models import state_dicts
from service.models.state_dicts import digest, load_into, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable


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


class TestReading:
    @pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt", "bin", "ckpt"])
    def test_gives_back_what_was_saved(self, suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
        assert_equal(read_state_dict(save(state, tmp_path / f"w.{suffix}")), state)

    def test_reads_the_format_from_before_zip(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)

        assert_equal(read_state_dict(tmp_path / "old.pth"), state)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
            lambda state: {"model_state_dict": state},
            lambda state: {"epoch": 90, "model": {"state_dict": OrderedDict(state)}},
            lambda state: {**state, "epoch": 3, "best": 0.71},
        ],
        ids=["state_dict", "model", "model_state_dict", "nested", "numbers among the tensors"],
    )
    def test_takes_wrappers_off(
        self, wrap: Callable[[dict[str, Tensor]], Any], state: dict[str, Tensor], tmp_path: Path
    ) -> None:
        assert_equal(read_state_dict(save(wrap(state), tmp_path / "w.pth")), state)

    @pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.", "net.model."])
    @pytest.mark.parametrize("suffix", ["safetensors", "pth"])
    def test_takes_prefixes_off(self, prefix: str, suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
        prefixed = {prefix + key: value for key, value in state.items()}

        assert_equal(read_state_dict(save(prefixed, tmp_path / f"w.{suffix}")), state)

    def test_keeps_a_prefix_that_only_some_keys_have(self, tmp_path: Path) -> None:
        state = {"model.weight": torch.ones(2), "head.weight": torch.zeros(2)}

        assert_equal(read_state_dict(save(state, tmp_path / "w.safetensors")), state)

    def test_renames_old_densenet_keys_and_no_others(self, tmp_path: Path) -> None:
        old = {
            "features.denseblock1.denselayer1.norm.1.weight": torch.tensor([1.0]),
            "features.denseblock1.denselayer1.norm.1.running_var": torch.tensor([2.0]),
            "features.denseblock4.denselayer16.conv.2.weight": torch.tensor([3.0]),
            "features.norm5.weight": torch.tensor([4.0]),
            "features.norm.1.weight": torch.tensor([5.0]),
        }

        read = read_state_dict(save(old, tmp_path / "w.pth"))

        assert {key: value.item() for key, value in read.items()} == {
            "features.denseblock1.denselayer1.norm1.weight": 1,
            "features.denseblock1.denselayer1.norm1.running_var": 2,
            "features.denseblock4.denselayer16.conv2.weight": 3,
            "features.norm5.weight": 4,
            "features.norm.1.weight": 5,
        }


class Exploit:
    """Unpickling it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


class TestRefusing:
    @pytest.mark.parametrize("new_format", [True, False])
    def test_pickled_code_is_not_run(self, new_format: bool, state: dict[str, Tensor], tmp_path: Path) -> None:
        mark, file = tmp_path / "was-here", tmp_path / "w.pth"
        torch.save({"state_dict": state, "extra": Exploit(mark)}, file, _use_new_zipfile_serialization=new_format)

        with pytest.raises(ModelLoadError, match=r"w\.pth .*its code is not run.*state_dict\(\)"):
            read_state_dict(file)

        assert not mark.exists()
        torch.load(file, weights_only=False)  # the file is armed: whoever trusts it, runs it
        assert mark.exists()

    def test_no_variable_of_torch_loosens_this(
        self, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark, file = tmp_path / "was-here", tmp_path / "w.pth"
        torch.save({"state_dict": state, "extra": Exploit(mark)}, file)
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

        with pytest.raises(ModelLoadError):
            read_state_dict(file)

        assert not mark.exists()

    def test_nothing_else_reads_pickles_of_others(self) -> None:
        root = Path(state_dicts.__file__).parents[1]
        found = {
            (file.relative_to(root).as_posix(), " ".join(call.split()))
            for file in root.rglob("*.py")
            for call in re.findall(
                r"\b(?:torch|pickle|marshal|dill|joblib|np)\.loads?\([^)]*\)", file.read_text("utf-8")
            )
        }
        assert found == {
            ("models/state_dicts.py", 'torch.load(file, map_location="cpu", weights_only=True)'),
            ("engine/messages.py", "pickle.loads(body)"),
        }

    def test_a_whole_pickled_model_is_refused_with_the_way_out(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"Save the model's state_dict\(\) instead of the model"):
            read_state_dict(save(small_net(), tmp_path / "w.pth"))

    @pytest.mark.parametrize("suffix", ["safetensors", "pth"])
    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
    def test_truncated_file(self, suffix: str, kept: float, state: dict[str, Tensor], tmp_path: Path) -> None:
        file = save(state, tmp_path / f"w.{suffix}")
        content = file.read_bytes()
        file.write_bytes(content[: int(kept * len(content))])

        with pytest.raises(ModelLoadError, match=rf"The weights file w\.{suffix} is not a readable"):
            read_state_dict(file)

    @pytest.mark.parametrize("kept", [0.2, 0.4, 0.6, 0.8])
    def test_truncated_file_of_the_old_format(self, kept: float, state: dict[str, Tensor], tmp_path: Path) -> None:
        file = tmp_path / "w.pth"
        torch.save(state, file, _use_new_zipfile_serialization=False)
        content = file.read_bytes()
        file.write_bytes(content[: int(kept * len(content))])

        with pytest.raises(ModelLoadError, match=r"w\.pth is (not a readable|damaged)"):
            read_state_dict(file)

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
    def test_a_web_page_in_place_of_weights(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text("<!DOCTYPE html><title>404</title>")

        with pytest.raises(ModelLoadError, match=f"The weights file {name} is"):
            read_state_dict(tmp_path / name)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"There is no weights file .*nowhere\.pth"):
            read_state_dict(tmp_path / "nowhere.pth")

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match="There is no weights file"):
            read_state_dict(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [{}, {"epoch": 3}, {"state_dict": {}}, [torch.ones(1)], torch.ones(1)],
        ids=["nothing", "a number", "an empty state dict", "a list", "a lone tensor"],
    )
    def test_no_named_tensors(self, content: object, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"w\.pth holds no state dict.*torch\.save\(model\.state_dict\(\)"):
            read_state_dict(save(content, tmp_path / "w.pth"))

    def test_a_safetensors_file_without_tensors(self, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"w\.safetensors holds no state dict"):
            read_state_dict(save({}, tmp_path / "w.safetensors"))


class TestLoading:
    def test_the_module_computes_as_the_one_that_was_saved(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        torch.manual_seed(2)
        saved, fresh, images = small_net().eval(), small_net().eval(), torch.randn(2, 3, 6, 6)
        saved.load_state_dict(state)
        assert not torch.equal(fresh(images), saved(images))

        load_into(fresh, read_state_dict(save(state, tmp_path / "w.safetensors")), "w.safetensors")

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

    def test_another_architecture_is_named_by_its_keys(self, state: dict[str, Tensor]) -> None:
        state["layer1.weight"] = state.pop("0.weight")

        with pytest.raises(ModelLoadError) as caught:
            load_into(small_net(), state, "birds.pth")

        assert caught.value.message.startswith("birds.pth does not fit the architecture: it lacks 0.weight; it has ")
        assert "layer1.weight" in caught.value.message
        assert "name the architecture" in caught.value.message

    def test_names_three_keys_and_counts_the_rest(self) -> None:
        with pytest.raises(ModelLoadError, match=r"it lacks 0\.weight, 0\.bias, 1\.weight and 5 more; name"):
            load_into(small_net(), {}, "birds.pth")

    def test_other_shapes_are_told_apart(self, state: dict[str, Tensor]) -> None:
        with pytest.raises(ModelLoadError) as caught:
            load_into(small_net(classes=5), state, "birds.pth")

        message = caught.value.message
        assert message.startswith("birds.pth does not fit the architecture: size mismatch for 4.weight")
        assert "[3, 4]" in message
        assert "[5, 4]" in message
        assert "\n" not in message


class TestDigest:
    def test_is_the_beginning_of_the_files_sha256(self, tmp_path: Path) -> None:
        (tmp_path / "abc").write_bytes(b"abc")

        assert digest(tmp_path / "abc") == "ba7816bf8f01"  # FIPS 180-2, appendix B.1

    def test_follows_content_not_name(self, state: dict[str, Tensor], tmp_path: Path) -> None:
        first, second = (save(state, tmp_path / name) for name in ("a.safetensors", "b.safetensors"))

        assert digest(first) == digest(second) == hashlib.sha256(first.read_bytes()).hexdigest()[:12]
        state["4.bias"] += 1
        assert digest(save(state, tmp_path / "c.safetensors")) != digest(first)
