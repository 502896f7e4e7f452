"""What a request becomes for a model, above all where something was not given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.cam.layers import Layer, LayerCall, Layout
from service.engine.plan import plan
from service.engine.request import Request
from service.errors import InvalidOption, MethodNotApplicable, UnknownColormap, UnknownMethod
from service.imaging.preprocess import PreprocessSpec
from service.models.info import ModelInfo

LAYER = Layer("conv", LayerCall("conv"), "Conv2d", "conv", (4, 7, 7), Layout("nchw", 7, 7), 32, 0, True, True, None)
INFO = ModelInfo(
    name="pets",
    version="1",
    architecture="toy",
    labels=("cat", "dog", "owl"),
    preprocess=PreprocessSpec(),
    layers=(LAYER,),
    default_layer="conv",
    dtype="float32",
    device="cpu",
    parameters=1,
)


def colormap_of(request: Request) -> str:
    render = plan(request, INFO, 64).render
    assert render is not None
    return render.colormap


def test_top_k_is_cut_to_the_classes_unless_it_was_given() -> None:
    assert plan(Request(), INFO, 64).top_k == 3
    assert plan(Request(top_k=2), INFO, 64).top_k == 2
    with pytest.raises(InvalidOption, match="top_k is 5, but model 'pets' has only 3 classes"):
        plan(Request(top_k=5), INFO, 64)


def test_a_map_with_a_sign_has_a_colormap_with_a_middle_unless_another_was_given() -> None:
    assert colormap_of(Request()) == "turbo"
    assert colormap_of(Request(signed=True)) == "coolwarm"
    assert colormap_of(Request(signed=True, colormap="seismic")) == "seismic"
    with pytest.raises(InvalidOption, match="diverging"):
        plan(Request(signed=True, colormap="turbo"), INFO, 64)
    with pytest.raises(UnknownColormap):
        plan(Request(colormap="rainbow"), INFO, 64)


def test_predictions_alone_have_no_use_for_the_options_of_explain() -> None:
    made = plan(Request(op="predict", layers=("nowhere",), methods=("no",), top_k=1), INFO, 64)
    assert (made.lane.op, made.lane.layers, made.render, made.top_k) == ("predict", (), None, 1)


def test_an_unknown_method_is_told_with_the_closest() -> None:
    with pytest.raises(UnknownMethod) as caught:
        plan(Request(methods=("grad-cam",)), INFO, 64)
    assert (caught.value.name, caught.value.suggestions[0]) == ("grad-cam", "gradcam")


def test_a_request_is_a_value() -> None:
    assert Request(targets=("cat",)) == replace(Request(), targets=("cat",))
    assert Request(targets=("cat",)) != Request()


def test_a_method_that_needs_a_gradient_is_refused_where_none_comes() -> None:
    cut = replace(LAYER, name="cut", call=LayerCall("cut"), no_gradient="it is computed under torch.no_grad()")
    info = replace(INFO, layers=(LAYER, cut))
    for free in (Request(layers=("cut",), methods=("eigencam",)), Request(layers=("conv",)), Request(op="predict")):
        plan(free, info, 64)
    with pytest.raises(MethodNotApplicable) as caught:
        plan(Request(layers=("conv", "cut"), methods=("eigencam", "layercam")), info, 64)
    assert caught.value.message == (
        "Method 'layercam' cannot be used at layer 'cut': no gradient reaches it, since it is computed under "
        "torch.no_grad()."
    )
