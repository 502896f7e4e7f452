from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from service.errors import ModelLoadError
from service.models.sources import torchvision_models
from service.models.sources.source import Downloads, LoadedModel, Source
from service.models.sources.table import SOURCES, find_source, name_of
from service.settings import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path


def _never(_config: ModelConfig, _downloads: Downloads) -> LoadedModel:
    raise AssertionError


class TestTable:
    def test_an_unknown_architecture_comes_with_the_closest(self) -> None:
        with pytest.raises(ModelLoadError, match=r"no architecture 'resnet_50'\. Did you mean resnet50 or "):
            find_source("resnet_50")

    def test_closest_are_sought_in_every_source(self) -> None:
        with pytest.raises(ModelLoadError, match=r"no architecture 'Shape'\. Did you mean shapes"):
            find_source("Shape")

    def test_nothing_close(self) -> None:
        with pytest.raises(ModelLoadError, match=r"no architecture 'gpt'\. `camserve models` lists them\."):
            find_source("gpt")

    def test_every_architecture_has_one_source(self) -> None:
        names = [name for source in SOURCES.values() for name in source.architectures()]

        assert len(names) == len(set(names))
        assert {"shapes", "resnet50", "vit_b_16"} <= set(names)
        assert all(name in find_source(name).architectures() for name in names)

    def test_an_artefact_goes_to_the_source_that_reads_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reader = Source("Toys", _never, reads=lambda path: path.suffix == ".toy")
        monkeypatch.setitem(SOURCES, "toys", reader)
        (tmp_path / "net.toy").touch()

        assert find_source(str(tmp_path / "net.toy")) is reader
        assert name_of(reader) == "toys"
        with pytest.raises(ModelLoadError, match="no file"):
            find_source(str(tmp_path / "other.toy.h5"))

    def test_a_source_may_be_forced(self) -> None:
        assert find_source("resnet18", source="python") is SOURCES["python"]
        with pytest.raises(
            ModelLoadError, match=r"no source 'pyton'.* Did you mean python\? There are embedded, torch"
        ):
            find_source("resnet18", source="pyton")

    def test_detection_and_segmentation_models_are_left_out(self) -> None:
        assert not [
            name
            for name in torchvision_models.architectures()
            if re.search(r"rcnn|ssd|retina|fcos|deeplab|raft|r3d", name)
        ]


class TestPaths:
    """A file in place of an architecture is told by its kind, and not looked for on PYTHONPATH."""

    @pytest.fixture(autouse=True)
    def _there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({}, "rn18.pth")
        (tmp_path / "vgg.keras").write_bytes(b"\x89HDF\r\n\x1a\n")
        (tmp_path / "net.onnx").write_bytes(b"\x08\x07:\x10")
        (tmp_path / "mynets.py").touch()
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "config.json").write_text('{"model_type": "vit"}')

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            (
                "rn18.pth",
                r"^rn18\.pth is a PyTorch checkpoint: weights without a network\. .*before it: resnet18:rn18\.pth\.$",
            ),
            ("./rn18.pth", r"before it: resnet18:\./rn18\.pth\.$"),
            ("mynets.py", r"^mynets\.py is Python code\. Name the function in it .*: mynets\.build"),
            ("nowhere.pth", r"no architecture and no file nowhere\.pth"),
            (
                "google/vit-base-patch16-224",
                r"no architecture and no file google/vit-base-patch16-224\. Networks of timm .* hf/NAME",
            ),
            ("vit_tiny_patch16_224", r"There is no architecture .*Networks of timm are named timm/NAME"),
        ],
    )
    def test_what_it_is(self, name: str, reason: str) -> None:
        with pytest.raises(ModelLoadError, match=reason):
            find_source(name)

    @pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])
    @pytest.mark.parametrize(("content", "within"), [(nn.Linear(2, 2), ""), ({"net": nn.Linear(2, 2)}, '["net"]')])
    def test_a_whole_model_comes_with_the_line_that_takes_its_weights(
        self, content: object, within: str, new: bool
    ) -> None:
        torch.save(content, "whole.pth", _use_new_zipfile_serialization=new)

        with pytest.raises(ModelLoadError) as raised:
            find_source("whole.pth")

        loaded = f'torch.load("whole.pth", weights_only=False){within}'
        assert raised.value.message == (
            "whole.pth holds a whole model (torch.nn.modules.linear.Linear), and its code is not run. Take its weights "
            f'where it was trained: torch.save({loaded}.state_dict(), "weights.pth"). Then name its architecture '
            "before them: resnet18:weights.pth."
        )

    def test_a_damaged_checkpoint_is_called_that(self, tmp_path: Path) -> None:
        torch.save({"a": torch.ones(100)}, "cut.pth", _use_new_zipfile_serialization=False)
        (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-50])

        with pytest.raises(ModelLoadError, match=r"cut\.pth is damaged: it is cut off"):
            find_source("cut.pth")

    def test_a_file_of_keras_is_read_by_its_source(self) -> None:
        assert name_of(find_source("vgg.keras")) == "keras"

    def test_the_whole_path_is_no_name(self, tmp_path: Path) -> None:
        """Else the first error would be that the name has a slash."""
        assert ModelConfig.model_validate(f"{tmp_path}/rn18.pth").name == "rn18.pth"
        assert ModelConfig.model_validate("hf/").name == "hf"

    def test_a_folder_of_a_library_goes_to_it(self, tmp_path: Path) -> None:
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "config.json").write_text('{"architecture": "resnet18"}')

        assert (find_source("hf"), find_source("net")) == (SOURCES["hf"], SOURCES["timm"])
        assert (find_source("hf/google/vit"), find_source("timm/resnet18")) == (SOURCES["hf"], SOURCES["timm"])

    def test_a_folder_does_not_hide_an_architecture(self, tmp_path: Path) -> None:
        (tmp_path / "resnet18").mkdir()

        assert find_source("resnet18") is SOURCES["torchvision"]

    def test_a_module_and_a_function_apart_by_a_colon(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)

        assert find_source("mynets", "resnet") is SOURCES["python"]
        assert find_source("mynets", "resnet:w.pth") is SOURCES["python"]
        with pytest.raises(ModelLoadError, match="no architecture 'mynets'"):
            find_source("mynets", "resnet.pth")
