"""``camserve check`` over a model of each source: every step is ok, pictures are prepared as its library does it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from service.check.report import STEPS
from tests.sources.extras import need
from tests.sources.serving import picture, settle

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def small() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def of_torchvision(folder: Path) -> str:
    from service.models.torchvision_adapter import torchvision

    torch.manual_seed(0)
    network = settle(torchvision.models.mobilenet_v3_small(num_classes=3), height=224, width=224)
    torch.save(network.state_dict(), folder / "net.pth")
    return f"mobilenet_v3_small:{folder}/net.pth,labels={folder}/labels.txt"


def of_timm(folder: Path) -> str:
    timm = need("timm", "timm")
    torch.manual_seed(0)
    network = settle(timm.create_model("test_resnet", num_classes=3))
    timm.models.save_for_hf(network, str(folder / "net"), {"label_names": ["a", "b", "c"]}, safe_serialization=True)
    return f"{folder}/net"


def of_hugging_face(folder: Path) -> str:
    transformers = need("transformers", "hf")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=64, patch_size=8, id2label={0: "a", 1: "b", 2: "c"}, **sizes)
    transformers.ViTForImageClassification(config).save_pretrained(folder / "net")
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "net")
    return f"{folder}/net"


def of_keras(folder: Path) -> str:
    need("h5py", "keras")
    from service.models.sources.keras import import_keras

    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Input((64, 64, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    keras.Sequential(layers).save(folder / "net.keras")
    return f"net={folder}/net.keras,labels={folder}/labels.txt"


def of_torch_export(folder: Path) -> str:
    example = (torch.randn(2, 3, 64, 64),)
    program = torch.export.export(small(), example, dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "net.pt2")
    return f"net={folder}/net.pt2,labels={folder}/labels.txt,mean=0.5,std=0.25"


def of_onnx(folder: Path) -> str:
    need("onnx", "onnx")
    need("onnxruntime", "onnx")
    example, axes = (torch.randn(2, 3, 64, 64),), {"x": {0: "n"}}
    torch.onnx.export(small(), example, folder / "net.onnx", dynamo=False, input_names=["x"], dynamic_axes=axes)
    return f"net={folder}/net.onnx,labels={folder}/labels.txt,mean=0.5,std=0.25"


def of_clip(folder: Path) -> str:
    open_clip = need("open_clip", "clip")
    torch.manual_seed(0)
    save_file(open_clip.create_model("ViT-S-32-alt").state_dict(), folder / "net.safetensors")
    return f"clip/ViT-S-32-alt:{folder}/net.safetensors,labels={folder}/labels.txt"


def of_code(_folder: Path) -> str:
    return "net=tests.sources.test_check.small,size=64"


def checked(model: str, folder: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    picture().save(folder / "picture.png")
    flags = ["--model", model, "--image", str(folder / "picture.png"), "--cache-dir", str(folder / "cache"), "--json"]
    ran = subprocess.run(
        [sys.executable, "-m", "service.cli", "check", *flags, "--device", "cpu", "--threads", "1", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.stdout, ran.stderr
    return ran.returncode, {row["step"]: row for row in json.loads(ran.stdout)["models"][0]["steps"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    return tmp_path


OF_SOURCES = (of_torchvision, of_timm, of_hugging_face, of_keras, of_torch_export, of_onnx, of_clip, of_code)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the libraries do while they save
@pytest.mark.slow  # scripts/test-sources runs all of them
@pytest.mark.parametrize("make", OF_SOURCES, ids=lambda make: make.__name__.removeprefix("of_"))
def test_a_model_of_each_source_passes(make: Callable[[Path], str], folder: Path) -> None:
    code, rows = checked(make(folder), folder)

    assert code == 0, rows
    assert list(rows) == list(STEPS)
    assert {row["result"] for step, row in rows.items() if step not in {"reference", "picture"}} == {"ok"}, rows
    assert "3 classes (a, b, c), softmax" in rows["labels"]["found"] or make is of_code
    known = make in {of_torchvision, of_timm, of_hugging_face, of_clip}
    assert rows["reference"]["result"] == ("ok" if known else "skipped"), rows["reference"]
    assert ("inputs differ by" in rows["reference"]["found"]) == known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (of_torchvision, "interpolation=nearest,mean=0,std=1"),
        (of_timm, "mean=0,std=1"),
        (of_hugging_face, "mode=pad"),
        (of_clip, "mode=squash"),
    ],
    ids=["torchvision", "timm", "hugging_face", "clip"],
)
def test_preprocessing_other_than_its_librarys_is_named(
    make: Callable[[Path], str], options: str, folder: Path
) -> None:
    code, rows = checked(f"{make(folder)},{options}", folder)

    assert code == 0
    assert "configured otherwise than its source says: " in rows["preprocessing"]["found"]
    for option in options.split(","):
        assert f"{option.partition('=')[0]} " in rows["preprocessing"]["found"]
    levels = float(rows["reference"]["found"].split()[3])
    assert levels > 2
