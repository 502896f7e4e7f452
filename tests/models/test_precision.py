"""What a model computes in: bfloat16 where the device has it and it agrees with float32, which is tried at load."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.imaging.preprocess import PreprocessSpec
from service.models import precision
from service.models.precision import why_not_native

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.models.host import ModelHost
    from tests.models.conftest import LoadToy

CPU = torch.device("cpu")
SPEC = PreprocessSpec(height=24, width=24)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)


class Last(nn.Conv2d):
    """A convolution whose output ``spoil`` may change."""

    spoil: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(super().forward(x))


class Net(nn.Module):
    """Two convolutions, of which ``spoil`` may change what they give out."""

    def __init__(self, spoil: Callable[[Tensor], Tensor] = lambda x: x, read: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.last = Last(8, 16, 3, 2, 1)
        self.last.spoil = spoil
        self.head = nn.Linear(16, 4)
        self.register_buffer("one", torch.ones(1))
        self.read = read or (lambda net, x: net.head(x.relu().mean((2, 3))))

    def forward(self, x: Tensor) -> object:
        return self.read(self, self.last(self.stem(x)) * self.one)


def in_bfloat16(spoil: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: spoil(x) if x.dtype == torch.bfloat16 else x


def _mixing(x: Tensor) -> Tensor:
    return torch.eye(x.shape[3], dtype=x.dtype) * 1.001


def turned(x: Tensor) -> Tensor:
    return x.flip(2)


def raises(x: Tensor) -> Tensor:
    raise RuntimeError("not implemented for 'BFloat16'")


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on every machine."""
    monkeypatch.setattr(precision, "why_not_native", lambda _device: None)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "why_not_native", lambda _device: "The CPU here has it not.")


def codes(host: ModelHost) -> list[str]:
    return [warning.code for warning in host.info.warnings if warning.code == "precision_refused"]


class TestTaken:
    @pytest.mark.parametrize("asked", ["auto", "bfloat16"])
    def test_where_it_agrees(self, asked: str, load_toy: LoadToy) -> None:
        host = load_toy(Net(), SPEC, precision=asked)

        assert host.info.dtype == "bfloat16"
        assert host.normalise(PIXELS).dtype == torch.bfloat16
        choice = host.info.precision
        assert (choice.asked, choice.refused, choice.reason, host.info.warnings) == (asked, None, None, ())
        assert choice.check is not None
        assert (choice.check.pictures, choice.check.method) == (24, "gradcam")
        assert 0.995 < (choice.check.correlation or 0) < 1
        assert 0 < choice.check.logits_apart < 0.05

    def test_two_workers_decide_alike(self, load_toy: LoadToy) -> None:
        one, other = (load_toy(Net(), SPEC, precision="auto") for _ in range(2))

        assert one.info.precision == other.info.precision
        assert one.info.digest == other.info.digest

    def test_answers_are_those_of_bfloat16(self, load_toy: LoadToy) -> None:
        full, tried = load_toy(Net(), SPEC), load_toy(Net(), SPEC, precision="auto")

        apart = (full.predict(PIXELS) - tried.predict(PIXELS)).abs().max()
        assert 0 < float(apart) < 0.02
        assert full.info.digest != tried.info.digest

    def test_no_weight_stays_in_float32(self, load_toy: LoadToy) -> None:
        net = Net()
        assert load_toy(net, SPEC, precision="auto").info.memory < load_toy(Net(), SPEC).info.memory
        assert {weight.dtype for weight in net.state_dict().values() if weight.is_floating_point()} == {torch.bfloat16}


class TestHardware:
    @pytest.mark.usefixtures("emulated")
    def test_auto_needs_it(self, load_toy: LoadToy) -> None:
        seen: set[torch.dtype] = set()

        def note(x: Tensor) -> Tensor:
            seen.add(x.dtype)
            return x

        host = load_toy(Net(note), SPEC, precision="auto")

        assert host.info.dtype == "float32"
        assert seen == {torch.float32}, "bfloat16 was not even tried"
        assert (host.info.precision.refused, host.info.precision.reason) == ("hardware", "The CPU here has it not.")
        assert codes(host) == []
        assert host.info.digest == load_toy(Net(note), SPEC).info.digest

    @pytest.mark.usefixtures("emulated")
    def test_whoever_asks_for_bfloat16_need_not_have_it_but_is_told(self, load_toy: LoadToy) -> None:
        info = load_toy(Net(), SPEC, precision="bfloat16").info

        assert (info.dtype, info.precision.refused) == ("bfloat16", None)
        (warning,) = info.warnings
        assert warning.code == "precision_emulated"
        assert "may take several times as long as float32 here. The CPU here has it not. Set precision=auto" in (
            warning.text
        )

    @pytest.mark.usefixtures("emulated")
    def test_what_was_refused_is_not_told_to_be_slow(self, load_toy: LoadToy) -> None:
        host = load_toy(Net(in_bfloat16(turned)), SPEC, precision="bfloat16")

        assert [warning.code for warning in host.info.warnings] == ["precision_refused"]

    @pytest.mark.parametrize(
        ("known", "native"),
        [
            ({"avx512_bf16": True}, True),
            ({"amx_bf16": True, "avx512_bf16": False}, True),
            ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
            ({"architecture": "aarch64"}, False),
        ],
    )
    def test_of_a_cpu(self, known: dict[str, Any], native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)

        assert (why_not_native(CPU) is None) == native

    def test_of_a_cpu_of_another_kind_nothing_is_claimed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"}, raising=False)

        assert why_not_native(CPU) == "It is not known whether the CPU here computes bfloat16 by itself."

    def test_of_a_cpu_that_an_older_pytorch_does_not_tell_of(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)

        assert "as far as PyTorch tells" in (why_not_native(CPU) or "")

    @pytest.mark.parametrize("native", [True, False])
    def test_of_a_gpu(self, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        def supported(*, including_emulation: bool = True) -> bool:
            return native or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)

        assert (why_not_native(torch.device("cuda:1")) is None) == native

    def test_of_others_nothing_is_known(self) -> None:
        assert "not known" in (why_not_native(torch.device("mps")) or "")


class TestRefused:
    """Networks that compute something else where they compute in bfloat16."""

    @pytest.mark.parametrize(
        ("spoil", "refused", "words"),
        [
            (turned, "check", "The check of bfloat16 failed: maps correlate to "),
            (lambda x: x * 3, "check", "The check of bfloat16 failed: logits differ by "),
            (raises, "failed", "cannot be computed in bfloat16: "),
        ],
        ids=["maps", "logits", "raises"],
    )
    def test_poisoned(self, spoil: Any, refused: str, words: str, load_toy: LoadToy) -> None:
        full = load_toy(Net(), SPEC)

        host = load_toy(Net(in_bfloat16(spoil)), SPEC, precision="auto")

        assert (host.info.dtype, host.info.precision.refused) == ("float32", refused)
        assert words in (host.info.precision.reason or "")
        assert (host.info.precision.check is not None) == (refused == "check")
        assert codes(host) == [], "auto is content with either"
        assert torch.equal(host.predict(PIXELS), full.predict(PIXELS)), "the weights are float32's, to the last bit"
        assert (host.info.digest, host.info.memory) == (full.info.digest, full.info.memory)

    def test_the_warning_says_what_to_do(self, load_toy: LoadToy) -> None:
        (warning,) = load_toy(Net(in_bfloat16(turned)), SPEC, precision="bfloat16").info.warnings

        assert warning.text.startswith("It computes in float32, though bfloat16 was asked for. The check")
        assert warning.text.endswith("Set precision=float32.")

    def test_of_several_heads_each_must_agree(self, load_toy: LoadToy) -> None:
        def read(net: Net, x: Tensor) -> dict[str, Tensor]:
            logits = net.head(x.relu().mean((2, 3)))
            return {"sound": logits, "spoiled": logits * (3 if x.dtype == torch.bfloat16 else 1)}

        sound = load_toy(Net(read=lambda net, x: {"a": net.head(x.relu().mean((2, 3)))}), SPEC, precision="auto")
        host = load_toy(Net(read=read), SPEC, precision="auto")

        assert sound.info.dtype == "bfloat16"
        assert (host.info.dtype, host.info.precision.refused) == ("float32", "check")

    def test_weights_that_are_shared_are_put_back(self, load_toy: LoadToy) -> None:
        def net(spoil: Callable[[Tensor], Tensor]) -> Net:
            made = Net(spoil)
            made.add_module("again", made.head)
            made.register_buffer("also", made.get_buffer("one"))
            made.read = lambda net, x: net.head(x.relu().mean((2, 3))) + net.again(x.mean((2, 3))) * net.also
            return made

        full, host = load_toy(net(lambda x: x), SPEC), load_toy(net(in_bfloat16(turned)), SPEC, precision="auto")

        assert host.info.dtype == "float32"
        assert torch.equal(host.predict(PIXELS), full.predict(PIXELS))

    def test_tables_that_the_first_pass_makes_are_made_again(self, load_toy: LoadToy) -> None:
        def read(net: Any, x: Tensor) -> Tensor:
            if not hasattr(net, "own"):
                net.own = _mixing(x)
                net.register_buffer("registered", _mixing(x), persistent=False)
            by_width = net.tables.setdefault(x.shape[3], _mixing(x))
            logits: Tensor = net.head((x @ net.own @ net.registered @ by_width).relu().mean((2, 3)))
            return logits

        def net(spoil: Callable[[Tensor], Tensor]) -> Net:
            made = Net(spoil, read)
            made.tables = {}  # type: ignore[assignment]
            return made

        full, host = load_toy(net(lambda x: x), SPEC), load_toy(net(in_bfloat16(turned)), SPEC, precision="auto")

        assert (host.info.dtype, host.info.precision.refused) == ("float32", "check")
        assert torch.equal(host.predict(PIXELS), full.predict(PIXELS))

    @pytest.mark.parametrize("asked", ["float32", "bfloat16"])
    def test_complex_numbers_stay_complex(self, asked: str, load_toy: LoadToy) -> None:
        def read(net: Net, x: Tensor) -> Tensor:
            turned_on = x.mean((2, 3)).float() * net.get_buffer("turns")
            logits: Tensor = net.head((turned_on.real - turned_on.imag).to(x.dtype))
            return logits

        net = Net(read=read)
        net.register_buffer("turns", torch.polar(torch.ones(16), torch.arange(16.0)))
        pictures = torch.randn(2, 3, 24, 24)
        with torch.no_grad():
            expected = net.eval()(pictures)

        host = load_toy(net, SPEC, precision=asked)

        apart = host.network(None).predict(pictures.to(net.head.weight.dtype)) - expected
        assert (host.info.dtype, net.get_buffer("turns").dtype) == (asked, torch.complex64)
        assert float(apart.abs().max()) < (1e-5 if asked == "float32" else 0.02)

    def test_one_output_of_two_classes(self, load_toy: LoadToy) -> None:
        def read(net: Net, x: Tensor) -> Tensor:
            logits: Tensor = net.head(x.relu().mean((2, 3)))
            return logits[:, :1]

        assert load_toy(Net(read=read), SPEC, precision="auto").info.dtype == "bfloat16"
        spoiled = load_toy(Net(in_bfloat16(turned), read=read), SPEC, precision="auto")
        assert spoiled.info.precision.refused == "check"


class TestWithoutGradCam:
    @staticmethod
    def cut(net: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = net.head(x.relu().mean((2, 3)))
        return found

    def test_maps_without_gradients_are_compared(self, load_toy: LoadToy) -> None:
        host = load_toy(Net(read=self.cut), SPEC, precision="auto")

        assert "gradcam" in host.info.refused_methods
        assert (host.info.dtype, host.info.precision.check.method) == ("bfloat16", "activation")  # type: ignore[union-attr]

    def test_and_refused_where_they_differ(self, load_toy: LoadToy) -> None:
        net = Net(read=self.cut)
        spoiled = Last(8, 8, 1)
        spoiled.spoil = in_bfloat16(turned)
        net.stem.append(spoiled)  # no gradient reaches a later one

        host = load_toy(net, SPEC, precision="auto")

        assert (host.info.dtype, host.info.precision.refused) == ("float32", "check")

    def test_gradients_of_zero_say_nothing(self, load_toy: LoadToy) -> None:
        host = load_toy(
            Net(read=lambda net, x: net.head((x * 1000).round().relu().mean((2, 3)))), SPEC, precision="auto"
        )

        assert host.info.precision.check is not None
        assert host.info.precision.check.method == "activation"


class TestNothingToChoose:
    def test_float32_is_the_default(self, load_toy: LoadToy) -> None:
        choice = load_toy(Net(), SPEC).info.precision

        assert (choice.asked, choice.refused, choice.reason, choice.check) == ("float32", None, None, None)

    def test_float16_is_not_checked(self, load_toy: LoadToy) -> None:
        host = load_toy(Net(), SPEC, precision="float16")

        assert (host.info.dtype, host.info.precision.check) == ("float16", None)

    @pytest.mark.parametrize(("fixed", "refused"), [("float32", "source"), ("bfloat16", None)])
    def test_an_artefact_that_has_a_precision_of_its_own(
        self, fixed: str, refused: str | None, load_toy: LoadToy
    ) -> None:
        host = load_toy(Net(), SPEC, precision="auto", said={"precision": fixed})

        assert (host.info.dtype, host.info.precision.refused) == (fixed, refused)
        assert host.info.precision.reason == f"The model computes in {fixed}, as its file says."
        assert host.info.precision.check is None
