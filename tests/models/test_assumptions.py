"""What a file of fine-tuned weights does not say, and what is assumed of it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from service.errors import ModelLoadError
from service.models.loading import load_model
from service.models.sources import torchvision_models
from service.models.state_dicts import digest
from service.models.torchvision_adapter import torchvision
from service.settings import ModelConfig
from tests.models.test_torchvision_models import WITH_AUXILIARY_HEADS, build, load, logits

if TYPE_CHECKING:
    from pathlib import Path

    from service.models.sources.source import Downloads


@cache
def without_auxiliary_heads(architecture: str) -> nn.Module:
    """One of those that may have such heads, fine-tuned; drawing its weights takes longer than all else."""
    return build(architecture, classes=4, aux_logits=False)


class TestTransformInput:
    """Whether the network brings its input from ImageNet's scale to −1–1 is not in its weights."""

    @pytest.mark.parametrize("architecture", sorted(WITH_AUXILIARY_HEADS))
    @pytest.mark.parametrize(
        ("configured", "transforms", "assumed"),
        [
            ({}, True, "Assumed is true, as fine-tuning from the published weights leaves it."),
            ({"mean": 0.5, "std": 0.5}, False, "Assumed is false, since mean and std of 0.5 do the same."),
            ({"mean": 0.5, "std": 0.25}, True, "Assumed is true"),
            ({"transform_input": True}, True, None),
            ({"transform_input": False}, False, None),
            ({"transform_input": True, "mean": 0.5, "std": 0.5}, True, None),
        ],
    )
    def test_of_a_file(
        self,
        architecture: str,
        configured: dict[str, Any],
        transforms: bool,
        assumed: str | None,
        tmp_path: Path,
        offline: Downloads,
    ) -> None:
        trained = without_auxiliary_heads(architecture)
        torch.save(trained.state_dict(), tmp_path / "w.pth")
        config = ModelConfig(architecture=architecture, weights=str(tmp_path / "w.pth"), **configured)

        loaded = torchvision_models.load(config, offline)

        trained.transform_input = transforms  # type: ignore[assignment]  # an attribute of these two
        assert torch.equal(logits(loaded.module, 96), logits(trained, 96))
        found = [(warning.code, warning.text) for warning in loaded.warnings]
        assert [code for code, _ in found] == (["transform_input_assumed"] if assumed else [])
        assert all(assumed in text and "Set transform_input to" in text for _, text in found if assumed)

    def test_the_same_picture_on_either_scale_gives_the_same_answer(self, tmp_path: Path, offline: Downloads) -> None:
        """ImageNet's scale and ``transform_input`` are one way to −1–1, and that scale without it is the other."""
        torch.save(without_auxiliary_heads("googlenet").state_dict(), tmp_path / "w.pth")
        config = ModelConfig(architecture="googlenet", weights=str(tmp_path / "w.pth"), size=96)
        plain = load_model(config, "cpu", offline)
        halves = load_model(config.model_copy(update={"mean": (0.5,) * 3, "std": (0.5,) * 3}), "cpu", offline)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)

        torch.testing.assert_close(plain.predict(pixels), halves.predict(pixels), rtol=1e-4, atol=1e-6)

    def test_is_no_option_of_others(self, offline: Downloads) -> None:
        config = ModelConfig(architecture="resnet18", weights="random", transform_input=True)

        with pytest.raises(ModelLoadError, match=r"transform_input means nothing for resnet18.*leave it out"):
            torchvision_models.load(config, offline)


class TestWarnings:
    def test_a_thousand_classes_are_taken_to_be_imagenets_and_it_is_said(
        self, tmp_path: Path, offline: Downloads
    ) -> None:
        save_file(build("squeezenet1_1", classes=1000).state_dict(), tmp_path / "w.safetensors")
        config = ModelConfig(architecture="squeezenet1_1", weights=str(tmp_path / "w.safetensors"), size=64)

        (warning,) = load_model(config, "cpu", offline).info.warnings

        assert warning.code == "labels_assumed"
        assert "w.safetensors has 1000 classes, which are taken to be ImageNet's." in warning.text
        assert "labels=FILE" in warning.text
        (tmp_path / "labels.txt").write_text("\n".join(f"part {index}" for index in range(1000)))
        named = config.model_copy(update={"labels": tmp_path / "labels.txt"})
        assert load_model(named, "cpu", offline).info.warnings == ()

    @pytest.mark.parametrize(
        ("name", "configured", "codes"),
        [
            ("vgg-caffe.pth", {}, ["bgr_suspected"]),
            ("net_BGR.pth", {}, ["bgr_suspected"]),
            ("vgg-caffe.pth", {"mean": 0.45, "std": 0.004}, []),
            ("vgg-caffe.pth", {"order": "BGR"}, []),
            ("vgg.pth", {}, []),
        ],
    )
    def test_weights_called_after_caffe_may_take_bgr(
        self, name: str, configured: dict[str, Any], codes: list[str], tmp_path: Path, offline: Downloads
    ) -> None:
        torch.save(build("squeezenet1_1", classes=3).state_dict(), tmp_path / name)
        config = ModelConfig(architecture="squeezenet1_1", weights=str(tmp_path / name), **configured)

        assert [warning.code for warning in torchvision_models.load(config, offline).warnings] == codes

    def test_a_published_file_is_known_by_its_digest(
        self, tmp_path: Path, offline: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing has to be assumed of it, and its preset is that of its own entry."""
        entries = torchvision.models.get_model_weights("mobilenet_v2")
        save_file(build("mobilenet_v2", classes=1000).state_dict(), tmp_path / "w.safetensors")
        published = f"https://download.pytorch.org/models/mobilenet_v2-{digest(tmp_path / 'w.safetensors')[:8]}.pth"
        monkeypatch.setattr(entries["IMAGENET1K_V2"].value, "url", published)

        loaded = load("mobilenet_v2", tmp_path / "w.safetensors", offline)

        assert (loaded.warnings, loaded.preprocess.resize) == ((), 232)

    def test_what_had_to_be_chosen_in_the_file_reaches_the_models_warnings(
        self, tmp_path: Path, offline: Downloads
    ) -> None:
        state = build("squeezenet1_1", classes=3).state_dict()
        averaged = {f"module.{key}": value + 0.01 for key, value in state.items()}
        content = {"model": state, "model_ema": {"n_averaged": torch.tensor(1), **averaged}}
        torch.save(content, tmp_path / "w.pth")
        config = ModelConfig(architecture="squeezenet1_1", weights=str(tmp_path / "w.pth"), size=64)

        (warning,) = load_model(config, "cpu", offline).info.warnings
        assert warning.code == "ema_weights"

        loaded = torchvision_models.load(config.model_copy(update={"use_ema": True}), offline)
        assert torch.equal(loaded.module.state_dict()["features.0.weight"], averaged["module.features.0.weight"])

    def test_use_ema_is_no_option_without_a_file(self, offline: Downloads) -> None:
        config = ModelConfig(architecture="resnet18", weights="random", use_ema=True)

        with pytest.raises(ModelLoadError, match=r"use_ema means nothing for resnet18.*leave it out"):
            torchvision_models.load(config, offline)
