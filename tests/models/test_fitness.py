"""What a model is fit for is found out when it is loaded, and the reason given is the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from service.cam.methods import METHODS
from service.cam.targets import Targets
from service.errors import LayerNotExplainable, MethodNotApplicable, ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.fitness import in_eval_mode
from service.models.host import HowTo
from service.models.quantisation import naming_quantisation, quantised_layers
from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.models.host import ModelHost
    from tests.models.conftest import LoadToy

SPEC = PreprocessSpec(height=32, width=32)
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
WITHOUT_GRADIENT = [name for name, row in METHODS.items() if not row.needs_gradients and row.refusal is None]


class Net(nn.Module):
    """A body and, behind it, a convolution and a linear head; ``compute`` is the forward pass."""

    def __init__(self, compute: Callable[[Net, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.last = nn.Conv2d(8, 8, 3, 1, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)
        self.compute = compute or Net.all

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)

    def all(self, x: Tensor) -> Tensor:
        return self.behind(self.body(x))

    def behind(self, features: Tensor) -> Tensor:
        return self.pooled(self.last(features).relu())

    def pooled(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x * 2


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(_ctx: object, *_gradients: Tensor) -> Tensor:
        raise ValueError("not written yet")


def custom(function: type[torch.autograd.Function]) -> Callable[[Net, Tensor], Tensor]:
    return lambda net, x: net.pooled(function.apply(net.body(x)))  # type: ignore[no-untyped-call]


def in_place(net: Net, x: Tensor) -> Tensor:
    features = functional.relu(net.body(x), inplace=True)
    features += net.last(features)
    return net.pooled(features)


def reentrant(net: Net, x: Tensor) -> Tensor:
    return net.pooled(checkpoint(torch.sin, net.body(x), use_reentrant=True))


def without_gradients(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.all(x)


def in_inference_mode(net: Net, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return net.all(x)


def through_numpy(net: Net, x: Tensor) -> Tensor:
    pooled = net.body(x).mean((2, 3)).detach().numpy()
    logits: Tensor = net.head(torch.from_numpy(pooled))
    return logits


@pytest.mark.parametrize(
    ("compute", "cause"),
    [
        (custom(NoBackward), "no gradient can be computed: a torch.autograd.Function of the model has no backward()"),
        (custom(BadBackward), "no gradient can be computed: ValueError: not written yet"),
        (in_place, "no gradient can be computed: the model changes in place what the backward pass needs"),
        (reentrant, "no gradient can be computed: the model uses torch.utils.checkpoint with use_reentrant=True"),
        (without_gradients, "no gradient reaches layer 'last', since the network computes it under torch.no_grad()"),
        (
            in_inference_mode,
            "no gradient reaches layer 'last', since the network computes it under torch.inference_mode()",
        ),
        (lambda net, x: net.all(x).detach(), "no gradient reaches layer 'last', since what it gives out is cut"),
        (through_numpy, "no gradient reaches layer 'body', since what it gives out is cut from the graph behind it"),
    ],
    ids=[
        "no backward", "backward raises", "in place", "reentrant checkpoint", "no_grad", "inference_mode", "detached",
        "NumPy",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # of reentrant checkpoints
class TestNetworksWithoutGradient:
    def test_methods_that_need_one_are_refused_with_the_cause(
        self, compute: Callable[[Net, Tensor], Tensor], cause: str, load_toy: LoadToy
    ) -> None:
        info = load_toy(Net(compute), SPEC).info
        refused = {name: info.refused_methods.get(name) for name, row in METHODS.items() if row.needs_gradients}
        refused.pop("legrad")  # has a reason of its own
        assert None not in refused.values()
        assert all(reason is not None and reason.startswith(cause) for reason in refused.values())
        (warning,) = [warning for warning in info.warnings if warning.code == "not_differentiable"]
        assert cause in warning.text
        assert warning.text.endswith("Ask for eigencam or scorecam or ablationcam or activation by 'method'.")

    def test_all_else_is_served(self, compute: Callable[[Net, Tensor], Tensor], cause: str, load_toy: LoadToy) -> None:
        del cause
        host = load_toy(Net(compute), SPEC)
        assert set(WITHOUT_GRADIENT).isdisjoint(host.info.refused_methods)
        assert host.predict(PICTURE).shape == (1, 3)
        (answer,) = host.explain(PICTURE, [Targets((0,))], HowTo((host.info.default_layer,), tuple(WITHOUT_GRADIENT)))
        assert all(raw.values.any() for raw in answer.maps if raw.method in {"eigencam", "activation"})


def body_without_gradients(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        features = net.body(x)
    return net.behind(features)


class TestNetworksInPart:
    """A gradient down to some layer, and none below."""

    @pytest.mark.parametrize(
        ("compute", "reached"),
        [(body_without_gradients, ["body.3", "body"]), (lambda net, x: net.behind(net.body(x).detach()), [])],
        ids=["no_grad", "detached"],
    )
    def test_layers_behind_a_cut_are_explained_and_those_before_it_say_why_not(
        self, compute: Callable[[Net, Tensor], Tensor], reached: list[str], load_toy: LoadToy
    ) -> None:
        host, whole = load_toy(Net(compute), SPEC), load_toy(Net(), SPEC)
        assert host.info.default_layer == "last"
        assert not host.info.layer("last").note
        assert not host.info.warnings
        for layer in host.info.layers[:5]:
            assert (layer.no_gradient is None) == (layer.name in reached), layer.name
        for name in ["last", *reached]:
            (found,), (expected,) = (
                each.explain(PICTURE, [Targets((1,))], HowTo((name,), ("gradcam",))) for each in (host, whole)
            )
            torch.testing.assert_close(found.maps[0].values, expected.maps[0].values)
        assert "torch.no_grad() and .detach()" in host.info.refused_methods["fullgrad"]

    def test_what_cannot_be_differentiated_early_is_said(self, load_toy: LoadToy) -> None:
        host = load_toy(Net(lambda net, x: net.behind(net.body[3](NoBackward.apply(net.body[:3](x))))), SPEC)  # type: ignore[no-untyped-call]
        (warning,) = host.info.warnings
        assert warning.code == "partly_differentiable"
        assert warning.text.startswith("Early layers, as 'body.0', cannot be explained by methods that need a gradient")
        assert list(host.info.refused_methods) == ["fullgrad", "attention_rollout", "legrad"]
        host.explain(PICTURE, [Targets((1,))], HowTo(("last",), ("gradcam",)))
        with pytest.raises(MethodNotApplicable, match=r"has no backward\(\)"):
            host.explain(PICTURE, [Targets((1,))], HowTo(("body.0",), ("gradcam",)))

    def test_a_layer_inside_a_checkpoint_says_so(self, load_toy: LoadToy) -> None:
        host = load_toy(Net(lambda net, x: net.behind(checkpoint(net.body, x, use_reentrant=False))), SPEC)
        assert host.info.default_layer == "last"
        with pytest.raises(MethodNotApplicable, match=r"lies inside a torch\.utils\.checkpoint"):
            host.explain(PICTURE, [Targets((1,))], HowTo(("body.0",), ("gradcam",)))


class TestNoFalseAlarm:
    def check(self, host: ModelHost, *codes: str) -> None:
        assert list(host.info.refused_methods) == ["attention_rollout", "legrad"]
        found = [warning.code for warning in host.info.warnings]
        assert tuple(code for code in found if code != "precision_emulated") == codes, "that one is the machine's"

    def test_a_sound_network(self, load_toy: LoadToy) -> None:
        self.check(load_toy(Net(), SPEC))

    def test_a_head_of_zeros(self, load_toy: LoadToy) -> None:
        net = Net()
        nn.init.zeros_(net.head.weight)
        nn.init.zeros_(net.head.bias)
        self.check(load_toy(net, SPEC), "constant")

    def test_a_network_that_writes_into_its_input(self, load_toy: LoadToy) -> None:
        self.check(load_toy(Net(lambda net, x: net.all(x.mul_(2))), SPEC))

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_half_precision(self, precision: str, load_toy: LoadToy) -> None:
        self.check(load_toy(Net(), SPEC, precision=precision))


def test_a_transformer_in_half_precision_keeps_its_methods(load_toy: LoadToy) -> None:
    """What its attention gives when it is differentiated differs by bfloat16's rounding, not by float32's."""
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=5
    )
    nn.init.normal_(vit.heads[0].weight)

    assert not load_toy(vit, SPEC, precision="bfloat16").info.refused_methods


def test_a_default_layer_without_gradient_says_nothing_of_other_layers(load_toy: LoadToy) -> None:
    info = load_toy(Net(body_without_gradients), SPEC, layer="body.0").info

    assert info.layer("default").no_gradient is not None
    assert info.layer("last").no_gradient is None
    assert "gradcam" not in info.refused_methods


def test_what_is_computed_without_a_gradient_and_thrown_away_is_off_the_way(load_toy: LoadToy) -> None:
    def compute(net: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            net.last(net.body(x))
        return net.pooled(net.body(x))

    with pytest.raises(LayerNotExplainable, match="not on the way to the logits"):
        load_toy(Net(compute), SPEC).info.layer("last")


def test_a_gradient_that_is_zero_where_the_logits_change_is_warned_of(load_toy: LoadToy) -> None:
    host = load_toy(Net(lambda net, x: net.pooled((net.body(x) * 20).round())), SPEC)
    (warning,) = host.info.warnings
    assert warning.code == "zero_gradient"
    assert warning.text.startswith("The logits change with layer 'body', and yet their gradient is zero all over it")


class QuantAct(nn.Module):
    """Rounds, as a quantised layer does."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 20).round() / 20


class Quantised(Net):
    """Rounds behind its body, by a layer that is called so."""

    def __init__(self) -> None:
        super().__init__(lambda net, x: net.pooled(self.act(net.body(x))))
        self.act = QuantAct()


def test_a_quantised_layer_is_named_as_what_takes_the_gradient(load_toy: LoadToy) -> None:
    (warning,) = load_toy(Quantised(), SPEC, layer="body").info.warnings

    assert warning.code == "zero_gradient"
    assert "Its layer 'act' is quantised (tests.models.test_fitness.QuantAct)" in warning.text
    assert warning.text.endswith("Serve the network as it was before it was quantised.")
    assert "rounding" not in warning.text


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_layer_that_pytorch_quantised_is_named(load_toy: LoadToy) -> None:
    with pytest.warns(DeprecationWarning, match="quantization"):
        quantised = torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear})  # type: ignore[no-untyped-call]
    (warning,) = load_toy(quantised, SPEC).info.warnings

    assert warning.code == "zero_gradient"
    assert "Its layer 'head' is quantised (torch.ao.nn.quantized.dynamic.modules.linear.Linear)" in warning.text


def test_whatever_a_quantised_network_raises_has_that_for_its_reason() -> None:
    with (
        pytest.raises(ModelLoadError, match=r"^The model cannot be explained\. Its layer 'act' is quantised"),
        naming_quantisation(Quantised()),
    ):
        raise RuntimeError("Creation of quantized tensor requires quantized dtype like torch.quint8")
    with (
        pytest.raises(ModelLoadError, match=r"^Rows differ\. Its layer 'act' is quantised"),
        naming_quantisation(Quantised()),
    ):
        raise ModelLoadError("Rows differ.")
    with pytest.raises(RuntimeError, match="another"), naming_quantisation(Net()):
        raise RuntimeError("another")


def test_layers_that_only_wait_to_be_quantised_are_not(load_toy: LoadToy) -> None:
    net = Net()
    net.add_module("stub", torch.ao.quantization.QuantStub())
    net.add_module("block", type("QuantizableBlock", (nn.Identity,), {})())

    assert load_toy(net, SPEC).info.warnings == ()
    assert quantised_layers(net) == ""


class OtherWithGradients(Net):
    """Computes something else where a graph is recorded."""

    def forward(self, x: Tensor) -> Tensor:
        return self.all(x) + int(torch.is_grad_enabled())


def test_a_method_that_changes_the_logits_is_refused(load_toy: LoadToy) -> None:
    refused = load_toy(OtherWithGradients(), SPEC).info.refused_methods
    assert refused["gradcam"] == "the network gives other logits than its own when it is computed for this"
    assert "eigencam" not in refused


# Chance and rows


def active(net: Net, x: Tensor) -> Tensor:
    net.drop.train()
    return net.head(net.drop(net.body(x).mean((2, 3))))  # type: ignore[no-any-return]


class Remembers(Net):
    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.all(x) * self.passes


class Normalises(Net):
    """Keeps a batch normalisation in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        self.norm.train()
        return self.behind(self.norm(self.body(x)))

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Net(lambda net, x: net.head(functional.dropout(net.body(x).mean((2, 3))))), "random numbers: dropout .*mode$"),
        (Net(active), r"random numbers: dropout .* In training mode in spite of eval\(\): drop \(Dropout\)\.$"),
        (Net(lambda net, x: net.all(x + torch.randn_like(x))), "because it draws random numbers"),
        (Remembers(), "and not by random numbers .*: what it keeps from one pass to the next"),
        (Normalises(), r"with the other pictures in the batch.* In training mode .*: norm \(BatchNorm2d\)\.$"),
    ],
    ids=["functional dropout", "dropout in training mode", "noise", "a state", "batch statistics"],
)
def test_an_answer_that_does_not_stand_has_its_true_cause(module: nn.Module, reason: str, load_toy: LoadToy) -> None:
    with pytest.raises(ModelLoadError, match=reason.replace("mode$", r"mode\.$")):
        load_toy(module, SPEC)


# Modules that are none


# Making it is deprecated; having it is not.
making_torchscript = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@making_torchscript
def test_torchscript_is_refused_with_the_way_out(load_toy: LoadToy) -> None:
    for module in (torch.jit.trace(Net(), torch.zeros(1, 3, 32, 32)), torch.jit.script(Net().body)):  # type: ignore[no-untyped-call]
        with pytest.raises(
            ModelLoadError, match=r"is TorchScript .*: its layers cannot be watched\. Return the module"
        ):
            load_toy(module, SPEC)


def test_an_exported_program_is_refused_with_the_way_out(load_toy: LoadToy) -> None:
    program = torch.export.export(Net().eval(), (torch.zeros(2, 3, 32, 32),))
    with pytest.raises(ModelLoadError, match=r"return torch\.export\.unflatten\(program\)"):
        load_toy(program.module(), SPEC)


@making_torchscript
def test_a_part_in_torchscript_is_left_out_of_the_catalogue(load_toy: LoadToy) -> None:
    net = Net()
    net.body = torch.jit.trace(net.body.eval(), torch.zeros(2, 3, 32, 32))  # type: ignore[no-untyped-call]
    info = load_toy(net, SPEC).info
    assert info.default_layer == "last"
    assert next(layer for layer in info.layers if layer.name == "body").note == (
        "it is TorchScript, whose layers cannot be watched"
    )


@making_torchscript
def test_a_model_of_torchscript_inside_is_refused_with_that_reason(load_toy: LoadToy) -> None:
    net = Net(lambda net, x: net.head(net.body(x).mean((2, 3))))
    net.body = torch.jit.trace(net.body.eval(), torch.zeros(2, 3, 32, 32))  # type: ignore[no-untyped-call]
    with pytest.raises(ModelLoadError, match="Its part 'body' is TorchScript, whose layers cannot be watched"):
        load_toy(net, SPEC)


def test_a_train_that_returns_nothing_is_enough(load_toy: LoadToy) -> None:
    """Recipes that freeze BatchNorm write their own, and forget to return the model."""

    class Frozen(Net):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(mode)
            self.body.eval()

    assert load_toy(Frozen(), SPEC).info.default_layer == "last"


def test_weights_without_a_size_are_refused(load_toy: LoadToy) -> None:
    net = Net()
    net.head = nn.LazyLinear(3)
    with pytest.raises(ModelLoadError, match=r"size is not known yet, head\.weight, head\.bias: .* Run the model once"):
        load_toy(net, SPEC)


def test_weights_without_values_are_refused(load_toy: LoadToy) -> None:
    with torch.device("meta"):
        net = Net()
    with pytest.raises(ModelLoadError, match=r"on PyTorch's device meta: body\.0\.weight, .* fill it with to_empty"):
        load_toy(net, SPEC)


def test_weights_that_are_not_finite_are_named(load_toy: LoadToy) -> None:
    net = Net()
    nn.init.constant_(net.head.bias, float("nan"))
    with pytest.raises(
        ModelLoadError, match=r"not finite .* So are its weights: head\.bias\. Did the training diverge"
    ):
        load_toy(net, SPEC)


@pytest.mark.parametrize("seed", [2, 4, 8])
def test_a_coin_that_is_tossed_at_every_pass_is_chance(seed: int, load_toy: LoadToy) -> None:
    """With these seeds it falls on one side twice: as if the pictures beside a picture changed its answer."""
    flips = Net(lambda net, x: net.all(x if torch.rand(()) < 0.5 else x.flip(3)))
    torch.manual_seed(seed)
    with pytest.raises(ModelLoadError, match="draws random numbers"):
        load_toy(flips, SPEC)


def test_wrappers_come_off() -> None:
    net = Net()
    net.body = nn.DataParallel(net.body)  # type: ignore[assignment]
    net.last.compile(backend="eager")
    bare = in_eval_mode(nn.DataParallel(net))
    assert bare is net
    assert isinstance(net.body, nn.Sequential)
    assert net.last._compiled_call_impl is None
    assert isinstance(in_eval_mode(torch.compile(Net(), backend="eager")), Net)  # type: ignore[arg-type]


def test_a_backward_hook_in_the_way_is_named(load_toy: LoadToy) -> None:
    net = Net()
    net.body[1] = nn.ReLU(inplace=True)
    net.body[0].register_full_backward_hook(lambda *_: None)
    with pytest.raises(ModelLoadError, match=r"cannot be run with gradients: .* take the hook off"):
        load_toy(net, SPEC)
