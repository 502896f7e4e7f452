"""The real server, on a real port, with a real ImageNet classifier and real photos."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from service.client import AsyncClient, Client, Explained
from service.demo.scenes import make_scene
from tests import imagenet
from tests.e2e import reference

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server import Server

pytestmark = pytest.mark.imagenet


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-4)


def paths() -> list[Path]:
    return [photo.path for photo in imagenet.photos()]


def normalised_maps(answers: list[Explained]) -> list[torch.Tensor]:
    return [reference.normalised(answer.map()) for answer in answers]


def test_top_1_of_every_photo_is_right(client: Client) -> None:
    for photo in imagenet.photos():
        predicted = client.predict(photo.path)
        assert (predicted.predictions[0].index, predicted.label) == (photo.index, photo.label)
        assert (predicted.image.width, predicted.image.height) == (photo.width, photo.height)


def test_every_map_equals_a_textbook_implementation(client: Client) -> None:
    for photo in imagenet.photos():
        explained = client.explain(photo.path, target=["predicted", 0], output="map")
        for explanation in explained.explanations:
            _, expected = reference.gradcam(photo.path, explanation.target.index)
            if not expected.any():
                assert explanation.empty
                continue
            found = reference.normalised(explanation.map())
            assert_close(found, reference.normalised(expected))
            assert explanation.maximum == pytest.approx(float(expected.max()), rel=1e-3)


@pytest.mark.slow  # beside other tests the front may be too busy to have two pictures at once
@pytest.mark.alone
def test_concurrent_posts_are_batched_and_answer_like_lone_ones(server: Server, client: Client) -> None:
    asked: dict[str, Any] = {"layer": "features.3", "output": "map"}  # an early one, whose maps take longer
    alone = [client.explain(path, **asked) for path in paths()]
    assert all(answer.timing.batch_size == 1 for answer in alone)

    async def together() -> list[Explained]:
        async with AsyncClient(server.url) as client:
            return await asyncio.gather(*(client.explain(path, **asked) for path in paths()))

    for _ in range(5):  # whether one comes while another is computed is up to the machine
        before = batches(client)
        answers = asyncio.run(together())
        for one, other in zip(normalised_maps(answers), normalised_maps(alone), strict=True):
            assert_close(one, other)
        if (computed := batches(client) - before) < len(paths()):
            break
    assert computed < len(paths())
    assert max(answer.timing.batch_size for answer in answers) > 1


def batches(client: Client) -> int:
    """How many batches the classifier has computed, by the server's own metrics."""
    text = client._http.get("/metrics").text
    line = 'camserve_batch_size_count{model="squeezenet",op="explain"} '
    return round(sum(float(row.removeprefix(line)) for row in text.splitlines() if row.startswith(line)))


def test_a_photo_turned_by_exif_has_the_upright_photos_answer(client: Client) -> None:
    with Image.open(imagenet.FOLDER / "photos" / "jay.jpg") as photo:
        upright = photo.convert("RGB")
    expected = client.explain(png(upright), output=["map", "regions"])
    # Orientation 6: shown upright after a quarter turn clockwise, so it is stored a quarter turn the other way.
    for orientation, stored in [
        (6, upright.rotate(90, expand=True)),
        (3, upright.rotate(180)),
        (2, ImageOps.mirror(upright)),
    ]:
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = client.explain(png(stored, exif=exif), output=["map", "regions"])
        assert (found.image.width, found.image.height) == upright.size
        np.testing.assert_allclose(found.map(), expected.map(), atol=1e-4)
        assert found.peak == expected.peak
        assert found.view == expected.view
        assert [region.box for region in found.regions] == [region.box for region in expected.regions]


def png(picture: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


# (width, height) of the picture, and where the object's centre is put, as a share of both.
PLACES = [((900, 400), (0.36, 0.5)), ((900, 400), (0.62, 0.4)), ((400, 900), (0.5, 0.37)), ((600, 600), (0.28, 0.7))]


@pytest.mark.parametrize(("size", "place"), PLACES)
def test_the_peak_lies_on_the_object_in_the_pictures_own_pixels(
    client: Client, size: tuple[int, int], place: tuple[float, float]
) -> None:
    """A golf ball, white on grey, off-centre in wide, tall and square pictures."""
    side = min(size) // 3
    with Image.open(imagenet.FOLDER / "photos" / "golf_ball.jpg") as photo:
        ball = ImageOps.fit(photo.convert("RGB"), (side, side), centering=(0.5, 0.6))
    canvas = Image.new("RGB", size, (96, 110, 96))
    left, top = round(size[0] * place[0] - side / 2), round(size[1] * place[1] - side / 2)
    canvas.paste(ball, (left, top))
    explained = client.explain(png(canvas), target="golf ball")
    assert explained.peak is not None
    assert left <= explained.peak.x <= left + side
    assert top <= explained.peak.y <= top + side


def test_layers_and_targets_come_back_in_nesting_order(client: Client) -> None:
    photo = imagenet.photos()[0]
    explained = client.explain(photo.path, layer=["features.12", "default"], target=["top-2", "goldfish"], output="map")
    order = [(each.layer, each.target.label) for each in explained.explanations]
    best, second = (prediction.label for prediction in explained.predictions[:2])
    assert order == [(layer, label) for layer in ("features.12", "features") for label in (best, second, "goldfish")]
    for explanation in explained.explanations:
        _, expected = reference.gradcam(photo.path, explanation.target.index, explanation.layer)
        if expected.any():
            assert_close(reference.normalised(explanation.map()), reference.normalised(expected))


def test_the_shortcut_model_looks_at_the_watermark(client: Client) -> None:
    """The example of the docs, over HTTP: same picture, same label, two models, two places."""
    made = make_scene(np.random.default_rng(3), 0, watermark=True)
    assert made.watermark_box is not None
    answers = {
        name: client.explain(png(Image.fromarray(made.pixels)), model=name) for name in ("shapes", "shapes-shortcut")
    }
    assert {answer.label for answer in answers.values()} == {"disk"}
    honest, fooled = answers["shapes"].peak, answers["shapes-shortcut"].peak
    assert honest is not None
    assert fooled is not None
    assert inside(made.box, honest.x, honest.y, slack=4)
    assert inside(made.watermark_box, fooled.x, fooled.y, slack=4)


def inside(box: tuple[int, int, int, int], x: float, y: float, slack: float) -> bool:
    left, top, right, bottom = box
    return left - slack <= x <= right + slack and top - slack <= y <= bottom + slack
