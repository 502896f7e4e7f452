from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from service.cam.layers import Layer, LayerCall, Layout
from service.errors import ModelLoadError
from service.models.defaults import FAMILIES, default_layer
from service.models.loading import load_model
from service.models.sources.source import Downloads
from service.settings import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path


class TestSmallInputs:
    @pytest.mark.parametrize(("size", "layer"), [(64, "layer4"), (32, "layer3"), (16, "layer2"), (8, "layer1")])
    def test_an_earlier_layer_serves_where_the_last_is_a_single_cell(
        self, size: int, layer: str, tmp_path: Path
    ) -> None:
        config = ModelConfig(architecture="resnet18", weights="random", size=size)
        info = load_model(config, "cpu", Downloads(tmp_path, allowed=False)).info

        assert info.default_layer == layer
        assert info.layer("default").shape[1:] == (2, 2)


def layer(name: str, *, refused: str | None = None, branch: bool = False) -> Layer:
    note = refused or ("inside a branch" if branch else None)
    layout = Layout("nchw", 7, 7)
    return Layer(name, LayerCall(name), "Conv2d", "conv", (4, 7, 7), layout, 32, 0, note is None, refused is None, note)


class TestRules:
    def test_the_last_match_in_forward_order_wins(self) -> None:
        layers = [layer(f"encoder.layers.encoder_layer_{i}.ln_1") for i in (8, 9, 10, 11)]

        assert default_layer("vit_b_16", [*layers, layer("encoder.ln")]) == "encoder.layers.encoder_layer_11.ln_1"

    def test_a_pattern_is_the_whole_name(self) -> None:
        assert default_layer("resnet18", [layer("layer4"), layer("layer4.1.conv2"), layer("x.layer4")]) == "layer4"

    def test_a_branch_that_the_family_names_is_taken(self) -> None:
        layers = [layer("encoder.layers.encoder_layer_0.ln_1", branch=True), layer("encoder.dropout")]

        assert default_layer("vit_b_16", layers) == "encoder.layers.encoder_layer_0.ln_1"

    def test_a_layer_on_every_path_serves_where_the_familys_is_refused(self) -> None:
        layers = [
            layer("layer2"),
            layer("layer3"),
            layer("layer4.0.conv1", branch=True),
            layer("layer4", refused="1×1"),
        ]

        assert default_layer("resnet18", layers) == "layer3"

    def test_a_layer_on_every_path_serves_an_unknown_family(self) -> None:
        assert default_layer("mine", [layer("a"), layer("b"), layer("b.left", branch=True)]) == "b"

    def test_a_branch_is_better_than_nothing(self) -> None:
        assert default_layer("mine", [layer("left", branch=True), layer("pool", refused="1×1")]) == "left"

    def test_what_lies_on_every_path_in_the_first_half_is_too_early(self) -> None:
        late = [layer(name, branch=True) for name in ("b", "b.1", "c", "c.1")]

        assert default_layer("mine", [layer("a"), *late]) == "c.1"
        assert default_layer("mine", [layer("a"), layer("a.1"), layer("a.2"), *late[:2]]) == "a.2"

    def test_of_late_branches_a_layer_that_only_projects_is_not_taken(self) -> None:
        late = [layer("norm", branch=True), replace(layer("qkv", branch=True), kind="linear")]

        assert default_layer("mine", [layer("a"), layer("b", branch=True), *late]) == "norm"

    def test_a_layer_with_a_gradient_is_better_than_a_later_one_without(self) -> None:
        cut = replace(layer("b"), no_gradient="detached")

        assert default_layer("mine", [layer("a"), cut]) == "a"
        assert default_layer("mine", [replace(layer("a"), no_gradient="detached"), cut]) == "b"

    def test_where_all_grids_are_refused_the_reason_is_told(self) -> None:
        with pytest.raises(ModelLoadError, match=r"its last layer with rows and columns, 'pool', is refused: 1×1\.$"):
            default_layer("mine", [layer("head", refused="flat"), layer("pool", refused="1×1")])

    def test_the_longest_family_name_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(FAMILIES, "resnetx", "stage9")

        assert default_layer("resnetx18", [layer("stage9"), layer("layer4")]) == "stage9"
        assert default_layer("resnet18", [layer("stage9"), layer("layer4")]) == "layer4"

    @pytest.mark.parametrize("layers", [[], [layer("pool", refused="1×1")]], ids=["none at all", "all refused"])
    def test_nothing_to_explain(self, layers: list[Layer]) -> None:
        with pytest.raises(ModelLoadError, match="cannot be explained"):
            default_layer("resnet18", layers)
