from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from service.cam import capture
from service.cam.methods import METHODS
from service.cam.targets import CamOptions, Targets, Top
from service.errors import LayerNotExplainable, ModelLoadError, UnknownLayer
from service.imaging.preprocess import PreprocessSpec
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sources import embedded
from service.models.sources.source import Downloads
from service.settings import ModelConfig
from service.vocabulary import Precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from service.cam.explain import Explained
    from service.models.host import ModelHost
    from tests.models.conftest import LoadToy

PREDICTED = Targets((Top(1),))


class MeanColour(nn.Module):
    """Logit c is the mean of the normalised channel c."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.AvgPool2d(1)  # gives out what comes in
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.pool(self.pixels(x)).flatten(1))

    def after(self, logits: Tensor) -> Tensor:
        return logits


def plain(*colours: tuple[int, int, int], side: int = 8) -> NDArray[np.uint8]:
    """One image per colour, (N, side, side, 3)."""
    return np.stack([np.full((side, side, 3), colour, dtype=np.uint8) for colour in colours])


class TestNumbers:
    def test_pixels_are_normalised_per_channel(self, load_toy: LoadToy) -> None:
        toy = load_toy(MeanColour(), mean=(0.5, 0.2, 0.25), std=(0.25, 0.4, 0.5))

        logits = toy.predict(plain((255, 51, 0), (0, 255, 102)))

        # Red of the first: 255 is 1, less its mean 0.5 is 0.5, over its deviation 0.25 is 2. And so on.
        expected = [[2.0, 0.0, -0.5], [-2.0, 2.0, 0.3]]
        assert logits.dtype == torch.float32
        np.testing.assert_allclose(logits.numpy(), expected, atol=1e-6)

    def test_the_sources_own_normalisation_holds_where_nothing_is_configured(self, load_toy: LoadToy) -> None:
        spec = PreprocessSpec(height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.125))

        logits = load_toy(MeanColour(), spec).predict(plain((255, 255, 0)))

        np.testing.assert_allclose(logits.numpy(), [[1.0, 2.0, -4.0]], atol=1e-6)

    def test_a_map_has_its_image_the_right_way_up(self, load_toy: LoadToy) -> None:
        toy = load_toy(MeanColour(), mean=0, std=1)
        pixels = plain((0, 0, 0))
        pixels[0, 2, 5, 1] = 255

        (answer,) = toy.explain(pixels, [Targets((1, 0))], HowTo(("pixels",), ("gradcam",)))

        # d mean / d pixel = 1/64 everywhere, so the one green pixel of value 1 weighs 1/64; there is no red one.
        expected = np.zeros((2, 8, 8))
        expected[0, 2, 5] = 1 / 64
        np.testing.assert_allclose(np.stack([raw.values for raw in answer.maps]), expected, atol=1e-8)
        assert [raw.target for raw in answer.maps] == [1, 0]

    def test_prediction_and_explanation_agree(self, load_toy: LoadToy) -> None:
        toy, pixels = load_toy(MeanColour()), plain((10, 200, 30), (90, 80, 70))

        answers = toy.explain(pixels, [PREDICTED] * 2, HowTo(("pixels",), ("gradcam",)))

        assert torch.equal(torch.stack([answer.logits for answer in answers]), toy.predict(pixels))


class TestPreprocessing:
    SOURCE = PreprocessSpec(mode="crop", height=8, width=8, resize=10, interpolation="bilinear")

    @pytest.mark.parametrize(
        ("configured", "expected"),
        [
            ({}, {}),
            ({"size": 16}, {"height": 16, "width": 16, "resize": 20}),
            ({"size": 9}, {"height": 9, "width": 9, "resize": 11}),  # 9 · 10 / 8 = 11.25
            ({"resize": 12}, {"resize": 12}),
            ({"size": 16, "resize": 16}, {"height": 16, "width": 16, "resize": 16}),
            ({"mode": "squash"}, {"mode": "squash", "resize": None}),
            ({"mode": "pad", "size": 12}, {"mode": "pad", "height": 12, "width": 12, "resize": None}),
            ({"interpolation": "bicubic"}, {"interpolation": "bicubic"}),
            ({"mean": 0.5, "std": "0.1/0.2/0.3"}, {"mean": (0.5, 0.5, 0.5), "std": (0.1, 0.2, 0.3)}),
        ],
        ids=str,
    )
    def test_what_is_configured_wins_over_the_source(
        self, configured: dict[str, Any], expected: dict[str, Any], load_toy: LoadToy
    ) -> None:
        spec = load_toy(MeanColour(), self.SOURCE, **configured).info.preprocess

        unchanged = {"mode": "crop", "height": 8, "width": 8, "resize": 10, "interpolation": "bilinear"}
        assert spec == PreprocessSpec(**{**unchanged, **expected})

    def test_a_new_size_leaves_a_crop_without_resize_alone(self, load_toy: LoadToy) -> None:
        spec = load_toy(MeanColour(), PreprocessSpec(height=8, width=8), size=16).info.preprocess

        assert (spec.height, spec.width, spec.resize) == (16, 16, None)

    def test_the_layers_are_those_of_the_configured_size(self, load_toy: LoadToy) -> None:
        assert load_toy(MeanColour(), self.SOURCE, size=16).info.layer("pixels").shape == (3, 16, 16)

    @pytest.mark.parametrize(
        ("configured", "reason"), [({"std": 0}, "std must be positive"), ({"mean": "nan"}, "mean must be finite")]
    )
    def test_the_impossible_is_refused(self, configured: dict[str, Any], reason: str, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match=f"'odd' has impossible preprocessing: {reason}"):
            load_toy(MeanColour(), name="odd", **configured)


class Centred(MeanColour):
    """Mixes rows: subtracts the batch's mean."""

    def after(self, logits: Tensor) -> Tensor:
        return logits - logits.mean(0)


class ByPosition(MeanColour):
    """The answer depends on the place in the batch."""

    def after(self, logits: Tensor) -> Tensor:
        return logits + torch.arange(len(logits))[:, None]


class BatchStatistics(nn.Sequential):
    """A batch normalisation without running statistics normalises over the batch in eval mode too."""

    def __init__(self) -> None:
        super().__init__(nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Raises(MeanColour):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def after(self, logits: Tensor) -> Tensor:
        del logits
        raise self.error


class Returns(MeanColour):
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def after(self, logits: Tensor) -> Tensor:
        return self.change(logits)  # type: ignore[no-any-return]  # anything is what this toy is for


class TestRefusing:
    @pytest.mark.parametrize("module", [Centred(), ByPosition(), BatchStatistics()], ids=lambda m: type(m).__name__)
    def test_rows_that_depend_on_each_other(self, module: nn.Module, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match=r"changes with the other pictures in the batch.*normalisation over"):
            load_toy(module)

    def test_a_batch_normalisation_with_running_statistics_is_fine(self, load_toy: LoadToy) -> None:
        module = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        assert load_toy(module.train()).info.labels == ("class 0", "class 1", "class 2")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (
                RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand a page more"),
                "mat1 and mat2 .* multiplied$",
            ),
            (AssertionError("Wrong image height! Expected 224 but got 8!"), "Wrong image height! Expected 224"),
            (ValueError("Input size must be divisible"), "Input size must be divisible"),
            (AssertionError(), "AssertionError$"),
        ],
        ids=["RuntimeError", "AssertionError", "ValueError", "without a message"],
    )
    def test_a_model_that_cannot_compute_its_input(self, error: Exception, reason: str, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match=rf"^The model cannot compute a picture of 8×8 pixels: {reason}"):
            load_toy(Raises(error))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda logits: {"out": logits[:, :, None]}, r"logits of shape \(batch, classes\); it returned dict"),
            (lambda logits: logits[:, :, None, None], r"it returned \(2, 3, 1, 1\)"),
            (lambda logits: logits.sum(0, keepdim=True), r"it returned \(1, 3\)"),
            (lambda logits: logits / 0, "not finite"),
        ],
        ids=["a dict", "a grid", "one row for all", "infinite"],
    )
    def test_a_model_that_gives_no_logits(
        self, change: Callable[[Tensor], Any], reason: str, load_toy: LoadToy
    ) -> None:
        with pytest.raises(ModelLoadError, match=reason):
            load_toy(Returns(change))

    def test_a_model_without_rows_and_columns(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="No layer of this model has an output with rows and columns"):
            load_toy(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)))


class TestDefaultLayer:
    def module(self) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def test_is_the_last_grid_on_every_path(self, load_toy: LoadToy) -> None:
        assert load_toy(self.module()).info.default_layer == "1"

    def test_can_be_configured(self, load_toy: LoadToy) -> None:
        info = load_toy(self.module(), layer="0").info

        assert info.default_layer == "0"
        assert info.layer("default").name == "0"

    @pytest.mark.parametrize(
        ("layer", "recommended"),
        [(None, ("4", "3")), ("0", ("0", "3")), ("2", ("2", "1", "4")), ("1", ("1", "3"))],
        ids=str,
    )
    def test_what_is_recommended_follows_it(
        self, layer: str | None, recommended: tuple[str, ...], load_toy: LoadToy
    ) -> None:
        """Grids of 16×16, 16×16, 8×8, 8×8 and 4×4: the layer, then where a finer grid ends and where a coarser one."""
        torch.manual_seed(0)
        grids = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.AvgPool2d(2)]
        module = nn.Sequential(*grids, nn.AdaptiveAvgPool2d(1), nn.Flatten())

        info = load_toy(module, PreprocessSpec(height=16, width=16), layer=layer).info

        assert info.recommended == recommended

    def test_a_wrong_name_comes_with_the_closest(self, load_toy: LoadToy) -> None:
        with pytest.raises(UnknownLayer, match=r"There is no layer 'pixel'\. Did you mean 'pixels'") as caught:
            load_toy(MeanColour(), layer="pixel")

        assert caught.value.details["suggestions"] == ["pixels"]

    def test_a_layer_without_a_grid_is_refused_with_the_reason(self, load_toy: LoadToy) -> None:
        with pytest.raises(LayerNotExplainable, match="1×1 output"):
            load_toy(MeanColour(), layer="pool")


class TestInfo:
    def test_says_what_was_loaded(self, load_toy: LoadToy) -> None:
        info = load_toy(nn.Sequential(nn.Conv2d(3, 2, 1), nn.AvgPool2d(8), nn.Flatten()), name="mine").info

        assert (info.name, info.architecture, info.version) == ("mine", "toy", "toy-1")
        assert (info.device, info.dtype, info.parameters) == ("cpu", "float32", 3 * 2 + 2)

    def test_a_configured_version_wins(self, load_toy: LoadToy) -> None:
        assert load_toy(MeanColour(), version="2024-03").info.version == "2024-03"

    def test_labels_come_from_the_source(self, load_toy: LoadToy) -> None:
        assert load_toy(MeanColour(), labels=("red", "green", "blue")).info.labels == ("red", "green", "blue")

    def test_a_source_with_another_number_of_labels_is_refused(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="'toy' has 3 classes, but its source names 2"):
            load_toy(MeanColour(), labels=("red", "green"))

    def test_travels_to_another_process(self, load_toy: LoadToy) -> None:
        info = load_toy(MeanColour()).info

        assert pickle.loads(pickle.dumps(info)) == info


@pytest.fixture(scope="module")
def star() -> NDArray[np.uint8]:
    """The demo's star at the model's input size, (1, 96, 96, 3)."""
    with Image.open(embedded._FILES / "samples" / "03-star.png") as image:
        return np.asarray(image.convert("RGB").resize((96, 96)))[None].copy()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> ModelHost:
    downloads = Downloads(tmp_path_factory.mktemp("cache"), allowed=False)
    return load_model(ModelConfig(architecture="shapes"), "cpu", downloads)


class TestReducedPrecision:
    @pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.005)])
    def test_maps_are_float32_and_close_to_those_of_float32(
        self, dtype: Any, tolerance: float, star: NDArray[np.uint8], offline: Downloads
    ) -> None:
        full, reduced = (
            load_model(ModelConfig(architecture="shapes", precision=kind), "cpu", offline)
            for kind in ("float32", dtype)
        )

        (expected,), (answer,) = (
            host.explain(star, [PREDICTED], HowTo(("layer4",), ("gradcam",))) for host in (full, reduced)
        )

        raw, wanted = answer.maps[0].values, expected.maps[0].values
        assert answer.maps[0].target == expected.maps[0].target == 3
        assert answer.logits.dtype == raw.dtype == torch.float32
        assert float((raw - wanted).abs().max()) < tolerance * float(wanted.max())
        assert not torch.equal(raw, wanted), "computed in float32 after all"
        assert reduced.info.dtype == dtype


class TestLeavesNoTrace:
    def test_the_module_is_frozen_in_eval_mode_and_without_hooks(self, load_toy: LoadToy) -> None:
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).train()
        before = {key: value.clone() for key, value in module.state_dict().items()}

        toy = load_toy(module)
        toy.predict(plain((1, 2, 3)))
        toy.explain(plain((1, 2, 3), (4, 5, 6)), [PREDICTED, Targets((0, 1))], HowTo(("0", "2"), ("gradcam",)))

        assert not any(part.training for part in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert all(parameter.grad is None for parameter in module.parameters())
        assert not any(part._forward_hooks or part._backward_hooks for part in module.modules())
        after = module.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items())


class Overlapping(MeanColour):
    """Counts how many threads are in its forward pass at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.most = self.passes = 0
        self.counting = threading.Lock()

    def after(self, logits: Tensor) -> Tensor:
        with self.counting:
            self.inside += 1
            self.passes += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.005)
        with self.counting:
            self.inside -= 1
        return logits


class Meeting(MeanColour):
    """Goes on only when as many forward passes as its barrier has parties are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.meeting = threading.Barrier(1)

    def after(self, logits: Tensor) -> Tensor:
        self.meeting.wait(60)
        return logits


class TestLock:
    def test_two_threads_never_run_one_model_at_once(self, load_toy: LoadToy) -> None:
        module = Overlapping()
        toy = load_toy(module)
        colours = [(index, 2 * index, 255 - index) for index in range(24)]
        expected = toy.predict(plain(*colours))
        module.passes = 0
        barrier = threading.Barrier(4)

        def ask(number: int) -> Tensor:
            if number < 4:
                barrier.wait(60)
            image = plain(colours[number])
            if number % 2:
                return toy.predict(image)[0]
            return toy.explain(image, [PREDICTED], HowTo(("pixels",), ("gradcam",)))[0].logits

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(ask, range(24)))

        assert module.passes == 24
        assert module.most == 1
        assert torch.equal(torch.stack(answers), expected), "every thread has its own image's answer"

    def test_two_models_do_run_side_by_side(self, load_toy: LoadToy) -> None:
        modules = Meeting(), Meeting()
        first, second = (load_toy(module) for module in modules)
        both = threading.Barrier(2)
        for module in modules:
            module.meeting = both

        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda host: host.predict(plain((9, 9, 9))), (first, second)))

        assert torch.equal(*answers)


class Scratch(nn.Module):
    """Writes into buffers of its own in every pass: into what the layer gives out, and into what the graph needs."""

    def __init__(self, *, in_graph: bool) -> None:
        super().__init__()
        self.pixels = Buffered()
        self.in_graph = in_graph
        self.gain = torch.empty(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        means: Tensor = self.pixels(x).mean((2, 3))
        if not self.in_graph:
            return means * torch.tensor([[1.0, 2.0, 3.0]])
        self.gain.copy_(x.detach().mean((2, 3))[:1])
        return means * self.gain


class Buffered(nn.Module):
    """Gives out a tensor that it keeps, and writes into again."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[torch.Size, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(mode=False), torch.no_grad():
            return self.kept.setdefault(x.shape, torch.empty(x.shape)).copy_(x)


class TestGivingWay:
    """Others compute between the steps of an answer, and change nothing of it."""

    @pytest.mark.parametrize("method", ["gradcam", "layercam", "eigengradcam", "scorecam", "ablationcam", "shapleycam"])
    @pytest.mark.parametrize("in_graph", [False, True], ids=["the layer's output", "in the graph"])
    def test_a_model_that_writes_into_its_buffers(self, method: str, *, in_graph: bool, load_toy: LoadToy) -> None:
        toy = load_toy(Scratch(in_graph=False))
        toy._networks[None]._module.in_graph = in_graph  # type: ignore[attr-defined]  # it would not be served else
        pixels, how = plain((200, 40, 90)), HowTo(("pixels",), (method,), CamOptions(signed=True))
        (alone,) = toy.explain(pixels, [Targets((0, 1, 2))], how)
        (beside,) = disturbed(toy, pixels, [Targets((0, 1, 2))], how)
        assert torch.equal(alone.logits, beside.logits)
        for one, other in zip(alone.maps, beside.maps, strict=True):
            torch.testing.assert_close(other.values, one.values)

    @pytest.mark.parametrize(
        "method", [pytest.param(name, marks=[pytest.mark.slow] if row.slow else []) for name, row in METHODS.items()]
    )
    def test_every_method_at_every_step(self, method: str, shapes: ModelHost, star: NDArray[np.uint8]) -> None:
        if method in shapes.info.refused_methods:
            pytest.skip("it does not apply to this model")
        how = HowTo(("layer3", "layer4"), (method,))
        (alone,) = shapes.explain(star, [Targets((Top(2),))], how)
        (beside,) = disturbed(shapes, star, [Targets((Top(2),))], how)
        for one, other in zip(alone.maps, beside.maps, strict=True):
            most = float(one.values.abs().max())  # steps of another size round otherwise
            torch.testing.assert_close(other.values, one.values, rtol=1e-4, atol=1e-4 * most)

    def test_a_small_answer_gives_way_to_nobody(self, shapes: ModelHost, star: NDArray[np.uint8]) -> None:
        how = HowTo(("layer4",), ("gradcam",))
        assert disturbed(shapes, star, [PREDICTED], how, gives_way=False, most=0)


def disturbed(
    host: ModelHost,
    pixels: NDArray[np.uint8],
    targets: list[Targets],
    how: HowTo,
    *,
    gives_way: bool = True,
    most: int | None = None,
) -> list[Explained]:
    """Explain, while another picture is predicted or explained whenever the host gives way; ``most`` 0: never."""
    others = plain((3, 250, 120), side=pixels.shape[1])
    predicted: list[Tensor] = []
    done = threading.Event()

    def disturb() -> None:
        plainly = HowTo(how.layers[:1], ("gradcam",))
        while not done.is_set():
            predicted.append(host.predict(others))
            predicted.append(host.explain(others, [PREDICTED], plainly, gives_way=False)[0].logits)

    thread = threading.Thread(target=disturb)

    def checkpoint(_done: int, _total: int) -> None:
        if not thread.ident:
            thread.start()
        # One waits whenever the next step ends.
        while not host._lock._waiting:
            time.sleep(0.0005)

    try:
        found = host.explain(pixels, targets, how, checkpoint, gives_way=gives_way)
        between = len(predicted)
    finally:
        done.set()
        thread.join(60)
        assert not thread.is_alive()
    assert between == 0 if most == 0 else between > 0
    return found


def test_the_embedded_model_knows_the_demos_star(star: NDArray[np.uint8], shapes: ModelHost) -> None:
    assert shapes.info.labels[int(shapes.predict(star).argmax())] == "star"


def test_embedded_models_take_no_other_weights(offline: Downloads, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"shapes comes with its weights; leave .*w\.pth' out"):
        load_model(ModelConfig(architecture="shapes", weights=str(tmp_path / "w.pth")), "cpu", offline)


def test_every_dtype_has_a_tolerance_for_the_check_of_rows() -> None:
    assert {getattr(torch, name) for name in get_args(Precision)} == set(capture.TOLERANCE) - {torch.float64}
