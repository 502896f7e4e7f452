"""Networks of timm: served, and the same as timm's own, down to the pixels."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service.cam.eager import EagerNetwork
from service.cam.folding import folded
from service.errors import ModelLoadError
from service.imaging.decode import DecodeLimits, decode
from service.imaging.preprocess import preprocess
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from tests.server import running_server
from tests.sources.extras import need
from tests.sources.serving import ask, assert_equal_maps, direct_map, picture, settle, told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.models.host import ModelHost

timm = need("timm", "timm")


def build(name: str, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    size = args.get("img_size", (160, 160))
    return settle(timm.create_model(name, **args), args.get("in_chans", 3), *size)


def timms_input(module: Any, image: Any, channels: int = 3) -> Tensor:
    """Prepare a picture as timm itself does for evaluation."""
    config = timm.data.resolve_model_data_config(module)
    if channels == 1:
        image, config = image.convert("L"), {**config, "mean": (0.5,), "std": (0.5,)}
    found: Tensor = timm.data.create_transform(**config, is_training=False)(image)[None]
    return found


def load(tmp_path: Path, text: str) -> ModelHost:
    return load_model(ModelConfig.model_validate(text), "cpu", Downloads(tmp_path / "cache", allowed=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artefacts as timm and its training script write them."""
    folder = tmp_path_factory.mktemp("timm")
    save_file(build("test_resnet", num_classes=7).state_dict(), folder / "birds.safetensors")
    (folder / "birds.txt").write_text("\n".join("abcdefg"))
    labels = ["ant", "bee", "cow", "dog", "eel"]
    vit = build("test_vit", num_classes=5)
    timm.models.save_for_hf(vit, folder / "vit", {"label_names": labels}, safe_serialization=True)
    wide = build("test_vit2", num_classes=5, img_size=(96, 160))
    timm.models.save_for_hf(wide, folder / "wide", safe_serialization=False)
    torch.save({"state_dict": build("test_resnet", num_classes=1, in_chans=1).state_dict()}, folder / "grey.pth")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    models = [
        f"birds=timm/test_resnet:{folder}/birds.safetensors,labels={folder}/birds.txt",
        f"vit={folder}/vit",
        f"wide={folder}/wide,mode=squash",
        f"oblong=timm/test_resnet:{folder}/birds.safetensors,height=128,width=192,mode=squash",
        f"grey=timm/test_resnet:{folder}/grey.pth,channels=1,mean=0.5,std=0.5",
    ]
    arguments = [part for model in models for part in ("--model", model)]
    with running_server("--device", "cpu", *arguments) as server:
        yield server.url


class TestMaps:
    """From the file through the server to the map, and by timm alone: the same numbers."""

    def test_of_a_checkpoint(self, url: str, folder: Path) -> None:
        own = timm.create_model("test_resnet", num_classes=7, checkpoint_path=str(folder / "birds.safetensors")).eval()
        inputs = timms_input(own, picture())

        result = ask(url, "birds", picture(), ["layer1", "layer3", "layer4"], [0, 3, 6])

        assert_equal_maps(result, lambda layer, index: direct_map(own, inputs, layer, index))
        logits = own(inputs)[0].tolist()
        assert [each["logit"] for each in result["predictions"]] == pytest.approx(sorted(logits)[::-1][:5], abs=1e-5)

    @pytest.mark.parametrize("name", ["vit", "wide"])
    def test_of_a_folder(self, name: str, url: str, folder: Path) -> None:
        own = timm.create_model(f"local-dir:{folder / name}", pretrained=True).eval()
        inputs = timms_input(own, picture())
        if name == "wide":  # timm's own transforms keep to its square size
            data = timm.data.resolve_model_data_config(own)
            data |= {"input_size": (3, 96, 160), "crop_mode": "squash", "crop_pct": 1.0}
            inputs = timm.data.create_transform(**data, is_training=False)(picture())[None]
        depth = len(own.blocks)
        layers = ["blocks.0", f"blocks.{depth - 2}", f"blocks.{depth - 1}.norm1"]

        result = ask(url, name, picture(), layers, [0, 2, 4])

        assert_equal_maps(result, lambda layer, index: direct_map(own, inputs, layer, index))

    def test_of_an_oblong_input(self, url: str, folder: Path) -> None:
        own = timm.create_model("test_resnet", num_classes=7, checkpoint_path=str(folder / "birds.safetensors")).eval()
        config = {**timm.data.resolve_model_data_config(own), "input_size": (3, 128, 192)}
        squash = {**config, "crop_mode": "squash", "crop_pct": 1.0}
        inputs = timm.data.create_transform(**squash, is_training=False)(picture())[None]

        result = ask(url, "oblong", picture(), ["layer2", "layer3", "layer4"], [0, 3, 6])

        assert_equal_maps(result, lambda layer, index: direct_map(own, inputs, layer, index))

    def test_of_one_channel_and_one_logit(self, url: str, folder: Path) -> None:
        own = timm.create_model("test_resnet", num_classes=1, in_chans=1, checkpoint_path=str(folder / "grey.pth"))
        inputs = timms_input(own.eval(), picture(), channels=1)

        result = ask(url, "grey", picture(), ["layer1", "layer3", "layer4"], [1])

        assert_equal_maps(result, lambda layer, _index: direct_map(own, inputs, layer, 0))
        assert told(url, "grey")["classes"] == 2


class TestWhatComesWithIt:
    def test_four_channels_are_read_off_the_weights(self, tmp_path: Path) -> None:
        save_file(build("test_resnet", num_classes=3, in_chans=4).state_dict(), tmp_path / "bands.safetensors")

        host = load(tmp_path, f"bands=timm/test_resnet:{tmp_path}/bands.safetensors")

        assert (host.info.preprocess.channels, len(host.info.preprocess.mean)) == (4, 4)
        assert host.predict(np.zeros((1, 160, 160, 4), np.uint8)).shape == (1, 3)

    def test_labels_of_a_folder(self, url: str) -> None:
        result = ask(url, "vit", picture(), ["default"], [1])

        assert result["explanations"][0]["target"]["label"] == "bee"

    def test_the_default_layer_of_a_transformer_is_its_last_blocks_first_norm(self, url: str) -> None:
        assert told(url, "vit")["default_layer"] == "blocks.5.norm1"
        assert told(url, "birds")["default_layer"] == "layer4"

    @pytest.mark.parametrize(
        ("name", "args"),
        [
            ("test_resnet", {}),
            ("test_vit", {"pretrained_cfg_overlay": {"crop_mode": "squash", "crop_pct": 1.0}}),
            ("test_resnet", {"pretrained_cfg_overlay": {"crop_mode": "border", "crop_pct": 1.0}}),
            ("test_efficientnet", {"pretrained_cfg_overlay": {"interpolation": "bilinear", "crop_pct": 0.8}}),
        ],
    )
    @pytest.mark.parametrize("size", [(200, 160), (333, 97), (64, 300)])
    def test_pictures_are_prepared_as_timm_does(
        self, name: str, args: dict[str, Any], size: tuple[int, int], tmp_path: Path
    ) -> None:
        module = build(name, num_classes=5, **args)
        timm.models.save_for_hf(module, tmp_path / "net", safe_serialization=True)
        spec = load(tmp_path, str(tmp_path / "net")).info.preprocess
        image = picture(*size)
        expected = timms_input(module, image)[0].numpy()

        image.save(tmp_path / "picture.png")
        decoded = decode((tmp_path / "picture.png").read_bytes(), DecodeLimits(10**7, 10**7, 1))
        pixels = preprocess(decoded, spec).pixels.transpose(2, 0, 1)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
        found = (pixels.astype(np.float32) * np.float32(spec.scale) - mean) / std

        assert np.abs(found - expected).max() < 1e-5

    def test_what_cannot_be_prepared_alike_is_said(self, tmp_path: Path) -> None:
        module = build("test_resnet", num_classes=5, pretrained_cfg_overlay={"crop_mode": "squash", "crop_pct": 0.9})
        timm.models.save_for_hf(module, tmp_path / "net", safe_serialization=True)

        (warning,) = load(tmp_path, str(tmp_path / "net")).info.warnings

        assert warning.code == "preprocessing_differs"
        assert "takes the middle 0.9 of it" in warning.text


class TestAveragedWeights:
    """timm's users expect the averaged ones."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        averaged, others = build("test_resnet", num_classes=3), build("test_resnet", num_classes=3)
        with torch.no_grad():
            averaged.get_parameter("fc.bias").add_(torch.tensor([0.0, 50.0, 0.0]))
        checkpoint = {
            "arch": "test_resnet",
            "args": argparse.Namespace(lr=0.1),  # timm's training script has it
            "state_dict": others.state_dict(),
            "state_dict_ema": averaged.state_dict(),
        }
        torch.save(checkpoint, tmp_path / "last.pth.tar")
        return tmp_path / "last.pth.tar"

    @pytest.mark.parametrize(("option", "averaged"), [("", True), (",use_ema=true", True), (",use_ema=false", False)])
    def test_are_taken_unless_the_configuration_says_otherwise(
        self, option: str, averaged: bool, file: Path, tmp_path: Path
    ) -> None:
        host = load(tmp_path, f"net=timm/test_resnet:{file}{option}")
        pixels = np.zeros((1, 160, 160, 3), np.uint8)

        assert bool(host.predict(pixels)[0].argmax() == 1 and host.predict(pixels)[0, 1] > 25) is averaged
        assert host.info.version.endswith("-ema") is averaged
        assert [warning.code for warning in host.info.warnings] == ([] if option else ["ema_weights"])


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("timm/test_resnt:w.pth", r"timm [\d.]+ has no model 'test_resnt'\. Did you mean timm/test_resnet"),
            ("timm/resnet18.gone", r"has no weights 'gone' of resnet18\. It has a1_in1k"),
            (
                "timm/resnet18",
                r"timm/resnet18\.a1_in1k is not in .*downloads are off\. Give a local file instead: --model",
            ),
            ("timm/test_resnet:w.pth", r"There is no weights file w\.pth"),
            (
                "timm/test_resnet:random,factory_args.depth=9",
                "timm cannot build test_resnet with .*depth=9: .*unexpected",
            ),
            (
                "timm/test_resnet:random,factory_args.checkpoint_path=w.pth",
                r"The argument checkpoint_path of .* says where weights come.*: timm/test_resnet:FILE\.safetensors",
            ),
            (
                'timm/test_resnet:random,factory_args={"pretrained_cfg": "hf-hub:a/b"}',
                "The argument pretrained_cfg of timm",
            ),
            ("timm/test_resnet:random,transform_input=true", "transform_input means nothing"),
        ],
    )
    def test_names_and_options(self, text: str, reason: str, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=reason):
            load(tmp_path, text)

    def test_a_network_without_a_classifier(self, tmp_path: Path) -> None:
        save_file(build("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")

        with pytest.raises(ModelLoadError, match=r"vit\.safetensors has no classifier \(missing head\.weight\)\. Fine"):
            load(tmp_path, f"timm/test_vit:{tmp_path}/vit.safetensors")

    def test_a_replaced_head(self, tmp_path: Path) -> None:
        module = build("test_resnet", num_classes=3)
        module.add_module("fc", nn.Sequential(nn.Dropout(), nn.Linear(256, 3)))
        state = {name: value for name, value in module.state_dict().items() if not name.startswith("fc.")}
        save_file(state | {"fc.1.weight": torch.ones(3, 256)}, tmp_path / "w.safetensors")

        with pytest.raises(
            ModelLoadError,
            match=r"w\.safetensors has fc\.1\.weight where test_resnet has fc\.weight: its head was replaced\. Write",
        ):
            load(tmp_path, f"timm/test_resnet:{tmp_path}/w.safetensors")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"architecture": "resnet_of_mine"}, "has no model 'resnet_of_mine'"),
            ({"architecture": 7}, "has no architecture as timm writes it"),
            ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "The argument checkpoint_path of timm"),
            ({"model_args": {"img_size": "big"}}, "timm cannot build test_vit with"),
            ({"model_args": {"embed_dim": 10_000_000}}, "does not fit the architecture|cannot build"),
            ({"model_args": {"depth": 12}}, "does not fit the architecture: it .*lacks blocks"),
            ({"pretrained_cfg": []}, "has no pretrained_cfg as timm writes it"),
            ({"pretrained_cfg": {"mean": [1e9, 0, 0]}}, "has mean 1e\\+09/0/0"),
        ],
    )
    def test_a_folder_that_says_something_else(
        self, change: dict[str, Any], reason: str, folder: Path, tmp_path: Path
    ) -> None:
        content = json.loads((folder / "vit" / "config.json").read_bytes())
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "config.json").write_text(json.dumps(content | change))
        (tmp_path / "net" / "model.safetensors").symlink_to(folder / "vit" / "model.safetensors")

        with pytest.raises(ModelLoadError, match=reason):
            load(tmp_path, str(tmp_path / "net"))

    def test_a_folder_without_weights(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "config.json").write_bytes((folder / "vit" / "config.json").read_bytes())

        with pytest.raises(ModelLoadError, match=r"net has no weights: a file such as model\.safetensors is"):
            load(tmp_path, str(tmp_path / "net"))

    def test_pickled_code_is_not_run(self, folder: Path, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "run"),)

        state = build("test_vit", num_classes=5).state_dict()
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "config.json").write_bytes((folder / "vit" / "config.json").read_bytes())
        torch.save({"state_dict": state, "payload": Payload()}, tmp_path / "net" / "pytorch_model.bin")

        assert load(tmp_path, str(tmp_path / "net")).info.labels[0] == "ant"
        assert not (tmp_path / "run").exists()


def test_published_weights_are_taken_from_the_cache(folder: Path, tmp_path: Path) -> None:
    """As the hub's own client keeps them; where downloads are off, this is where they come from."""
    hub = tmp_path / "cache" / "hub" / "models--timm--test_vit.r160_in1k"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("0" * 40)
    module = build("test_vit", num_classes=1000)
    timm.models.save_for_hf(module, hub / "snapshots" / ("0" * 40), safe_serialization=True)

    info = load(tmp_path, "timm/test_vit").info

    assert info.version == "r160_in1k"
    assert info.labels[281] == "tabby, tabby cat"


@pytest.mark.parametrize("name", ["test_efficientnet", "mobilenetv3_small_050", "regnetx_002"])
def test_normalisations_with_an_activation_are_folded(name: str) -> None:
    """``BatchNormAct2d``, of which most of timm's networks are built."""
    module = build(name, num_classes=5).requires_grad_(requires_grad=False)
    images = torch.randn(2, 3, 160, 160)
    found = folded(module, images)
    assert sum(type(fold.normalisation) is timm.layers.BatchNormAct2d for fold in found._folds) > 5
    torch.testing.assert_close(found.predict(images), EagerNetwork(module).predict(images), rtol=1e-4, atol=1e-4)
