"""Exported graphs behind a real server: a .pt2 and an .onnx file by their paths alone, and maps over the wire."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from service.imaging.preprocess import PreprocessSpec
from tests.direct_cam import assert_maps_are_direct, normalised
from tests.server import running_server
from tests.sources.extras import need

if TYPE_CHECKING:
    from pathlib import Path

need("onnx", "onnx")
need("onnx2torch", "onnx")

pytestmark = pytest.mark.filterwarnings("ignore")  # exporters use what they have deprecated themselves

# Where the layers of the network are found in each of its forms.
LAYERS = {"program": {"0": "0", "1": "1", "3": "3"}, "graph": {"0/Conv": "0", "1/Relu": "1", "3/Relu": "3"}}


def test_maps_over_the_wire_are_those_of_the_network_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    example = torch.randn(2, 3, 32, 48)
    program, graph = tmp_path / "net.pt2", tmp_path / "net.onnx"
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim("n")},)), program)
    torch.onnx.export(net, (example,), graph, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "png")
    options = "mode=squash,mean=0.5,std=0.25"
    spec = PreprocessSpec("squash", 32, 48, mean=(0.5,) * 3, std=(0.25,) * 3)
    inputs = normalised(torch.from_numpy(pixels)[None], spec)

    with running_server(
        "--model", f"program={program},{options}", "--model", f"graph={graph},{options}", "--workers", "1"
    ) as server:
        for name, layers in LAYERS.items():
            form = {"output": "map", "layer": list(layers), "target": ["#0", "#1", "#2"]}
            address = f"{server.url}/api/v1/models/{name}/explain"
            answer = httpx.post(address, files={"image": picture.getvalue()}, data=form, timeout=300)
            assert answer.status_code == 200, answer.text
            maps = iter(answer.json()["results"][0]["explanations"])
            for layer in layers.values():
                found = torch.stack([read(next(maps)["map"]) for _ in range(3)])
                assert_maps_are_direct(found, net, layer, inputs, (0, 1, 2))


def read(raw: dict[str, Any]) -> torch.Tensor:
    values = np.frombuffer(base64.b64decode(raw["data"]), "<f4").reshape(raw["shape"])
    return torch.from_numpy(values.copy())
