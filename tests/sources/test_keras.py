"""Files of Keras, served by the real server, against Grad-CAM computed in Keras itself."""

from __future__ import annotations

import base64
import io
import json
import threading
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from service.errors import ModelLoadError
from service.models.loading import load_model
from service.models.sources.keras import import_keras
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from tests.server import running_server
from tests.sources.extras import need
from tests.sources.keras_models import NETWORKS, direct_gradcam, settle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from service.models.host import ModelHost
    from tests.server import Server

need("h5py", "keras")  # which comes with Keras; that is imported on torch below

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras on torch, saving


@pytest.fixture(scope="module")
def keras() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(0)
    return keras


@pytest.fixture(scope="module")
def files(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keras")
    paths = {}
    for name, (build, _) in NETWORKS.items():
        keras.backend.clear_session()
        model = build(keras)
        settle(keras, model)
        paths[name] = folder / f"{name}.keras"
        model.save(paths[name])
    keras.saving.load_model(paths["functional"]).save(folder / "functional.h5")
    return paths | {"h5": folder / "functional.h5"}


@pytest.fixture(scope="module")
def server(files: dict[str, Path]) -> Iterator[Server]:
    models = [argument for name, path in files.items() for argument in ("--model", f"{name}={path}")]
    with running_server(*models) as server:
        yield server


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(path: Path, **options: Any) -> ModelHost:
        return load_model(ModelConfig(architecture=str(path), **options), "cpu", Downloads(tmp_path, allowed=False))

    return load


def picture(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(written, "PNG")
    return written.getvalue()


def explained(server: Server, model: str, pixels: NDArray[np.uint8], **options: Any) -> dict[str, Any]:
    answer = httpx.post(
        f"{server.url}/api/v1/models/{model}/explain",
        files={"image": png(pixels)},
        data={"output": "map", **options},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["results"][0]
    return found


def as_array(sent: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(sent["data"]), "<f4").reshape(sent["shape"])


class TestServed:
    @pytest.mark.parametrize("name", [*NETWORKS, "h5"])
    def test_the_map_is_that_of_keras(self, name: str, keras: Any, files: dict[str, Path], server: Server) -> None:
        layers = NETWORKS["functional" if name == "h5" else name][1]
        model = keras.saving.load_model(files[name])
        pixels = picture(*model.input_shape[1:])
        prefix = "mobilenetv2_0_35_64." if name == "nested" else ""
        targets = ["0", "1", "1" if name == "grey" else "2"]

        result = explained(
            server, name, pixels, layer=[prefix + layer for layer in layers], target=[f"#{each}" for each in targets]
        )

        given = keras.applications.vgg16.preprocess_input(pixels.astype(np.float32)) if name == "vgg" else pixels
        assert len(result["explanations"]) >= 6
        for explanation in result["explanations"]:
            layer = explanation["layer"].removeprefix(prefix)
            expected = direct_gradcam(keras, model, layer, given, explanation["target"]["index"])
            found = as_array(explanation["map"])
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-5 * max(expected.max(), 1e-6)

    @pytest.mark.parametrize("name", ["functional", "sequential", "nested", "grey", "vgg", "h5"])
    def test_probabilities_are_those_of_the_file(
        self, name: str, keras: Any, files: dict[str, Path], server: Server
    ) -> None:
        model = keras.saving.load_model(files[name])
        pixels = picture(*model.input_shape[1:])
        given = keras.applications.vgg16.preprocess_input(pixels.astype(np.float32)) if name == "vgg" else pixels

        rows = explained(server, name, pixels, top_k=2)["predictions"]

        with torch.inference_mode():
            expected = model(given[None].astype(np.float32), training=False)[0].numpy()
        if name == "grey":
            expected = np.array([1 - expected[0], expected[0]])
        assert all(row["probability"] == pytest.approx(expected[row["index"]], abs=1e-6) for row in rows)

    def test_layers_have_the_names_of_keras(self, server: Server) -> None:
        names = {
            model: [
                row["name"]
                for row in httpx.get(f"{server.url}/api/v1/models/{model}/layers", timeout=60).json()["layers"]
            ]
            for model in ("functional", "sequential", "nested", "vgg")
        }

        assert names["functional"] == ["first", "second", "norm", "pool", "third", "flatten", "dropout", "classes"]
        assert names["sequential"][:3] == ["conv_1", "conv_2", "conv_3"]
        assert {"mobilenetv2_0_35_64", "mobilenetv2_0_35_64.out_relu"} <= set(names["nested"])
        assert "block5_conv1" in names["vgg"]

    def test_it_says_what_it_found_out(self, server: Server) -> None:
        known = httpx.get(f"{server.url}/api/v1/models/vgg", timeout=60).json()

        assert known["activation"] == "softmax"
        assert (known["input"]["height"], known["input"]["width"]) == (32, 32)
        assert [warning["code"] for warning in known["warnings"]] == ["assumed_normalisation"]
        assert "preset=caffe" in known["warnings"][0]["text"]


class TestTheWorker:
    def test_is_as_it_was(self, files: dict[str, Path], load: Any) -> None:
        load(files["functional"])

        assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_device() == torch.device("cpu")
        assert torch.is_grad_enabled()

    def test_several_load_at_once(self, files: dict[str, Path], load: Any) -> None:
        found: list[ModelHost] = []
        threads = [
            threading.Thread(target=lambda path=path: found.append(load(path)))
            for path in (files["functional"], files["grey"], files["sequential"], files["h5"])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(found) == 4


class TestOptions:
    def test_the_size_is_the_files(self, files: dict[str, Path], load: Any) -> None:
        with pytest.raises(ModelLoadError, match="takes pictures of 32×32, as its file says"):
            load(files["functional"], size=64)

    def test_the_precision_is_the_files(self, files: dict[str, Path], load: Any) -> None:
        with pytest.raises(ModelLoadError, match="computes in float32, as its file says: set precision=float32"):
            load(files["functional"], precision="bfloat16")

    @pytest.mark.parametrize(
        ("preset", "order", "mean"), [("caffe", "BGR", (103.939, 116.779, 123.68)), ("tf", "RGB", (1.0, 1.0, 1.0))]
    )
    def test_a_preset_wins(
        self, preset: str, order: str, mean: tuple[float, ...], files: dict[str, Path], load: Any
    ) -> None:
        info = load(files["vgg"], preset=preset).info

        assert (info.preprocess.order, info.preprocess.mean) == (order, mean)
        assert info.warnings == ()

    def test_labels_of_imagenet_are_read(self, files: dict[str, Path], load: Any, tmp_path: Path) -> None:
        labels = tmp_path / "imagenet_class_index.json"
        labels.write_text(json.dumps({str(index): [f"n{index:08}", f"animal {index}"] for index in range(6)}))

        assert load(files["vgg"], labels=labels).info.labels[2] == "animal 2"

    def test_a_model_of_any_size_takes_one(self, keras: Any, load: Any, tmp_path: Path) -> None:
        inputs = keras.Input((None, None, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
        keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))).save(tmp_path / "m.keras")

        assert load(tmp_path / "m.keras", height=16, width=24).info.preprocess.width == 24

    def test_mixed_precision_is_computed_as_saved(self, keras: Any, load: Any, tmp_path: Path) -> None:
        layers = [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(4, 3, activation="relu", dtype="mixed_bfloat16"),
            keras.layers.GlobalAveragePooling2D(dtype="mixed_bfloat16"),
            keras.layers.Dense(2, activation="softmax", dtype="float32"),
        ]
        keras.Sequential(layers).save(tmp_path / "m.keras")

        assert load(tmp_path / "m.keras", precision="bfloat16", preset="tf").info.dtype == "bfloat16"
        with pytest.raises(ModelLoadError, match="computes in bfloat16"):
            load(tmp_path / "m.keras")


class TestOutputs:
    def test_several_are_heads_by_name(self, keras: Any, load: Any, tmp_path: Path) -> None:
        inputs = keras.Input((16, 16, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
        kind = keras.layers.Dense(3, activation="softmax", name="kind")(x)
        side = keras.layers.Dense(1, activation="sigmoid", name="side")(x)
        keras.Model(inputs, [kind, side]).save(tmp_path / "m.keras")

        heads = load(tmp_path / "m.keras").info.heads

        assert {name: (len(head.labels), head.activation) for name, head in heads.items()} == {
            "kind": (3, "softmax"),
            "side": (2, "sigmoid"),
        }

    @pytest.mark.parametrize("closing", ["Softmax", "Activation", "op", "nested"])
    def test_a_closing_softmax_is_taken_off(self, closing: str, keras: Any, load: Any, tmp_path: Path) -> None:
        layers = keras.layers
        inputs = keras.Input((16, 16, 3))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(inputs))
        if closing == "nested":
            outputs = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])(x)
        else:
            end = {"Softmax": layers.Softmax(), "Activation": layers.Activation("softmax"), "op": keras.ops.softmax}
            outputs = end[closing](layers.Dense(3)(x))
        model = keras.Model(inputs, outputs)
        model.save(tmp_path / "m.keras")

        host = load(tmp_path / "m.keras", preset="tf")

        pixels = picture(16, 16, 3)
        logits = host.predict(pixels[None])
        with torch.inference_mode():
            expected = model(pixels[None].astype(np.float32) / 127.5 - 1, training=False)
        assert host.info.activation == "softmax"
        assert not host.info.warnings
        assert torch.allclose(logits.softmax(1), expected, atol=1e-6)
        assert not torch.allclose(logits.sum(1), torch.ones(1))

    def test_channels_first_is_told_by_the_file(self, keras: Any, load: Any, tmp_path: Path) -> None:
        layers = keras.layers
        inputs = keras.Input((3, 16, 16))
        x = layers.Conv2D(16, 3, padding="same", activation="relu", data_format="channels_first", name="c")(inputs)
        x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
        keras.Model(inputs, layers.Dense(2)(x)).save(tmp_path / "m.keras")

        layer = load(tmp_path / "m.keras", preset="tf").info.layer("c")

        assert layer.layout is not None
        assert layer.layout.kind == "nchw"
