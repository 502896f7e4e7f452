"""A model whose maps and answers are worked out by hand: it knows a class by the place of a bright square."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from service.cam.layers import Layer, LayerCall, Layout
from service.evaluation.pictures import Picture, truth_of_mask
from service.imaging.preprocess import PreprocessSpec, geometry_for
from service.models.info import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.evaluation.asked import Arm

SIZE, CELLS, SIDE = 32, 8, 8
LABELS = ("red", "green", "blue")


def layer(name: str, order: int, *, on_every_path: bool = True, cells: int = CELLS) -> Layer:
    return Layer(
        name=name,
        call=LayerCall(name),
        type="Block",
        kind="block",
        shape=(4, cells, cells),
        layout=Layout("nchw", cells, cells),
        stride=SIZE // cells,
        order=order,
        on_every_path=on_every_path,
        explainable=True,
        note=None,
    )


INFO = ModelInfo(
    name="squares",
    version="1",
    architecture="squares",
    labels=LABELS,
    preprocess=PreprocessSpec("crop", SIZE, SIZE, resize=SIZE, mean=(0.25,) * 3, std=(1.0,) * 3),
    layers=(
        layer("noisy", 0),
        layer("branch", 1, on_every_path=False),
        layer("good", 2),
        layer("same", 3),
        layer("dead", 4),
        layer("pool", 5, cells=1),
    ),
    default_layer="good",
    dtype="float32",
    device="cpu",
    parameters=1,
    recommended=("good",),
)


class Squares:
    """The logit of a class is how bright its colour is anywhere. ``good`` shows where; ``noisy`` shows noise."""

    def __init__(self, *, random_head: bool = False) -> None:
        self.info = INFO
        self.calls = 0
        self._random_head = random_head

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls += 1
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 4
        return np.asarray(10 * self._bright(pixels).mean(axis=(2, 3)) * (SIZE / SIDE) ** 2, np.float32)

    @staticmethod
    def _bright(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return how much each pixel is of each class's colour: (N, classes, h, w), 0–1."""
        colours = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
        others = colours.sum(axis=1, keepdims=True) - colours
        return np.asarray(np.clip(colours - others / 2 - 0.3, 0, 1))

    def maps(
        self, pixels: NDArray[np.uint8], classes: Sequence[Sequence[int]], arms: Sequence[Arm]
    ) -> list[NDArray[np.float32]]:
        self.calls += 1
        count, height, width, _ = pixels.shape
        step = SIZE // CELLS
        cells = self._bright(pixels).reshape(count, 3, height // step, step, width // step, step).mean(axis=(3, 5))
        chosen = np.stack([cells[row][list(asked)] for row, asked in enumerate(classes)])
        if self._random_head:
            chosen = self._noise(pixels, chosen.shape)
        found = {
            "good": chosen,
            "same": chosen,
            "branch": chosen + 0.02 * (chosen > 0.5),
            "noisy": self._noise(pixels, chosen.shape),
            "dead": np.zeros_like(chosen),
            "pool": chosen.mean(axis=(2, 3), keepdims=True),
        }
        return [found[arm.layer].astype(np.float32) for arm in arms]

    @staticmethod
    def _noise(pixels: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float64]:
        rows = [np.random.default_rng(int(row.astype(np.int64).sum())).random(shape[1:]) for row in pixels]
        return np.stack(rows)

    def takes(self, height: int, width: int) -> bool:
        return height == width == 2 * SIZE

    def with_random_head(self, seed: int) -> Squares:  # noqa: ARG002
        return Squares(random_head=True)


def picture(number: int, *, marked: str = "mask") -> Picture:
    """A square of a class's colour at a place that the number decides, on dark noise."""
    rng = np.random.default_rng([7, number])
    label = number % 3
    pixels = rng.integers(0, 40, (SIZE, SIZE, 3), dtype=np.uint8)
    left, top = (4 * rng.integers(0, (SIZE - SIDE) // 4 + 1, 2)).tolist()
    pixels[top : top + SIDE, left : left + SIDE, label] = 230
    mask = np.zeros((SIZE, SIZE), bool)
    if marked == "mask":
        mask[top : top + SIDE, left : left + SIDE] = True
    elif marked == "elsewhere":
        mask[(top + SIZE // 2) % SIZE :, (left + SIZE // 2) % SIZE :] = True
        mask[max(0, top - 2) : top + SIDE + 2, max(0, left - 2) : left + SIDE + 2] = False
    geometry = geometry_for(INFO.preprocess, SIZE, SIZE)
    truth = truth_of_mask(mask, geometry) if marked != "none" else None
    return Picture(f"{number}.png", pixels, geometry, label, {} if truth is None else {None: truth})
