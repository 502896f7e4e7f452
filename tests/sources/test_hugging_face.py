"""Image classifiers of transformers: served, and the same as transformers' own."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.errors import ModelLoadError
from service.imaging.decode import DecodeLimits, decode
from service.imaging.preprocess import preprocess
from service.models.loading import load_model
from service.models.sources.image_processors import read_processor
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from tests.server import running_server
from tests.sources.extras import need
from tests.sources.serving import ask, assert_equal_maps, direct_map, picture, settle, told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

    from service.models.host import ModelHost

transformers = need("transformers", "hf")

LABELS = {0: "ant", 1: "bee", 2: "cow", 3: "dog", 4: "eel"}
VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48, "patch_size": 8}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 1], "layer_type": "basic"}


def save(folder: Path, module: Any, processor: dict[str, Any] | None, *, channels: int = 3) -> None:
    """Save a classifier as a trainer does, settled as if it had been trained."""
    size = module.config.image_size if hasattr(module.config, "image_size") else 64
    height, width = (size, size) if isinstance(size, int) else size
    settle(module, channels, height, width)
    module.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def vit(**args: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.ViTConfig(**{**VIT, "image_size": 64, "id2label": LABELS, **args})
    module: nn.Module = transformers.ViTForImageClassification(config)
    return module


def resnet(**args: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(**{**RESNET, "id2label": LABELS, **args})
    module: nn.Module = transformers.ResNetForImageClassification(config)
    return module


def squashing(height: int, width: int) -> dict[str, Any]:
    size = {"height": height, "width": width}
    return {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 2, "image_mean": [0.5, 0.4, 0.3]}


def load(tmp_path: Path, text: str) -> ModelHost:
    return load_model(ModelConfig.model_validate(text), "cpu", Downloads(tmp_path / "cache", allowed=False))


def read(output: Any) -> Tensor:
    logits: Tensor = output.logits
    return logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    save(folder / "vit", vit(), squashing(64, 64))
    save(folder / "wide", vit(image_size=(48, 80)), squashing(48, 80))
    crop = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}
    save(folder / "resnet", resnet(), {**crop, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    one = {"num_channels": 1, "id2label": {0: "mole"}, "label2id": {"mole": 0}}
    save(folder / "grey", resnet(**one), {**squashing(64, 64), "image_mean": [0.5]}, channels=1)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    arguments = [part for name in ("vit", "wide", "resnet", "grey") for part in ("--model", f"{name}={folder}/{name}")]
    with running_server("--device", "cpu", *arguments) as server:
        yield server.url


def own(folder: Path) -> Any:
    """Load a folder as a user of transformers does."""
    return transformers.AutoModelForImageClassification.from_pretrained(folder).eval()


def inputs_of(image: Image.Image, mean: list[float], std: list[float], channels: int = 3) -> Tensor:
    """Prepare a picture that has the input's size already."""
    pixels = np.asarray(image if channels == 3 else image.convert("L"), np.float32).reshape(
        image.height, image.width, channels
    )
    values = (pixels / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(values).permute(2, 0, 1)[None]


class TestMaps:
    """From the folder through the server to the map, and by transformers alone: the same numbers."""

    @pytest.mark.parametrize(("name", "size"), [("vit", (64, 64)), ("wide", (80, 48))])
    def test_of_a_transformer(self, name: str, size: tuple[int, int], url: str, folder: Path) -> None:
        module, image = own(folder / name), picture(*size)
        inputs = inputs_of(image, [0.5, 0.4, 0.3], [0.5] * 3)

        layers = ["vit.layers.0", "vit.layers.1", "vit.layers.2.layernorm_before"]
        result = ask(url, name, image, layers, [0, 2, 4])

        assert_equal_maps(result, lambda layer, index: direct_map(module, inputs, layer, index, read))
        expected = sorted(module(inputs).logits[0].tolist())[::-1]
        assert [each["logit"] for each in result["predictions"]] == pytest.approx(expected, abs=1e-5)

    def test_of_one_channel_and_one_logit(self, url: str, folder: Path) -> None:
        module, image = own(folder / "grey"), picture(64, 64)
        inputs = inputs_of(image, [0.5], [0.5], channels=1)

        layers = [f"resnet.encoder.stages.{stage}" for stage in range(3)]
        result = ask(url, "grey", image, layers, [1])

        assert_equal_maps(result, lambda layer, _index: direct_map(module, inputs, layer, 0, read))
        assert result["explanations"][0]["target"]["label"] == "mole"


class TestWhatComesWithIt:
    def test_labels_and_the_default_layer(self, url: str) -> None:
        entry = told(url, "vit")

        assert entry["default_layer"] == "vit.layers.2.layernorm_before"
        assert ask(url, "vit", picture(64, 64), ["default"], [3])["explanations"][0]["target"]["label"] == "dog"

    def test_placeholders_are_no_labels(self, tmp_path: Path) -> None:
        save(tmp_path / "net", resnet(id2label={0: "LABEL_0", 1: "LABEL_1"}), squashing(64, 64))

        assert load(tmp_path, str(tmp_path / "net")).info.labels == ("class 0", "class 1")

    def test_several_labels_at_once(self, tmp_path: Path) -> None:
        save(tmp_path / "net", resnet(problem_type="multi_label_classification"), squashing(64, 64))

        assert load(tmp_path, str(tmp_path / "net")).info.activation == "sigmoid"

    def test_other_words_are_another_digest(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder / "vit", tmp_path / "net")
        before = load(tmp_path, str(tmp_path / "net")).info.digest
        file = tmp_path / "net" / "preprocessor_config.json"
        file.write_text(file.read_text().replace("0.4", "0.45"))

        assert load(tmp_path, str(tmp_path / "net")).info.digest != before

    @pytest.mark.parametrize(
        ("kind", "args"),
        [
            ("ViTImageProcessor", {"size": {"height": 64, "width": 64}}),
            ("ViTImageProcessor", {"size": {"height": 48, "width": 80}, "do_normalize": False}),
            ("ViTImageProcessor", {"size": {"height": 64, "width": 64}, "rescale_factor": 1 / 127.5}),
            ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.875}),
            ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "crop_pct": 0.875}),
            ("BitImageProcessor", {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}),
            ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}),
            ("EfficientNetImageProcessor", {"size": {"height": 64, "width": 64}}),
            ("EfficientNetImageProcessor", {"size": {"height": 64, "width": 64}, "rescale_offset": True}),
            ("LevitImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
        ],
    )
    def test_pictures_are_prepared_as_its_processor_does(self, kind: str, args: dict[str, Any], tmp_path: Path) -> None:
        """Within one grey level: Pillow and torchvision round differently."""
        processor = getattr(transformers, kind)(**args)
        processor.save_pretrained(tmp_path)
        file = next(tmp_path.glob("*processor_config.json"))
        content = json.loads(file.read_text())
        spec, warnings = read_processor(content.get("image_processor", content), {}, "net")
        image = picture(200, 160)
        image.save(tmp_path / "picture.png")
        pixels = preprocess(decode((tmp_path / "picture.png").read_bytes(), DecodeLimits(10**7, 10**7, 1)), spec).pixels
        found = (pixels * spec.scale - np.array(spec.mean)) / np.array(spec.std)

        expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)

        assert found.shape == expected.shape
        assert np.abs((found - expected) * spec.std / spec.scale).max() < 1.51
        assert warnings == []

    def test_what_cannot_be_prepared_alike_is_said(self) -> None:
        processor = {"size": {"height": 72, "width": 72}, "do_center_crop": True, "crop_size": 64, "do_pad": True}

        spec, warnings = read_processor(processor, {}, "net")

        assert (spec.mode, spec.height) == ("squash", 64)
        assert [warning.code for warning in warnings] == ["preprocessing_differs"] * 2

    def test_without_a_processor_what_is_assumed_is_said(self) -> None:
        spec, (warning,) = read_processor(None, {"image_size": 96}, "net")

        assert (spec.height, warning.code) == (96, "preprocessing_assumed")


class TestRefusals:
    def change(self, folder: Path, to: Path, **changes: Any) -> None:
        shutil.copytree(folder / "vit", to)
        content = json.loads((to / "config.json").read_text())
        (to / "config.json").write_text(json.dumps({**content, **changes}))

    def test_a_folder_without_a_head(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        transformers.ViTModel(transformers.ViTConfig(**VIT, image_size=64)).save_pretrained(tmp_path / "bare")

        with pytest.raises(
            ModelLoadError, match=r"^bare has no classifier \(missing classifier\.weight\)\. Fine-tune it"
        ):
            load(tmp_path, str(tmp_path / "bare"))

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            (
                {"model_type": "mine", "auto_map": {"AutoModel": "code.Net"}},
                "net brings code of its own, which is not run",
            ),
            ({"model_type": "mine"}, "knows no model 'mine'"),
            ({"model_type": "bert"}, "'bert', which classifies no pictures"),
            ({"hidden_size": 10**7}, "transformers cannot load net|lacks weights"),
            ({"hidden_size": 64}, "transformers cannot load net|lacks weights"),
            ({"num_hidden_layers": 5}, "lacks weights of its network: vit"),
            ({"hidden_act": "nothing"}, "transformers cannot load net"),
        ],
    )
    def test_a_description_of_something_else(
        self, changes: dict[str, Any], reason: str, folder: Path, tmp_path: Path
    ) -> None:
        self.change(folder, tmp_path / "net", **changes)
        (tmp_path / "net" / "code.py").write_text("raise SystemExit")

        with pytest.raises(ModelLoadError, match=reason):
            load(tmp_path, str(tmp_path / "net"))

    @pytest.mark.parametrize(
        "content", ['{"size": "large"}', '{"size": {"width": 3}}', '{"image_std": [0]}', "[]", "{"]
    )
    def test_a_processor_that_makes_no_sense(self, content: str, folder: Path, tmp_path: Path) -> None:
        self.change(folder, tmp_path / "net")
        (tmp_path / "net" / "preprocessor_config.json").write_text(content)

        with pytest.raises(ModelLoadError, match=r"makes no sense|no JSON object|as JSON"):
            load(tmp_path, str(tmp_path / "net"))

    def test_no_weights(self, folder: Path, tmp_path: Path) -> None:
        self.change(folder, tmp_path / "net")
        (tmp_path / "net" / "model.safetensors").unlink()

        with pytest.raises(ModelLoadError, match="net has no weights"):
            load(tmp_path, str(tmp_path / "net"))

    def test_pickled_code_is_not_run(self, folder: Path, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "run"),)

        self.change(folder, tmp_path / "net")
        (tmp_path / "net" / "model.safetensors").unlink()
        torch.save({"payload": Payload()}, tmp_path / "net" / "pytorch_model.bin")

        with pytest.raises(ModelLoadError, match="transformers cannot load net"):
            load(tmp_path, str(tmp_path / "net"))
        assert not (tmp_path / "run").exists()

    def test_what_is_not_in_the_cache(self, tmp_path: Path) -> None:
        with pytest.raises(
            ModelLoadError, match=r"google/vit is not in .*downloads are off\. Give a local folder instead"
        ):
            load(tmp_path, "hf/google/vit")
        with pytest.raises(ModelLoadError, match="is no name of a model on the hub"):
            load(tmp_path, "hf/a/b/c")
