"""What may be loaded because somebody asks for it over HTTP."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from service.engine.permitted import _JUDGED, _may_be_path, _never_paths, permitted
from service.errors import PathNotAllowed, SourceNotAllowed
from service.model_config import NoPath
from service.settings import ModelConfig, Settings

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is listed, in one that is not, which is the working directory."""
    (tmp_path / "models").mkdir()
    for name in ("models/birds.pth", "models/birds.txt", "models/vgg.keras", "secret.pth", "secret"):
        (tmp_path / name).write_text("x")
    (tmp_path / "models" / "link.pth").symlink_to(tmp_path / "secret.pth")
    (tmp_path / "models" / "round.pth").symlink_to(tmp_path / "models" / "round.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def allowed(folder: Path | None, **fields: Any) -> ModelConfig:
    folders = () if folder is None else (folder,)
    settings = Settings(model_dirs=folders, management_modules=("nets", "pkg.nets"))
    return permitted(ModelConfig.model_validate({"name": "m", "architecture": "resnet18", **fields}), settings)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"weights": "IMAGENET1K_V1"},
        {"weights": "random"},
        {"architecture": "nets.build"},
        {"architecture": "nets:build"},
        {"architecture": "pkg.nets.build"},
        {"architecture": "timm/vit_base_patch16_224.augreg_in1k"},
        {"architecture": "timm/resnet18:a1_in1k"},
        {"architecture": "hf/google/vit-base-patch16-224"},
    ],
)
def test_names_stay_as_they_are(folder: Path, fields: dict[str, str]) -> None:
    config = allowed(folder, **fields)
    assert (config.architecture, config.weights) == (fields.get("architecture", "resnet18"), fields.get("weights"))


def test_files_in_listed_folders_become_whole_paths(folder: Path) -> None:
    config = allowed(folder, weights="birds.pth", labels="birds.txt")
    assert (config.weights, config.labels) == (str(folder / "birds.pth"), folder / "birds.txt")
    assert allowed(folder, weights=str(folder / "birds.pth")).weights == str(folder / "birds.pth")
    assert allowed(folder, architecture="vgg.keras").architecture == str(folder / "vgg.keras")
    assert allowed(folder, architecture="timm/resnet18:birds.pth").architecture == f"timm/resnet18:{folder}/birds.pth"
    assert allowed(folder, weights="to-come.pth").weights == str(folder / "to-come.pth")
    assert permitted(config, Settings(model_dirs=(folder,))) == config


OUTSIDE = [
    "/etc/passwd",
    "../secret.pth",
    "secret",
    "link.pth",
    "round.pth",
    "birds.pth/../../secret.pth",
    ".",
    "",
    "~/x.pth",
    "https://x.example/a.pth",
    "file:///etc/passwd",
    "a\0b",
    "x" * 5000,
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("key", ["weights", "labels", "heads"])
def test_files_elsewhere_are_refused_whether_or_not_they_exist(folder: Path, path: str, key: str) -> None:
    fields = {"labels": {"fine": path}} if key == "heads" else {key: path}
    if path in {"secret", "~/x.pth"} and key != "weights":
        return  # labels are always files: this one would lie in the folder
    if path == "~/x.pth":
        return
    with pytest.raises(PathNotAllowed):
        allowed(folder, **fields)
    with pytest.raises(PathNotAllowed):
        allowed(None, **fields)


@pytest.mark.parametrize(
    "architecture",
    [
        "/etc/passwd",
        "../secret.pth",
        "secret",
        "link.pth",
        "hf//etc",
        "hf/../secret",
        "timm/../../x:birds.pth",
        "timm/resnet18:/etc/passwd",
        "timm/resnet18:secret",
        "https://x.example/a.onnx",
    ],
)
def test_artefacts_elsewhere_are_refused(folder: Path, architecture: str) -> None:
    with pytest.raises(PathNotAllowed):
        allowed(folder, architecture=architecture)


@pytest.mark.parametrize(
    "architecture",
    ["os.system", "subprocess:run", "pkg.build", "nets.sub.build", "netsx.build", "pkg.nets.sub:build", "nets.build.x"],
)
def test_code_of_other_modules_is_refused(folder: Path, architecture: str) -> None:
    with pytest.raises(SourceNotAllowed, match="management_modules"):
        allowed(folder, architecture=architecture)


def test_a_name_that_is_forced_to_be_code_and_is_none(folder: Path) -> None:
    with pytest.raises(SourceNotAllowed, match="'resnet18' names no function of a module"):
        allowed(folder, source="python")


@pytest.mark.parametrize("weights", ["build", "build:birds.pth"])
@pytest.mark.parametrize("module", ["os", "json", "mine"])
def test_a_module_and_its_function_are_code_also_when_they_stand_apart(folder: Path, module: str, weights: str) -> None:
    (folder.parent / "mine.py").write_text("def build(): ...")
    (folder.parent / "nets.py").write_text("def build(): ...")
    with pytest.raises((SourceNotAllowed, PathNotAllowed)):
        allowed(folder, architecture=module, weights=weights)
    if weights == "build":
        with pytest.raises(SourceNotAllowed, match="management_modules"):
            allowed(folder, architecture=module, weights=weights)
        assert allowed(folder, architecture="nets", weights=weights).architecture == "nets"


@pytest.mark.parametrize(
    "architecture", ["nets.build()", "nets..build", ".build", "nets.build;x", "nets:a:b", "nets/x.py", "os.keras"]
)
def test_what_is_neither_a_name_nor_a_function_is_never_code(folder: Path, architecture: str) -> None:
    with contextlib.suppress(PathNotAllowed, SourceNotAllowed):
        config = allowed(folder, architecture=architecture)
        assert config.architecture.startswith(f"{folder}/"), "a file, which is not there"


# -- arguments of functions -------------------------------------------------------------------------------------------


def test_arguments_are_data_and_files_among_them_lie_in_listed_folders(folder: Path) -> None:
    given = {"depth": 18, "kind": "small", "ratio": 0.5, "files": ["birds.pth", {"labels": "birds.txt"}], "none": None}
    assert allowed(folder, architecture="nets.build", factory_args=given).factory_args == {
        **given,
        "files": [str(folder / "birds.pth"), {"labels": str(folder / "birds.txt")}],
    }


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../secret.pth", "secret", "link.pth", "https://x.example/a", "a\0b", ".."],
)
@pytest.mark.parametrize("wrap", [lambda path: path, lambda path: [path], lambda path: {"a": {"b": [path]}}])
def test_files_elsewhere_are_no_arguments(folder: Path, path: str, wrap: Callable[[str], Any]) -> None:
    for architecture in ("nets.build", "timm/resnet18"):
        with pytest.raises(PathNotAllowed):
            allowed(folder, architecture=architecture, factory_args={"checkpoint_path": wrap(path)})


# -- fields that are still to come ------------------------------------------------------------------------------------


def test_a_field_is_a_path_unless_its_type_says_otherwise() -> None:
    assert {name for name in ModelConfig.model_fields if name not in _JUDGED} == {"labels"}
    assert not {"architecture", "weights", "factory_args", "labels"} & _never_paths()
    annotation: Any
    for annotation in (str, Path, str | None, list[str], dict[str, Path] | None, Annotated[str, "a mark"], Any):
        assert _may_be_path(annotation)
    for annotation in (int, bool | None, Literal["a"], Annotated[str, NoPath()] | None, tuple[float, ...]):
        assert not _may_be_path(annotation)


def test_a_field_that_somebody_adds_is_judged_without_being_listed(folder: Path) -> None:
    class Later(ModelConfig):
        tokenizer: str | None = None
        parts: tuple[Path, ...] = ()

    inside = Later(name="m", architecture="resnet18", tokenizer="birds.txt", parts=(Path("birds.pth"),))
    found = permitted(inside, Settings(model_dirs=(folder,)))
    assert isinstance(found, Later)
    assert (found.tokenizer, found.parts) == (str(folder / "birds.txt"), (folder / "birds.pth",))
    for fields in ({"tokenizer": "/etc/passwd"}, {"tokenizer": "en"}, {"parts": [Path("/etc/passwd")]}):
        config = Later.model_validate({"name": "m", "architecture": "resnet18", **fields})
        if fields == {"tokenizer": "en"}:
            assert permitted(config, Settings(model_dirs=(folder,))).tokenizer == str(folder / "en")  # type: ignore[attr-defined]
            continue
        with pytest.raises(PathNotAllowed):
            permitted(config, Settings(model_dirs=(folder,)))
