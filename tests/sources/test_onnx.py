"""ONNX files: explained as the networks that they were exported from, and as they were drawn up by hand."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from service.cam.targets import Targets
from service.errors import ModelLoadError
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sources.onnx import reads
from service.models.torchvision_adapter import torchvision
from service.settings import ModelConfig
from tests.direct_cam import assert_maps_are_direct, normalised
from tests.sources.extras import need

if TYPE_CHECKING:
    from pathlib import Path

    from service.models.host import ModelHost
    from service.models.sources.source import Downloads

onnx = need("onnx", "onnx")
need("onnx2torch", "onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

pytestmark = pytest.mark.filterwarnings("ignore")  # exporters use what they have deprecated themselves


@pytest.fixture
def offline(tmp_path: Path) -> Downloads:
    from service.models.sources.source import Downloads

    return Downloads(tmp_path / "cache", allowed=False)


def served(file: Path, offline: Downloads, **configuration: Any) -> ModelHost:
    return load_model(ModelConfig(architecture=str(file), name="mine", **configuration), "cpu", offline)


def by_tracing(net: nn.Module, file: Path, *size: int) -> Path:
    torch.onnx.export(
        net.eval(), (torch.randn(size),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
    )
    return file


def by_torch_export(net: nn.Module, file: Path, *size: int) -> Path:
    need("onnxscript", "onnx")
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(
        net.eval(), (torch.randn(size),), file, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
    )
    return file


def check_maps(host: ModelHost, net: nn.Module, pairs: dict[str, str], classes: tuple[int, ...]) -> None:
    """Compare maps at outputs of the graph with those of the network at the layers that they correspond to."""
    spec = host.info.preprocess
    size = (1, spec.height, spec.width, spec.channels)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (answer,) = host.explain(pixels.numpy(), [Targets(classes)], HowTo(tuple(pairs), ("gradcam",)))
    found = iter(answer.maps)
    inputs = normalised(pixels, spec)
    outputs = net(inputs).shape[1]
    for layer in pairs.values():
        maps = torch.stack([next(found).values for _ in classes])
        assert_maps_are_direct(maps, net, layer, inputs, [target % outputs for target in classes])


# Every kind of block, and few of each: exporting takes minutes for a hundred of them.
FAMILIES: dict[str, Any] = {
    "convnext": torchvision.models.convnext_tiny,
    "swin": partial(
        torchvision.models.SwinTransformer,
        patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[7, 7],
    ),
    "shufflenet": torchvision.models.shufflenet_v2_x0_5,
    "densenet": partial(torchvision.models.DenseNet, growth_rate=8, block_config=(2, 3, 2, 2), num_init_features=16),
    "efficientnet": torchvision.models.efficientnet_b0,
}  # fmt: skip


class TestMaps:
    def test_of_a_traced_resnet_are_its_own(self, tmp_path: Path, offline: Downloads) -> None:
        torch.manual_seed(0)
        net = torchvision.models.resnet18(num_classes=5)
        host = served(by_tracing(net, tmp_path / "net.onnx", 2, 3, 64, 96), offline)

        pairs = {"layer4/layer4/1/relu_1/Relu": "layer4", "layer3/layer3/1/relu_1/Relu": "layer3", "relu/Relu": "relu"}
        check_maps(host, net, pairs, (0, 2, 4))
        assert host.info.default_layer == "layer4/layer4/1/relu_1/Relu"
        assert (host.info.preprocess.height, host.info.preprocess.width) == (64, 96)
        assert "initializers" not in [layer.name for layer in host.info.layers]

    def test_of_a_resnet_by_torch_export_are_its_own(self, tmp_path: Path, offline: Downloads) -> None:
        torch.manual_seed(0)
        net = torchvision.models.resnet18(num_classes=5)
        host = served(by_torch_export(net, tmp_path / "net.onnx", 2, 3, 64, 96), offline)

        check_maps(host, net, {"node_relu_16": "layer4", "node_relu_12": "layer3", "node_relu": "relu"}, (0, 2, 4))

    def test_of_one_channel_and_one_logit(self, tmp_path: Path, offline: Downloads) -> None:
        torch.manual_seed(0)
        head = nn.Linear(8, 1)
        head.weight = nn.Parameter(head.weight.detach().abs())
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), head,
        )  # fmt: skip
        host = served(by_tracing(net, tmp_path / "grey.onnx", 2, 1, 40, 24), offline)

        assert host.info.preprocess.channels == 1
        check_maps(host, net, {"0/Conv": "0", "1/Relu": "1", "3/Relu": "3"}, (1,))

    @pytest.mark.slow
    @pytest.mark.parametrize("export", [by_tracing, by_torch_export])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_family_is_converted(self, family: str, export: Any, tmp_path: Path, offline: Downloads) -> None:
        torch.manual_seed(0)
        net = FAMILIES[family](num_classes=5)
        host = served(export(net, tmp_path / "net.onnx", 2, 3, 64, 64), offline)
        pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)

        expected = net(normalised(torch.from_numpy(pixels), host.info.preprocess)).detach()

        torch.testing.assert_close(host.predict(pixels), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# -- graphs drawn up by hand ------------------------------------------------------------------------------------------

CONV = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
HEAD = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


def drawn(
    file: Path,
    nodes: list[Any],
    shape: list[Any] | None = None,
    opset: int = 17,
    classes: int = 5,
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """Write a graph from "x" to "y"."""
    every = {"conv": CONV, "head": HEAD, **(weights or {})}
    shape = ["n", 3, 16, 16] if shape is None else shape
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, [shape[0], classes])],
        [numpy_helper.from_array(value, name) for name, value in every.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="hand")
    onnx.save(model, file)
    return file


def trunk(x: str = "x") -> list[Any]:
    return [
        helper.make_node("Conv", [x, "conv"], ["c"], "c1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "r1"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "p1"),
        helper.make_node("Flatten", ["p"], ["f"], "f1"),
    ]


def net_by_hand() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(4, 5, bias=False))
    net[0].weight = nn.Parameter(torch.from_numpy(CONV))
    net[4].weight = nn.Parameter(torch.from_numpy(HEAD).T)
    return net


class TestClosing:
    @pytest.mark.parametrize(("operator", "activation"), [("Softmax", "softmax"), ("Sigmoid", "sigmoid")])
    def test_activation_is_taken_off_and_known(
        self, operator: str, activation: str, tmp_path: Path, offline: Downloads
    ) -> None:
        nodes = [
            *trunk(),
            helper.make_node("MatMul", ["f", "head"], ["z"], "head"),
            helper.make_node(operator, ["z"], ["s"]),
        ]
        nodes.append(helper.make_node("Identity", ["s"], ["y"]))
        host = served(drawn(tmp_path / "net.onnx", nodes), offline)

        assert host.info.activation == activation
        check_maps(host, net_by_hand(), {"c1": "0", "r1": "1"}, (0, 1, 2))

    def test_a_softmax_that_is_read_elsewhere_stays(self, tmp_path: Path, offline: Downloads) -> None:
        nodes = [
            *trunk(),
            helper.make_node("MatMul", ["f", "head"], ["z"], "head"),
            helper.make_node("Softmax", ["z"], ["s"]),
            helper.make_node("Mul", ["s", "s"], ["q"]),
            helper.make_node("Add", ["q", "s"], ["y"]),
        ]

        assert served(drawn(tmp_path / "net.onnx", nodes), offline).info.activation != "sigmoid"


class TestPrepared:
    def head(self, tmp_path: Path, offline: Downloads, before: list[Any], **rest: Any) -> None:
        """Serve the network by hand with some of it written in another way, and compare."""
        nodes = [*before, helper.make_node("MatMul", ["f", "head"], ["y"], "head")]
        check_maps(served(drawn(tmp_path / "net.onnx", nodes, **rest), offline), net_by_hand(), {"r1": "1"}, (0, 1, 2))

    def test_axes_as_an_input(self, tmp_path: Path, offline: Downloads) -> None:
        nodes = [*trunk()[:2], helper.make_node("ReduceMean", ["r", "axes"], ["f"], "f1", keepdims=0)]
        self.head(tmp_path, offline, nodes, opset=18, weights={"axes": np.array([2, 3])})

    def test_a_shared_weight_behind_identities(self, tmp_path: Path, offline: Downloads) -> None:
        aliases = [helper.make_node("Identity", ["conv"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
        conv = helper.make_node("Conv", ["x", "b"], ["c"], "c1", pads=[1, 1, 1, 1])
        self.head(tmp_path, offline, [*aliases, conv, *trunk()[1:]])

    def test_channels_last(self, tmp_path: Path, offline: Downloads) -> None:
        turned = helper.make_node("Transpose", ["x"], ["t"], "t1", perm=[0, 3, 1, 2])
        self.head(tmp_path, offline, [turned, *trunk("t")], shape=["n", 16, 12, 3])

    def test_an_operator_of_a_later_opset(self, tmp_path: Path, offline: Downloads) -> None:
        nodes = [
            helper.make_node("Conv", ["x", "conv"], ["c"], "c1", pads=[1, 1, 1, 1]),
            helper.make_node("Gelu", ["c"], ["r"], "g1"),
            *trunk()[2:],
            helper.make_node("MatMul", ["f", "head"], ["y"]),
        ]
        host = served(drawn(tmp_path / "net.onnx", nodes, opset=20), offline)
        net = net_by_hand()
        net[1] = nn.GELU()

        check_maps(host, net, {"c1": "0"}, (0, 1, 2))

    def test_names_become_no_code(self, tmp_path: Path, offline: Downloads) -> None:
        """Names are written into Python code."""
        sprung = tmp_path / "sprung"
        evil = f'a")(__import__("os").mkdir("{sprung}")) or getattr(self, "c1\n'
        nodes = trunk()
        nodes[0].name = evil
        nodes.append(helper.make_node("MatMul", ["f", "head"], ["y"], "head"))
        host = served(drawn(tmp_path / "net.onnx", nodes), offline)

        host.predict(np.zeros((1, 16, 16, 3), np.uint8))

        assert not sprung.exists()
        assert all(
            set(layer.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/:-")
            for layer in host.info.layers
        )

    def test_it_is_told_by_its_content(self, tmp_path: Path) -> None:
        file = drawn(tmp_path / "net.onnx", trunk())

        assert reads(file.rename(tmp_path / "net.bin"))
        assert not reads(tmp_path)


class TestRefused:
    def refused(self, match: str, file: Path, offline: Downloads, **configuration: Any) -> None:
        with pytest.raises(ModelLoadError, match=match):
            served(file, offline, **configuration)

    def test_an_operator_that_is_not_known_is_named(self, tmp_path: Path, offline: Downloads) -> None:
        nodes = [*trunk(), helper.make_node("Det", ["r"], ["d"]), helper.make_node("MatMul", ["f", "head"], ["y"])]
        self.refused(
            r"cannot be converted to torch: .*operation_type='Det', version=11",
            drawn(tmp_path / "n.onnx", nodes),
            offline,
        )

    def test_operators_of_others_are_named(self, tmp_path: Path, offline: Downloads) -> None:
        nodes = [*trunk(), helper.make_node("FusedGelu", ["f"], ["y"], domain="com.microsoft")]
        words = r"operators that are not ONNX's own \(com\.microsoft\.FusedGelu\)"
        self.refused(words, drawn(tmp_path / "n.onnx", nodes, classes=4), offline)

    def test_a_batch_that_is_written_down(self, tmp_path: Path, offline: Downloads) -> None:
        nodes = [*trunk()[:3], helper.make_node("Reshape", ["p", "shape"], ["f"])]
        nodes.append(helper.make_node("MatMul", ["f", "head"], ["y"]))
        file = drawn(tmp_path / "n.onnx", nodes, shape=[1, 3, 16, 16], weights={"shape": np.array([1, 4])})
        self.refused(r"was exported for batches of 1\. Export it again with a free batch", file, offline)

    def test_a_batch_that_is_only_declared_is_served(self, tmp_path: Path, offline: Downloads) -> None:
        nodes = [*trunk(), helper.make_node("MatMul", ["f", "head"], ["y"])]
        host = served(drawn(tmp_path / "n.onnx", nodes, shape=[1, 3, 16, 16]), offline)

        assert host.predict(np.zeros((3, 16, 16, 3), np.uint8)).shape == (3, 5)

    def test_another_size(self, tmp_path: Path, offline: Downloads) -> None:
        nodes = [*trunk(), helper.make_node("MatMul", ["f", "head"], ["y"])]
        self.refused(
            "exported for pictures of 16×16 pixels, not 32×32", drawn(tmp_path / "n.onnx", nodes), offline, size=32
        )
        free = drawn(tmp_path / "free.onnx", nodes, shape=["n", 3, "h", "w"])
        assert served(free, offline, size=32).info.preprocess.height == 32

    def test_training_mode(self, tmp_path: Path, offline: Downloads) -> None:
        ones = {name: np.ones(4, np.float32) for name in ("a", "b", "c0", "d")}
        norm = helper.make_node("BatchNormalization", ["c", "a", "b", "c0", "d"], ["r", "m", "v"], training_mode=1)
        nodes = [trunk()[0], norm, *trunk()[2:], helper.make_node("MatMul", ["f", "head"], ["y"])]
        self.refused(
            r"in training mode \(BatchNormalization\)", drawn(tmp_path / "n.onnx", nodes, weights=ones), offline
        )

    @pytest.mark.parametrize("left", [0.2, 0.6, 0.99])
    def test_a_file_that_is_cut_off(self, left: float, tmp_path: Path, offline: Downloads) -> None:
        file = drawn(tmp_path / "n.onnx", [*trunk(), helper.make_node("MatMul", ["f", "head"], ["y"])])
        content = file.read_bytes()
        file.write_bytes(content[: int(left * len(content))])
        self.refused("is cut off or damaged: copy or download it again", file, offline)

    def test_a_graph_of_millions_of_parts(self, tmp_path: Path, offline: Downloads) -> None:
        """Each takes two bytes, and would become an object of a hundred."""
        nodes = b"\x0a\x00" * 1_000_000
        graph = b"\x3a" + _varint(len(nodes)) + nodes
        (tmp_path / "n.onnx").write_bytes(b"\x08\x08\x12\x04hand" + graph)
        self.refused("has a graph of 1,000,003 parts", tmp_path / "n.onnx", offline)

    @pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
    def test_weights_elsewhere_are_not_read(self, location: str, tmp_path: Path, offline: Downloads) -> None:
        (tmp_path / "secret.bin").write_bytes(bytes(4 * CONV.size))
        folder = tmp_path / "models"
        folder.mkdir()
        (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
        file = self.external(folder / "n.onnx", location)
        self.refused("which is not beside it: they are not read", file, offline)

    def test_weights_beside_it(self, tmp_path: Path, offline: Downloads) -> None:
        file = self.external(tmp_path / "n.onnx", "n.data")
        self.refused(r"has weights in the file n\.data, which is not there: keep both together", file, offline)
        (tmp_path / "n.data").write_bytes(CONV.tobytes()[:-4])
        self.refused(r"has weights beyond the end of n\.data", file, offline)
        (tmp_path / "n.data").write_bytes(CONV.tobytes())
        check_maps(served(file, offline), net_by_hand(), {"r1": "1"}, (0, 1, 2))

    def external(self, file: Path, location: str) -> Path:
        """Write the network by hand with its first weights in another file."""
        drawn(file, [*trunk(), helper.make_node("MatMul", ["f", "head"], ["y"])])
        model = onnx.load(file)
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": str(4 * CONV.size)}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        file.write_bytes(model.SerializeToString())
        return file


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


class TestComparedWithOnnxruntime:
    def test_a_wrong_conversion_is_refused(
        self, tmp_path: Path, offline: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        need("onnxruntime", "onnx")
        monkeypatch.setattr(nn.ReLU, "forward", lambda _self, x: x.abs())
        file = drawn(tmp_path / "n.onnx", [*trunk(), helper.make_node("MatMul", ["f", "head"], ["y"])])

        with pytest.raises(
            ModelLoadError, match="computes something else after its conversion to torch than in onnxruntime"
        ):
            served(file, offline)

    def test_where_it_is_not_installed_that_is_said(
        self, tmp_path: Path, offline: Downloads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        file = drawn(tmp_path / "n.onnx", [*trunk(), helper.make_node("MatMul", ["f", "head"], ["y"])])

        codes = [row.code for row in served(file, offline, mean=0, std=1).info.warnings]

        assert codes == ["conversion_unchecked"]
