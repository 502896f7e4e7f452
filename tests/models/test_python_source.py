from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from service.cam.packed import PackedConvolution
from service.cam.targets import Targets, Top
from service.errors import ModelLoadError, UnknownHead
from service.models.host import HowTo, ModelHost
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from tests import user_models

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def load(tmp_path: Path, text: str) -> ModelHost:
    return load_model(ModelConfig.model_validate(text), "cpu", Downloads(tmp_path, allowed=False))


def test_a_function_by_its_dotted_name(tmp_path: Path) -> None:
    host = load(tmp_path, "mine=tests.user_models.one_head,size=32,resize=32")
    assert host.info.labels == ("class 0", "class 1", "class 2")
    assert host.info.version == "code"
    assert host.info.heads == {}
    assert host.info.default_layer == "body"
    assert host.predict(IMAGES).shape == (2, 3)


@pytest.mark.parametrize(
    "text",
    [
        "mine=tests.user_models:one_head,size=32",
        "mine=tests.user_models.Builder.small,size=32",
        "mine=tests.user_models.needs_classes,factory_args.classes=3,size=32",
        'mine=tests.user_models:needs_classes,factory_args={"classes": 3, "width": 4},size=32',
    ],
)
def test_a_function_however_it_is_named_and_called(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text).predict(IMAGES).shape == (2, 3)


@pytest.mark.parametrize("form", ["tests.user_models:one_head:{}", "tests.user_models.one_head:{}"])
def test_weights_behind_a_function_behind_a_colon(tmp_path: Path, form: str) -> None:
    save_file(user_models.one_head().state_dict(), tmp_path / "w.safetensors")

    assert load(tmp_path, f"mine={form.format(tmp_path / 'w.safetensors')},size=32").info.version != "code"


def test_a_colon_in_a_settings_file(tmp_path: Path) -> None:
    config = ModelConfig(name="mine", architecture="tests.user_models:one_head", size=32)

    assert load_model(config, "cpu", Downloads(tmp_path, allowed=False)).predict(IMAGES).shape == (2, 3)


def test_other_arguments_are_another_digest(tmp_path: Path) -> None:
    text = "mine=tests.user_models.needs_classes,factory_args.classes=3,size=32"
    one, same, other = (load(tmp_path, each).info for each in (text, text, f"{text},factory_args.width=4"))

    assert one.digest == same.digest != other.digest


def test_a_checkpoint_fills_it_and_what_was_set_aside_is_said(tmp_path: Path) -> None:
    state = {f"model.{name}": torch.ones_like(value) for name, value in user_models.one_head().state_dict().items()}
    torch.save({"state_dict": {**state, "criterion.pos_weight": torch.ones(3)}}, tmp_path / "w.ckpt")
    host = load(tmp_path, f"mine=tests.user_models.one_head:{tmp_path / 'w.ckpt'},size=32")
    logits = host.predict(IMAGES)
    assert torch.equal(logits[:, 0], logits[:, 2])
    assert [warning.code for warning in host.info.warnings] == ["weights_set_aside"]


def test_weights_fill_what_the_function_returns(tmp_path: Path) -> None:
    state = {name: torch.ones_like(value) for name, value in user_models.one_head().state_dict().items()}
    save_file(state, tmp_path / "ones.safetensors")
    host = load(tmp_path, f"mine=tests.user_models.one_head:{tmp_path / 'ones.safetensors'},size=32")
    logits = host.predict(IMAGES)
    assert torch.equal(logits[:, 0], logits[:, 2])  # equal weights, equal logits
    assert host.info.version != "code"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.user_models.nothing", "tests.user_models has no function 'nothing'"),
        ("tests.user_models.one_hed", r"no function 'one_hed'\. Did you mean tests\.user_models\.one_head"),
        ("tests.user_models:one_hed", r"no function 'one_hed'\. Did you mean tests\.user_models\.one_head"),
        ("tests.user_mode.nothing", "no 'tests.user_mode.nothing' to import"),
        ("tests.user_models", "is a module. Name the function in it that builds the network: tests.user_models.build"),
        ("tests.user_models.READY", "READY is a network already. Name a function that builds one"),
        ("tests.user_models.__name__", "is no function, but str"),
        ("tests.models.script.build", "Importing tests.models.script ran a script, which ended"),
        ("no_such_package.nets.build", "Is its folder on PYTHONPATH"),
        (
            "tests.user_models.fails",
            r"fails\(\) failed: ValueError: the recipe is missing \(user_models\.py, line \d+\)\.",
        ),
        ("tests.user_models.no_module", "must return a torch.nn.Module; it returned str"),
        (
            "tests.user_models.needs_classes",
            r"takes classes, width: missing a required argument: 'classes'\. .*as factory_args\.classes=…",
        ),
        ("tests.user_models.needs_classes,factory_args.clases=3", r"missing a required argument: 'classes'"),
        ("tests.user_models.one_head,factory_args.classes=3", r"takes nothing: got an unexpected keyword .*'classes'"),
        ("tests.user_models.needs_classes,factory_args.classes=0", r"failed: ZeroDivisionError: .*line \d+\)"),
        ("tests.user_models.needs_classes,factory_args.classes=a", r"failed: TypeError: .*line \d+\)"),
        ("shapes,factory_args.classes=3", "factory_args means nothing for shapes"),
        ("resnet18:random,factory_args.classes=3", "factory_args means nothing for resnet18"),
        ("tests.user_models.needs_timm", r"needs_timm\(\) failed: ModuleNotFoundError: No module named 'timm_absent'"),
        (
            "tests.models.broken.build",
            r"Importing tests\.models\.broken failed: No module named 'timm_absent'\. Install",
        ),
        ("tests.user_models.scripted", "returned TorchScript, whose layers cannot be watched"),
        ("tests.user_models.one_head,transform_input=true", "transform_input means nothing for"),
        ("tests.user_models.one_head,use_ema=true", "use_ema means nothing for"),
        ("tests.user_models.one_head,prompts=a {}", "prompts means nothing for"),
        ("shapes,prompts=a {}", "prompts means nothing for shapes"),
        ("shapes,transform_input=true", "transform_input means nothing for shapes"),
    ],
)
def test_what_cannot_be_used_says_why(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load(tmp_path, f"mine={name}" if "," in name else f"mine={name},size=32")


class TestHeads:
    def test_are_found_and_the_first_answers_by_default(self, tmp_path: Path) -> None:
        host = load(tmp_path, "mine=tests.user_models.two_heads,size=32")
        classes = {name: len(head.labels) for name, head in host.info.heads.items()}
        assert (classes, host.info.default_head) == ({"coarse": 3, "fine": 7}, "coarse")
        assert len(host.info.labels) == 3
        assert host.predict(IMAGES).shape == (2, 3)
        assert host.predict(IMAGES, "fine").shape == (2, 7)

    def test_the_configuration_chooses_another(self, tmp_path: Path) -> None:
        host = load(tmp_path, "mine=tests.user_models.two_heads,size=32,head=fine")
        assert (host.info.default_head, len(host.info.labels)) == ("fine", 7)
        with pytest.raises(ModelLoadError, match="no head 'fin'; it has coarse, fine"):
            load(tmp_path, "mine=tests.user_models.two_heads,size=32,head=fin")

    def test_each_has_its_own_maps(self, tmp_path: Path) -> None:
        host = load(tmp_path, "mine=tests.user_models.two_heads,size=32")
        alone = load(tmp_path, "mine=tests.user_models.one_head,size=32")
        targets = [Targets((Top(1), 0))] * 2
        coarse, fine = (
            host.explain(IMAGES, targets, HowTo(("body",), ("gradcam",), head=head)) for head in ("coarse", "fine")
        )
        expected = alone.explain(IMAGES, targets, HowTo(("body",), ("gradcam",)))
        for found, same, other in zip(coarse, expected, fine, strict=True):
            assert torch.equal(found.maps[0].values, same.maps[0].values)
            assert len(other.logits) == 7

    def test_info_of_a_view_on_another_head(self, tmp_path: Path) -> None:
        info = load(tmp_path, "mine=tests.user_models.two_heads,size=32").info
        assert info.head_view(None) is info
        assert info.head_view("fine").labels[6] == "class 6"
        with pytest.raises(UnknownHead, match="Did you mean 'coarse'"):
            info.head_view("course")
        with pytest.raises(UnknownHead, match="one output"):
            load(tmp_path, "mine=tests.user_models.one_head,size=32").info.head_view("fine")


def test_weights_that_code_draws_at_random_are_the_same_whenever_and_wherever_it_is_loaded(offline: Downloads) -> None:
    """So that all workers answer alike, and what code draws besides is not touched."""
    config = ModelConfig(name="m", architecture="tests.user_models.drawn_at_random", size=32)
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(1), random.random()
    torch.manual_seed(5)
    random.seed(5)
    first = load_model(config, "cpu", offline).info
    assert (torch.rand(1), random.random()) == expected
    assert load_model(config, "cpu", offline).info.digest == first.digest


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_what_a_model_takes_is_counted_from_its_weights_and_buffers(offline: Downloads, dtype: str, size: int) -> None:
    def take(architecture: str) -> tuple[int, int]:
        config = ModelConfig.model_validate({"name": "m", "architecture": architecture, "size": 32, "precision": dtype})
        info = load_model(config, "cpu", offline).info
        return info.memory, info.parameters

    memory, parameters = take("tests.user_models.one_head")
    weights, biases = 6 * 3 * 9 + 8 * 6 * 9, 6 + 8
    # Convolutions are kept a second time as a CPU computes them best, and their weights a third time for gradients;
    # not in a precision for which it has no instructions.
    can_pack = PackedConvolution.can_pack(nn.Conv2d(1, 1, 1, dtype=getattr(torch, dtype)))
    assert memory == size * (parameters + can_pack * (weights + biases + weights))
    assert take("tests.user_models.with_a_buffer") == (memory + 1000 * size, parameters)
