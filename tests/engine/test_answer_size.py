"""Pixels and bytes that a request is estimated to take, against what is decoded, drawn and sent: a factor of two.

How small a drawn picture is as a file depends on what it shows: estimates are for photos. ``CAMSERVE_TESTS_PHOTOS``
names a folder of some; without it, scenes and clouds stand for them.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image
from torch.nn import functional

from service.cam.methods import METHODS
from service.demo.scenes import make_scene
from service.engine.cost import Cost, Spending, Work
from service.engine.explainer import Explainer
from service.engine.plan import plan
from service.engine.request import Request, Upload
from service.engine.workers.in_process import InProcessWorker
from service.errors import RequestTooCostly
from service.imaging.decode import DecodeLimits, Undecoded, read_header
from service.metrics import Metrics
from service.protocols.native.responses import json_pieces
from service.settings import load_settings
from service.vocabulary import ImageFormat, Output, Size
from tests.toys import encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from service.engine.answers import Answer
    from service.imaging.decode import DecodedImage

LIMITS = DecodeLimits(10**8, 10**8, 1)
REGION_PIXELS = 100_000  # what finding regions counts for, see docs/operations.md


def clouds(width: int, height: int, seed: int) -> Image.Image:
    """Colours with something at every scale, down to the grain of a camera."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.full((1, 3, height, width), 128.0) + 4 * torch.randn(1, 3, height, width, generator=generator)
    for cells in (2, 4, 8, 16, 32, 64):
        coarse = torch.randn(1, 3, cells, cells, generator=generator)
        total += 60 / cells**0.5 * functional.interpolate(coarse, (height, width), mode="bicubic")
    return Image.fromarray(total[0].clamp(0, 255).byte().permute(1, 2, 0).numpy())


def pictures() -> Iterator[bytes]:
    """Files of photos, or of what stands for them."""
    if folder := os.environ.get("CAMSERVE_TESTS_PHOTOS"):
        yield from (path.read_bytes() for path in islice(sorted(Path(folder).glob("*.jpg")), 0, None, 8))
        return
    for seed, (width, height), name in ((0, (480, 360), "JPEG"), (1, (500, 700), "PNG")):
        scene = make_scene(np.random.default_rng(seed), size=(width, height))
        yield encode(Image.blend(Image.fromarray(scene.pixels), clouds(width, height, seed), 0.3), name)


@dataclass
class Measured:
    """What a request took, next to what was estimated."""

    pixels: int
    bytes: int
    told: int
    estimated: Cost

    def off(self) -> dict[str, float]:
        """What was measured as a share of what was estimated, where it is less than half or more than twice."""
        shares = {
            "pixels": self.pixels / self.estimated.pixels,
            "bytes": self.bytes / self.estimated.bytes,
            "told": self.told / self.bytes,
        }
        return {name: round(share, 2) for name, share in shares.items() if not 0.5 <= share <= 2}


@dataclass
class Service:
    """An explainer that measures; ``decoded`` counts pixels."""

    explainer: Explainer
    decoded: int = 0

    async def measure(self, data: bytes, **asked: Any) -> Measured:
        self.decoded = 0
        request = Request([Upload(data, "picture.jpg")], **asked)
        answer = await self.explainer.answer(request)
        todo = plan(request, self.explainer.ready_info(), 1000)
        body = sum(map(len, json_pieces(answer, "x" * 32, with_maps="map" in request.outputs)))
        estimated = Work.of(todo, [read_header(data, LIMITS)]).cost
        return Measured(self.decoded + drawn(answer), body, answer.cost.bytes, estimated)


def drawn(answer: Answer) -> int:
    total = 0
    for explanation in answer.images[0].explanations:
        shown = explanation.rendered
        total += sum(
            each.width * each.height for each in (shown.heatmap, shown.overlay, shown.mask, shown.hidden) if each
        )
        total += 0 if shown.regions is None else REGION_PIXELS
    return total


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Service]:
    settings, decode = load_settings(models=["m=shapes"], device="cpu"), Undecoded.decode
    found = Service(Explainer(settings, Metrics(), launch=InProcessWorker))

    def counted(opened: Undecoded, *rest: Any) -> DecodedImage:
        image = decode(opened, *rest)
        found.decoded += image.width * image.height
        return image

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Undecoded, "decode", counted)
        await found.explainer.start()
        await found.explainer.settled()
        yield found
        await found.explainer.stop()


FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)
OUTPUTS: tuple[Output, ...] = get_args(Output)
SIZES: tuple[tuple[Size, int], ...] = (("picture", 1024), ("picture", 200), ("model", 1024), ("layer", 1024))


@pytest.mark.slow
async def test_every_method_and_output(service: Service) -> None:
    """Of a picture by lot each: nothing that is drawn of one depends on the method."""
    allowed = METHODS.keys() - service.explainer.ready_info().refused_methods.keys()
    assert len(allowed) > 10
    files, lots = list(pictures()), random.Random(0)
    for method, output in product(sorted(allowed), OUTPUTS):
        asked: dict[str, Any] = {"methods": (method,), "outputs": (output,), "layers": ("layer3",)}
        assert (await service.measure(lots.choice(files), **asked)).off() == {}, asked


async def test_every_format_size_and_layer(service: Service) -> None:
    layers = [layer.name for layer in service.explainer.ready_info().layers if layer.explainable]
    files, lots = list(pictures()), random.Random(0)
    for image_format, (size, max_side) in product(FORMATS, SIZES):
        asked: dict[str, Any] = {"image_format": image_format, "size": size, "max_side": max_side}
        for outputs, layer in [*(((output,), layers[-1]) for output in OUTPUTS), (OUTPUTS, layers[0])]:
            more: dict[str, Any] = {"outputs": outputs, "layers": (layer,), "methods": ("gradcam", "layercam")}
            assert (await service.measure(lots.choice(files), **asked, **more)).off() == {}, asked | more


async def test_what_else_multiplies(service: Service) -> None:
    data = next(pictures())
    for asked in (
        {"op": "predict"},
        {"op": "predict", "top_k": 12},
        {"targets": ("top-8",), "outputs": ("map",)},
        {"layers": ("layer2", "layer3"), "fuse": "mean", "outputs": ("map",)},
        {"layers": ("layer2", "layer4"), "methods": ("gradcam", "fullgrad"), "outputs": ("map", "heatmap")},
        {"verify": True, "outputs": ("map",), "targets": ("top-3",)},
        {"signed": True, "smooth": 2, "outputs": ("heatmap", "mask")},
    ):
        assert (await service.measure(data, **asked)).off() == {}, asked


async def test_a_large_picture_is_decoded_once_more_for_its_overlays(service: Service) -> None:
    data = encode(clouds(1500, 1200, 1), "JPEG")
    for output in ("overlay", "heatmap", "hidden"):
        for size, max_side in SIZES:
            asked: dict[str, Any] = {"outputs": (output,), "size": size, "max_side": max_side}
            assert (await service.measure(data, **asked)).off() == {}, asked
    whole = await service.measure(data, outputs=("overlay",), max_side=1500)
    assert service.decoded == 2 * 1500 * 1200
    assert whole.pixels == whole.estimated.pixels


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
async def test_an_answer_larger_than_estimated_says_what_to_lower(service: Service, share: float) -> None:
    """Of a picture that is nothing but noise, overlays are larger than those of photos."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "PNG")
    request = Request([Upload(data)], targets=("top-6",), outputs=("overlay",), image_format="png")
    answer = await service.explainer.answer(request)
    work = Work.of(plan(request, service.explainer.ready_info(), 1000), [read_header(data, LIMITS)])
    assert answer.cost.bytes > 1.5 * work.cost.bytes
    most = replace(work.cost, bytes=int(share * answer.cost.bytes))

    def spend(targets: int) -> None:
        spending = Spending(most)
        spending.begin(replace(work, targets=targets))
        for each in answer.images[0].explanations[:targets]:
            spending.add([each])

    with pytest.raises(RequestTooCostly, match="Lower 'target' from 6 to") as refused:
        spend(6)
    allowed = refused.value.details["allowed"]
    assert refused.value.details == {"factor": "target", "asked": 6, "allowed": allowed}
    spend(allowed)
    assert allowed >= int(6 * share) - 1, "hardly less than is needed"
