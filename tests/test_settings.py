from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

import service
from service.model_config import _say_that_it_is_old
from service.settings import ModelConfig, Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("CAMSERVE_"):
            monkeypatch.delenv(name)


def model(text: str) -> ModelConfig:
    return ModelConfig.model_validate(text)


def reasons(caught: pytest.ExceptionInfo[ValidationError]) -> dict[str, str]:
    return {".".join(map(str, problem["loc"])): problem["msg"] for problem in caught.value.errors()}


class TestModelGrammar:
    def test_everything_at_once(self) -> None:
        birds = model(
            "birds=mobilenet_v3_small:birds.safetensors,labels=birds.txt,mean=0.5,size=128,precision=bfloat16"
        )

        assert birds == ModelConfig(
            name="birds",
            architecture="mobilenet_v3_small",
            weights="birds.safetensors",
            labels=Path("birds.txt"),
            mean=(0.5, 0.5, 0.5),
            size=128,
            precision="bfloat16",
        )

    @pytest.mark.parametrize(
        ("text", "name", "architecture", "weights"),
        [
            ("resnet50", "resnet50", "resnet50", None),
            ("birds=resnet50", "birds", "resnet50", None),
            ("resnet50:w.pth", "resnet50", "resnet50", "w.pth"),
            ("birds=resnet50:IMAGENET1K_V1", "birds", "resnet50", "IMAGENET1K_V1"),
            ("=resnet50", "resnet50", "resnet50", None),
            ("resnet50:", "resnet50", "resnet50", None),
            ("birds=resnet50:/runs/lr=0.1/w.pth", "birds", "resnet50", "/runs/lr=0.1/w.pth"),
            ("resnet50:/runs/lr=0.1/w.pth", "resnet50", "resnet50", "/runs/lr=0.1/w.pth"),
            (r"resnet50:C:\w.pth", "resnet50", "resnet50", r"C:\w.pth"),
            ("vgg=./vgg16.keras", "vgg", "./vgg16.keras", None),
            ("./vgg16.keras", "vgg16.keras", "./vgg16.keras", None),
            ("food=./my-vit-folder", "food", "./my-vit-folder", None),
            ("/runs/lr=0.1/vgg.keras", "vgg.keras", "/runs/lr=0.1/vgg.keras", None),
            ("vgg=/runs/lr=0.1/vgg.keras", "vgg", "/runs/lr=0.1/vgg.keras", None),
            ("birds=timm/resnet18:birds.safetensors", "birds", "timm/resnet18", "birds.safetensors"),
            ("hf/google/vit-base-patch16-224", "vit-base-patch16-224", "hf/google/vit-base-patch16-224", None),
        ],
    )
    def test_head(self, text: str, name: str, architecture: str, weights: str | None) -> None:
        parsed = model(text)

        assert (parsed.name, parsed.architecture, parsed.weights) == (name, architecture, weights)

    def test_options_may_stand_apart_and_hold_equal_signs(self) -> None:
        parsed = model("shapes, version=2024=a , layer=layer3")

        assert (parsed.version, parsed.layer) == ("2024=a", "layer3")

    @pytest.mark.parametrize(
        "text",
        [
            'mine=nets.build,factory_args={"classes": 7, "widths": [8, 16], "name": "a,b"},size=64',
            "mine=nets.build,factory_args.classes=7,factory_args.widths=[8],size=64,factory_args.name=a",
        ],
    )
    def test_arguments_of_a_function(self, text: str) -> None:
        parsed = model(text)

        assert parsed.factory_args["classes"] == 7
        assert parsed.factory_args["widths"][0] == 8
        assert parsed.factory_args["name"][0] == "a"
        assert parsed.size == 64

    def test_what_forces_a_source_and_a_scale(self) -> None:
        parsed = model("./net.bin,source=timm,scale=1")

        assert (parsed.source, parsed.scale) == ("timm", 1.0)

    def test_labels_may_be_given_per_head(self) -> None:
        parsed = model("mine=nets.two,labels.colour=colours.txt,labels.side=sides.txt,head=side")

        assert parsed.labels == {"colour": Path("colours.txt"), "side": Path("sides.txt")}
        assert parsed.head == "side"

    @pytest.mark.parametrize(
        ("value", "channels"),
        [
            ("0.5", (0.5, 0.5, 0.5)),
            ("0.485/0.456/0.406", (0.485, 0.456, 0.406)),
            (0, (0.0, 0.0, 0.0)),
            ([0.1, 0.2, 0.3], (0.1, 0.2, 0.3)),
            ([0.5], (0.5, 0.5, 0.5)),
        ],
    )
    def test_channels(self, value: Any, channels: tuple[float, ...]) -> None:
        assert ModelConfig(architecture="shapes", mean=value, std=value).mean == channels
        assert ModelConfig(architecture="shapes", mean=value, std=value).std == channels

    @pytest.mark.parametrize(
        ("text", "where", "why"),
        [
            ("shapes,layer", "", "model option 'layer' must look like key=value"),
            ("shapes,", "", "model option '' must look like key=value"),
            ("shapes,lables=birds.txt", "lables", "Extra inputs are not permitted"),
            ("shapes,mean=1/2", "", "mean must be one number, or one for each of 3 channels, not 2"),
            ("shapes,channels=4,std=1/2", "", "std must be one number, or one for each of 4 channels, not 2"),
            ("shapes,mean=red", "mean", "valid number"),
            ("shapes,size=big", "size", "valid integer"),
            ("shapes,size=7", "size", "greater than or equal to 8"),
            ("shapes,size=4097", "size", "less than or equal to 4096"),
            ("shapes,resize=0", "resize", "greater than or equal to 1"),
            ("shapes,mode=stretch", "mode", "'crop', 'squash' or 'pad'"),
            ("shapes,interpolation=lanczos", "interpolation", "'nearest', 'bilinear', 'plain_bilinear' or 'bicubic'"),
            ("shapes,precision=int8", "precision", "'float32', 'bfloat16' or 'float16'"),
            ("shapes,precision=float16,dtype=float16", "dtype", "Extra inputs are not permitted"),
            ("shapes,activation=tanh", "activation", "'softmax', 'sigmoid' or 'none'"),
            ("shapes,order=GRB", "order", "'RGB' or 'BGR'"),
            ("shapes,factory_args=7", "factory_args", "valid dictionary"),
            ("shapes,factory_args={classes: 7}", "factory_args", 'must be a JSON object, such as {"classes": 7}'),
            ("shapes,scale=0", "scale", "greater than 0"),
            ("shapes,scale=255", "scale", "less than or equal to 1"),
            ("shapes,channels=0", "channels", "greater than or equal to 1"),
            ("shapes,size=64,height=32", "", "size is height and width in one: give size alone, or height and width"),
            ("shapes,labels=a.txt,labels.side=b.txt", "labels.side", "Extra inputs are not permitted"),
        ],
    )
    def test_mistakes_are_named(self, text: str, where: str, why: str) -> None:
        with pytest.raises(ValidationError) as caught:
            model(text)

        assert any(place.startswith(where) and why in reason for place, reason in reasons(caught).items())

    def test_the_old_name_of_an_option_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        _say_that_it_is_old.cache_clear()

        assert model("shapes,dtype=float16").precision == "float16"
        assert ModelConfig.model_validate({"architecture": "shapes", "dtype": "bfloat16"}).precision == "bfloat16"

        (line,) = caplog.messages
        assert "write precision" in line

    def test_a_precision_may_be_left_to_the_service(self) -> None:
        assert model("shapes,precision=auto").precision == "auto"
        assert model("shapes").precision == "float32"

    @pytest.mark.parametrize("name", ["resnet50", "a.b_c-1", "7", "x" * 100])
    def test_good_names(self, name: str) -> None:
        assert ModelConfig(name=name, architecture="shapes").name == name

    @pytest.mark.parametrize("name", ["a b", "a/b", "../shapes", "-a", ".a", "_a", "ä", "a\n", "a:b", "x" * 101])
    def test_names_that_would_not_fit_into_a_url(self, name: str) -> None:
        with pytest.raises(ValidationError, match="may hold letters, digits"):
            ModelConfig(name=name, architecture="shapes")

    def test_nothing_is_no_model(self) -> None:
        with pytest.raises(ValidationError):
            model("")


class TestFile:
    def write(self, folder: Path, text: str) -> Path:
        file = folder / "camserve.toml"
        file.write_text(text)
        return file

    def test_models_and_settings(self, tmp_path: Path) -> None:
        file = self.write(
            tmp_path,
            """
            port = 9000
            allow_download = false

            [[models]]
            name = "birds"
            architecture = "mobilenet_v3_small"
            weights = "birds.safetensors"
            mean = [0.1, 0.2, 0.3]

            [[models]]
            architecture = "shapes"
            """,
        )

        settings = load_settings(file)

        assert (settings.port, settings.allow_download) == (9000, False)
        assert [entry.name for entry in settings.models] == ["birds", "shapes"]
        assert settings.models[0].mean == (0.1, 0.2, 0.3)

    def test_models_may_be_written_as_on_the_command_line(self, tmp_path: Path) -> None:
        settings = load_settings(self.write(tmp_path, 'models = ["birds=resnet18:w.pth,size=64", "shapes"]'))

        assert settings.models == (model("birds=resnet18:w.pth,size=64"), model("shapes"))

    def test_paths_are_relative_to_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / "birds.pth").touch()
        (tmp_path / "birds.txt").touch()
        monkeypatch.chdir("/")

        (birds,) = load_settings(
            self.write(tmp_path, 'models = ["birds=resnet18:weights/birds.pth,labels=birds.txt"]')
        ).models

        assert birds.weights == str(tmp_path / "weights" / "birds.pth")
        assert birds.labels == tmp_path / "birds.txt"

    def test_an_artefact_is_looked_for_beside_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "vit").mkdir()
        (tmp_path / "vgg.keras").touch()
        (tmp_path / "resnet18").mkdir()
        monkeypatch.chdir("/")

        text = 'models = ["./vit", "vgg.keras", "resnet18", "tests.nets.build"]'
        vit, vgg, resnet, own = load_settings(self.write(tmp_path, text)).models

        assert (vit.architecture, vgg.architecture) == (str(tmp_path / "vit"), str(tmp_path / "vgg.keras"))
        assert (resnet.architecture, own.architecture) == ("resnet18", "tests.nets.build")

    def test_what_is_no_file_beside_it_is_left_alone(self, tmp_path: Path) -> None:
        (birds,) = load_settings(self.write(tmp_path, 'models = ["resnet18:random,labels=/srv/birds.txt"]')).models

        assert (birds.weights, birds.labels) == ("random", Path("/srv/birds.txt"))

    def test_each_heads_labels_are_looked_for_beside_it(self, tmp_path: Path) -> None:
        (tmp_path / "colours.txt").touch()
        text = """
            [[models]]
            architecture = "nets.two"
            labels = { colour = "colours.txt", side = "/srv/sides.txt" }
            """

        (two,) = load_settings(self.write(tmp_path, text)).models

        assert two.labels == {"colour": tmp_path / "colours.txt", "side": Path("/srv/sides.txt")}

    @pytest.mark.parametrize("source", ["argument", "environment"])
    def test_models_from_elsewhere_are_not_relative_to_the_file(
        self, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "birds.pth").touch()
        file = self.write(tmp_path, "port = 9000")
        overrides: dict[str, Any] = {}
        if source == "argument":
            overrides = {"models": ["resnet18:birds.pth"]}
        else:
            monkeypatch.setenv("CAMSERVE_MODELS", "resnet18:birds.pth")

        settings = load_settings(file, **overrides)

        assert settings.port == 9000
        assert settings.models[0].weights == "birds.pth"

    def test_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"there is no settings file .*nowhere\.toml"):
            load_settings(tmp_path / "nowhere.toml")

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("prot = 9000", "prot"),
            ("[server]\nport = 9000", "server"),
            ('[[models]]\narchitecture = "shapes"\nlabel = "x"', "models.0.label"),
            ("[[models]]\nname = 'a'", "models.0.architecture"),
            ("port = 'http'", "port"),
            ("models = []", "models"),
        ],
    )
    def test_mistakes_are_placed(self, text: str, place: str, tmp_path: Path) -> None:
        with pytest.raises(ValidationError) as caught:
            load_settings(self.write(tmp_path, text))

        assert list(reasons(caught)) == [place]


class TestPrecedence:
    @pytest.mark.parametrize(
        ("argument", "environment", "in_file", "port"),
        [
            (None, None, None, 8000),
            (None, None, 3, 3),
            (None, 2, None, 2),
            (None, 2, 3, 2),
            (1, None, 3, 1),
            (1, 2, 3, 1),
            (1, 2, None, 1),
        ],
    )
    def test_argument_then_environment_then_file_then_default(
        self,
        argument: int | None,
        environment: int | None,
        in_file: int | None,
        port: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        file = None
        if environment is not None:
            monkeypatch.setenv("CAMSERVE_PORT", str(environment))
        if in_file is not None:
            file = tmp_path / "camserve.toml"
            file.write_text(f"port = {in_file}")

        settings = load_settings(file, **({} if argument is None else {"port": argument}))

        assert settings.port == port

    def test_every_setting_falls_through_on_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "camserve.toml").write_text("port = 3\nworkers = 3\nmax_queue = 3")
        monkeypatch.setenv("CAMSERVE_PORT", "2")
        monkeypatch.setenv("CAMSERVE_WORKERS", "2")

        settings = load_settings(tmp_path / "camserve.toml", port=1)

        assert (settings.port, settings.workers, settings.max_queue, settings.concurrency) == (1, 2, 3, 2)

    def test_models_in_the_environment_stand_apart_by_white_space(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CAMSERVE_MODELS", " birds=resnet18:w.pth,mean=0.5\n  shapes ")

        assert Settings().models == (model("birds=resnet18:w.pth,mean=0.5"), model("shapes"))

    def test_values_in_the_environment_are_read_as_their_types(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CAMSERVE_ALLOW_DOWNLOAD", "false")
        monkeypatch.setenv("CAMSERVE_REQUEST_TIMEOUT_S", "2.5")
        monkeypatch.setenv("CAMSERVE_CACHE_DIR", "/srv/weights")

        settings = Settings()

        assert settings.allow_download is False
        assert settings.request_timeout_s == 2.5
        assert settings.cache_dir == Path("/srv/weights")

    def test_other_variables_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        defaults = Settings()
        monkeypatch.setenv("PORT", "1")
        monkeypatch.setenv("CAMSERVE_TESTS_IMAGENET", "/srv")

        assert Settings() == defaults

    def test_weights_are_cached_where_the_desktop_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/srv/cache")
        assert Settings().cache_dir == Path("/srv/cache/camserve")

        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", "/home/ada")
        assert Settings().cache_dir == Path("/home/ada/.cache/camserve")


class TestValues:
    def test_the_default_serves_the_embedded_models_to_this_machine_only(self) -> None:
        settings = Settings()

        assert [entry.name for entry in settings.models] == ["shapes", "shapes-shortcut"]
        assert settings.host == "127.0.0.1"

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
            load_settings(prot=9000)

    def test_names_of_models_are_unique(self) -> None:
        with pytest.raises(ValidationError, match="two models have the same name: a, b, a"):
            load_settings(models=["a=resnet18", "b=resnet18", "a=resnet50"])

    def test_there_is_at_least_one_model(self) -> None:
        with pytest.raises(ValidationError, match="there must be at least one model"):
            load_settings(models=[])

    def test_one_architecture_may_be_served_twice(self) -> None:
        assert len(load_settings(models=["a=resnet18:a.pth", "resnet18"]).models) == 2

    @pytest.mark.parametrize(
        ("name", "lowest", "highest"),
        [
            ("port", 0, 65535),
            ("workers", 1, 64),
            ("threads", 0, 1024),
            ("concurrency", 1, 16),
            ("max_batch_size", 1, 1024),
            ("max_batch_pixels", 1024, None),
            ("max_queue", 1, 100_000),
            ("max_body_bytes", 1024, None),
            ("max_image_bytes", 1024, None),
            ("max_image_pixels", 1, None),
            ("max_image_frames", 1, None),
            ("max_images", 1, 1024),
            ("max_explanations", 1, 10_000),
            ("decode_threads", 0, 256),
            ("drain_timeout_s", 0, None),
        ],
    )
    def test_bounds(self, name: str, lowest: int, highest: int | None) -> None:
        for value in [lowest] if highest is None else [lowest, highest]:
            assert getattr(load_settings(None, **{name: value}), name) == value
        for value in [lowest - 1] if highest is None else [lowest - 1, highest + 1]:
            with pytest.raises(ValidationError) as caught:
                load_settings(None, **{name: value})
            assert list(reasons(caught)) == [name]

    @pytest.mark.parametrize("value", [0, -1, 3601, "nan", "soon"])
    def test_a_deadline_is_positive_and_at_most_an_hour(self, value: Any) -> None:
        with pytest.raises(ValidationError, match="request_timeout_s"):
            load_settings(request_timeout_s=value)

    @pytest.mark.parametrize("mirror", ["https://mirror.example/models", "http://10.0.0.7/", "file:///srv/models"])
    def test_a_mirror(self, mirror: str) -> None:
        assert load_settings(weights_mirror=mirror).weights_mirror == mirror

    @pytest.mark.parametrize("mirror", ["mirror.example/models", "/srv/models", "", "javascript:alert(1)"])
    def test_a_mirror_is_a_url(self, mirror: str) -> None:
        with pytest.raises(ValidationError, match="weights_mirror"):
            load_settings(weights_mirror=mirror)

    @pytest.mark.parametrize("host", ["minio", "minio:9000", "10.0.0.7:9000", "[fd00::7]:9000", "my_store.local"])
    def test_a_storage_is_a_host(self, host: str) -> None:
        assert load_settings(label_studio_storage=f"{host} other").label_studio_storage == (host, "other")

    @pytest.mark.parametrize(
        "host", ["http://minio:9000", "minio:9000/photos", "minio:", "minio:999999", "a@minio", "fd00::7", "*", ""]
    )
    def test_a_storage_is_nothing_else(self, host: str) -> None:
        with pytest.raises(ValidationError, match="label_studio_storage"):
            load_settings(label_studio_storage=[host])

    def test_log_levels_are_names(self) -> None:
        with pytest.raises(ValidationError, match="log_level"):
            load_settings(log_level="loud")

    @pytest.mark.parametrize("value", [Settings(), model("shapes")], ids=["settings", "a model"])
    def test_nothing_changes_after_the_start(self, value: Settings | ModelConfig) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            value.models = ()  # type: ignore[misc,union-attr]

    @pytest.mark.parametrize("kind", [Settings, ModelConfig])
    def test_every_field_is_described(self, kind: type[Settings] | type[ModelConfig]) -> None:
        assert [name for name, field in kind.model_fields.items() if not field.description] == []


class TestMisspeltVariables:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("CAMSERVE_PROT", "did you mean CAMSERVE_PORT"),
            ("camserve_max_que", "did you mean CAMSERVE_MAX_QUEUE"),
            ("CAMSERVE_MODEL", "did you mean CAMSERVE_MODELS"),
            ("CAMSERVE_", "--help"),
            ("CAMSERVE_XYZZY", "--help"),
            ("CAMSERVE_SERVICE_HOST", "enableServiceLinks"),
            ("CAMSERVE_PORT_8000_TCP_ADDR", "enableServiceLinks"),
        ],
    )
    def test_they_are_refused(self, name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "hush")

        with pytest.raises(ValidationError) as caught:
            load_settings()

        assert list(reasons(caught)) == [name]
        assert hint in reasons(caught)[name]
        assert "hush" not in str(caught.value), "it may be a secret"

    def test_all_are_named_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CAMSERVE_PROT", "1")
        monkeypatch.setenv("CAMSERVE_HOTS", "a")

        with pytest.raises(ValidationError) as caught:
            load_settings()

        assert set(reasons(caught)) == {"CAMSERVE_PROT", "CAMSERVE_HOTS"}

    @pytest.mark.parametrize("name", ["CAMSERVE_THREADS", "camserve_threads", "CAMSERVE_TESTS_IMAGENET", "CAMSERVER"])
    def test_others_are_not(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "1")

        load_settings()


def readings(tree: ast.AST) -> Iterator[str]:
    """Every mention of the environment in a module."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names:
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (alias.name for alias in node.names if alias.name in names)


class TestEnvironment:
    def test_only_the_settings_read_it(self) -> None:
        root = Path(service.__file__).parent
        readers = {
            file.relative_to(root).as_posix()
            for file in root.rglob("*.py")
            if any(readings(ast.parse(file.read_text(encoding="utf-8"))))
        }

        assert readers == {"settings.py"}

    @pytest.mark.parametrize(
        "text", ["import os\nos.environ['A']", "from os import environ", "import os as o\no.getenv('A')"]
    )
    def test_the_scan_sees_every_way(self, text: str) -> None:
        assert list(readings(ast.parse(text)))
