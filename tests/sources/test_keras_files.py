"""Files of Keras that are refused: nothing of them is run, and the words say what to do."""

from __future__ import annotations

import json
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.errors import ModelLoadError
from service.models.loading import load_model
from service.models.sources.keras import import_keras
from service.models.sources.source import Downloads
from service.models.sources.table import find_source, name_of
from service.settings import ModelConfig
from tests.sources.extras import need

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[Any], object]

h5py = need("h5py", "keras")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras on torch, saving


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@pytest.fixture(scope="module")
def model(keras: Any) -> Any:
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="classes")(x))


@pytest.fixture
def good(model: Any, tmp_path: Path) -> Path:
    model.save(tmp_path / "m.keras")
    return tmp_path / "m.keras"


@pytest.fixture
def good_h5(model: Any, tmp_path: Path) -> Path:
    model.save(tmp_path / "m.h5")
    return tmp_path / "m.h5"


def load(path: Path, **options: Any) -> Any:
    config = ModelConfig(architecture=str(path), preset="tf", **options)
    return load_model(config, "cpu", Downloads(path.parent / "cache", allowed=False))


def refusal(path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(path)
    return caught.value.message


def rewritten(path: Path, change: Change, compression: int = zipfile.ZIP_STORED) -> Path:
    """Change the description of a ``.keras`` file in its place."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in members.items():
            new.writestr(name, content)
    return path


def conv(config: Any) -> Any:
    return next(row for row in config["config"]["layers"] if row["config"]["name"] == "conv")


class TestCode:
    @pytest.mark.parametrize(
        ("module", "kind"),
        [
            ("os", "system"),
            ("mypackage.layers", "Attention"),
            (None, "Attention"),
            ("builtins", "exec.x"),
            ("keras.utils", "get_file"),
            ("keras.src.utils.file_utils", "get_file"),
            ("keras_hub.layers", "Attention"),
            ("kerasx.layers", "Dense"),
        ],
    )
    def test_a_class_of_elsewhere(self, module: str | None, kind: str, good: Path) -> None:
        rewritten(good, lambda config: conv(config).update(module=module, class_name=kind))

        assert refusal(good).startswith(f"m.keras holds '{kind}' (Python code), which is not run.")

    @pytest.mark.parametrize("kind", ["Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer"])
    def test_a_layer_that_holds_code(self, kind: str, good: Path) -> None:
        rewritten(good, lambda config: conv(config).update(class_name=kind))

        said = refusal(good)
        assert f"holds a {kind} (Python code), which is not run. Replace it by a layer such as Rescaling" in said

    def test_a_lambda_as_activation(self, good: Path) -> None:
        code = {"class_name": "__lambda__", "config": {"value": ["AAAA", None, None]}}
        rewritten(good, lambda config: conv(config)["config"].update(activation=code))

        assert "holds a lambda (Python code), which is not run" in refusal(good)

    def test_a_function_of_elsewhere(self, good: Path) -> None:
        function = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
        rewritten(good, lambda config: conv(config)["config"].update(activation=function))

        assert "holds 'system' (Python code)" in refusal(good)

    def test_a_function_that_nobody_has(self, good: Path) -> None:
        function = {"module": "builtins", "class_name": "function", "config": "mine", "registered_name": "mine"}
        rewritten(good, lambda config: conv(config)["config"].update(activation=function))

        assert "holds 'mine' (Python code)" in refusal(good)

    def test_real_lambdas(self, keras: Any, tmp_path: Path) -> None:
        inputs = keras.Input((16, 16, 3))
        x = keras.layers.Lambda(lambda images: images / 255, output_shape=(16, 16, 3))(inputs)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
        model = keras.Model(inputs, x)
        for name in ("m.keras", "m.h5"):
            model.save(tmp_path / name)

            assert refusal(tmp_path / name).startswith(f"{name} holds a Lambda (Python code), which is not run.")

    def test_a_custom_class_in_h5(self, good_h5: Path) -> None:
        with h5py.File(good_h5, "r+") as file:
            file.attrs["model_config"] = file.attrs["model_config"].replace("GlobalAveragePooling2D", "Mine")

        assert refusal(good_h5).startswith("m.h5 holds 'Mine' (Python code), which is not run.")

    def test_words_from_other_files_are_not_read(self, good: Path) -> None:
        rewritten(good, lambda config: conv(config).update(class_name="StringLookup"))

        assert "holds a StringLookup" in refusal(good)


class TestOtherFiles:
    def test_of_keras_2(self, good: Path, good_h5: Path) -> None:
        with zipfile.ZipFile(good) as old:
            members = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(good, "w") as new:
            for name, content in (members | {"metadata.json": b'{"keras_version": "2.15.0"}'}).items():
                new.writestr(name, content)
        with h5py.File(good_h5, "r+") as file:
            file.attrs["keras_version"] = "2.15.0"

        for path in (good, good_h5):
            assert refusal(path).startswith(f"{path.name} was saved by Keras 2, which Keras 3 cannot read. Rebuild the")

    def test_weights_alone(self, model: Any, tmp_path: Path) -> None:
        model.save_weights(tmp_path / "m.weights.h5")

        said = refusal(tmp_path / "m.weights.h5")
        assert said == "m.weights.h5 holds weights without a model. Save with model.save('m.keras')."

    def test_a_saved_model(self, tmp_path: Path) -> None:
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "saved_model.pb").write_bytes(b"\x08\x01")

        assert "net is a TensorFlow SavedModel, which has no layers to watch. Save the model as .keras" in refusal(
            tmp_path / "net"
        )

    def test_a_file_of_keras_where_weights_are_meant(self, good: Path) -> None:
        config = ModelConfig(architecture="resnet18", weights=str(good))
        with pytest.raises(ModelLoadError, match=r"name it in place of the architecture, --model NAME=m\.keras"):
            load_model(config, "cpu", Downloads(good.parent, allowed=False))

    @pytest.mark.parametrize("name", ["m", "m.zip", "m.pth"])
    def test_it_is_told_by_its_content(self, name: str, good: Path) -> None:
        path = good.rename(good.parent / name)

        assert name_of(find_source(str(path))) == "keras"
        assert load(path).info.source == "keras"

    def test_several_inputs(self, keras: Any, tmp_path: Path) -> None:
        inputs = [keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")]
        keras.Model(inputs, keras.layers.Flatten()(keras.layers.Add()(inputs))).save(tmp_path / "m.keras")

        assert refusal(tmp_path / "m.keras").startswith("m.keras takes 2 inputs (left, right); a picture is one.")

    def test_no_picture(self, keras: Any, tmp_path: Path) -> None:
        keras.Sequential([keras.Input((10,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")

        assert "takes (10,) per picture; rows, columns and channels are needed" in refusal(tmp_path / "m.keras")

    def test_more_channels_than_pictures_have(self, keras: Any, tmp_path: Path) -> None:
        layers = [keras.Input((8, 8, 65)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(2)]
        keras.Sequential(layers).save(tmp_path / "m.keras")

        assert "takes 65 channels" in refusal(tmp_path / "m.keras")


class TestDamage:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_cut_off(self, share: float, good: Path, good_h5: Path) -> None:
        for path in (good, good_h5):
            path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

            assert any(word in refusal(path) for word in ("cut off", "damaged"))

    def test_a_compressed_bomb(self, good: Path) -> None:
        rewritten(good, lambda config: config.update(junk="0" * 10_000_000), zipfile.ZIP_DEFLATED)

        assert "unpacks to more than its size" in refusal(good)

    def test_a_bomb_within_hdf5(self, good_h5: Path) -> None:
        with h5py.File(good_h5, "r+") as file:
            file.create_dataset("model_weights/bomb", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")

        assert "unpacks to more than its size" in refusal(good_h5)

    @pytest.mark.parametrize("link", [h5py.ExternalLink("/etc/passwd", "/"), h5py.SoftLink("/elsewhere")])
    def test_weights_elsewhere(self, link: Any, good_h5: Path) -> None:
        with h5py.File(good_h5, "r+") as file:
            file["model_weights/more"] = link

        assert "refers to weights outside of it" in refusal(good_h5)

    @pytest.mark.parametrize("units", [10**9, 10**12, 10**18])
    def test_a_layer_larger_than_the_file(self, units: int, good: Path) -> None:
        def grow(config: Any) -> None:
            config["config"]["layers"][-1]["config"]["units"] = units

        assert any(word in refusal(rewritten(good, grow)) for word in ("it is damaged", "cannot be loaded by Keras"))

    def test_a_layer_that_gives_out_too_much(self, good: Path) -> None:
        def grow(config: Any) -> None:
            conv(config).update(
                class_name="ZeroPadding2D",
                config={"name": "conv", "padding": 100_000, "trainable": True, "data_format": "channels_last"},
            )

        assert any(word in refusal(rewritten(good, grow)) for word in ("gives out", "cannot be loaded by Keras"))

    def test_a_description_without_end(self, good: Path) -> None:
        with zipfile.ZipFile(good) as old:
            weights = old.read("model.weights.h5")
        with zipfile.ZipFile(good, "w") as new:
            new.writestr("config.json", "[" * 100_000)
            new.writestr("model.weights.h5", weights)

        assert "damaged" in refusal(good)

    @pytest.mark.parametrize("config", ["[]", "{}", '"text"', '{"class_name": 3, "config": {}}'])
    def test_a_description_of_nothing(self, config: str, good: Path) -> None:
        with zipfile.ZipFile(good, "w") as new:
            new.writestr("config.json", config)
            with h5py.File(good.parent / "w.h5", "w"):
                pass
            new.write(good.parent / "w.h5", "model.weights.h5")

        assert refusal(good).startswith("m.keras ")

    def test_weights_of_another_network(self, good: Path) -> None:
        def grow(config: Any) -> None:
            config["config"]["layers"][-1]["config"]["units"] = 3

        assert refusal(rewritten(good, grow)).startswith("m.keras cannot be loaded by Keras: ")


class TestNames:
    @pytest.mark.parametrize("suffix", [".keras", ".h5"])
    def test_dots_become_underscores(self, suffix: str, good: Path, good_h5: Path) -> None:
        before = shutil.copyfile(good, good.parent / "before.keras")

        def rename(text: str) -> str:
            return text.replace('"conv"', '"conv.1"')

        if suffix == ".keras":
            rewritten(good, lambda config: config.update(json.loads(rename(json.dumps(config)))))
        else:
            with h5py.File(good_h5, "r+") as file:
                file.attrs["model_config"] = rename(file.attrs["model_config"])
        host = load(good if suffix == ".keras" else good_h5)

        assert host.info.layers[0].name == "conv_1"
        pixels = np.arange(768, dtype=np.uint8).reshape(1, 16, 16, 3)
        assert host.predict(pixels).equal(load(before).predict(pixels))
