"""Linear imputation from coarse to fine, against the system of equations solved exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.evaluation.imputation import NOISE, impute

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WEIGHTS = {(r, c): 1 / 6 if 0 in (r, c) else 1 / 12 for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)}


def exact(pixels: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Solve for the missing pixels of (channels, h, w): each the weighted mean of those of its neighbours there are."""
    height, width = missing.shape
    number = np.cumsum(missing.ravel()).reshape(missing.shape) - 1
    count = int(missing.sum())
    system, right = np.zeros((count, count)), np.zeros((count, len(pixels)))
    for row, column in np.argwhere(missing).tolist():
        index = number[row, column]
        for (down, across), weight in _WEIGHTS.items():
            r, c = row + down, column + across
            if 0 <= r < height and 0 <= c < width:
                system[index, index] += weight
                if missing[r, c]:
                    system[index, number[r, c]] -= weight
                else:
                    right[index] += weight * pixels[:, r, c]
    filled = pixels.astype(np.float32).copy()
    filled[:, missing] = np.linalg.solve(system, right).T
    return filled


def exact_of_many(pixels: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Solve the same system for many pixels, by conjugate gradients without a matrix, to a millionth."""
    shape = missing.shape

    def around(values: NDArray[np.float64]) -> NDArray[np.float64]:
        padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
        parts = (
            weight * padded[:, 1 + r : 1 + r + shape[0], 1 + c : 1 + c + shape[1]]
            for (r, c), weight in _WEIGHTS.items()
        )
        return np.asarray(sum(parts))

    weights = around(np.ones((1, *shape)))
    known = np.where(missing, 0.0, pixels.astype(np.float64))
    found = np.zeros_like(known)
    residual = np.where(missing, around(known), 0.0)
    direction, size = residual.copy(), (residual**2).sum((1, 2), keepdims=True)
    goal = 1e-12 * size
    for _ in range(3000):
        if (size <= goal).all():
            break
        moved = np.where(missing, weights * direction - around(direction), 0.0)
        step = size / np.maximum((direction * moved).sum((1, 2), keepdims=True), 1e-300)
        found += step * direction
        residual -= step * moved
        before, size = size, (residual**2).sum((1, 2), keepdims=True)
        direction = residual + size / np.maximum(before, 1e-300) * direction
    return (known + found).astype(np.float32)


def picture(rng: np.random.Generator, size: int = 24) -> NDArray[np.float32]:
    """Smooth noise, as pictures are: (3, size, size), 0–255."""
    white = rng.standard_normal((3, size, size))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    smooth = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(size, size))
    return np.asarray(np.clip(127 + 50 * smooth / smooth.std(), 0, 255), np.float32)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_it_is_close_to_the_exact_solution(share: float) -> None:
    rng = np.random.default_rng(0)
    pixels, field = picture(rng), picture(rng)[0]
    missing = field > np.quantile(field, 1 - share)
    found, wanted = impute(pixels, missing), exact(pixels, missing)
    apart = np.abs(found - wanted)[:, missing]
    assert np.sqrt((apart**2).mean()) < 0.12 * pixels.std()
    assert np.corrcoef(found[:, missing].ravel(), wanted[:, missing].ravel())[0, 1] > 0.99


def test_both_exact_solutions_are_the_same() -> None:
    rng = np.random.default_rng(4)
    pixels, missing = picture(rng), rng.random((24, 24)) < 0.7
    assert exact_of_many(pixels, missing) == pytest.approx(exact(pixels, missing), abs=1e-2)


def test_one_missing_pixel_by_hand() -> None:
    pixels = np.zeros((1, 3, 3), np.float32)
    pixels[0, 0, 1], pixels[0, 2, 2] = 60, 120  # beside it and at a corner: 60 / 6 + 120 / 12
    missing = np.zeros((3, 3), bool)
    missing[1, 1] = True
    assert impute(pixels, missing)[0, 1, 1] == pytest.approx(20)


def test_a_missing_corner_has_three_neighbours() -> None:
    pixels = np.zeros((1, 3, 3), np.float32)
    pixels[0, 0, 1] = 50  # weights 1/6, 1/6 and 1/12: of 5/12 in all
    missing = np.zeros((3, 3), bool)
    missing[0, 0] = True
    assert impute(pixels, missing)[0, 0, 0] == pytest.approx(20)


def test_what_is_there_stays_and_a_plane_of_one_colour_too() -> None:
    rng = np.random.default_rng(1)
    pixels = picture(rng, 31)
    missing = rng.random((31, 31)) < 0.6
    assert np.array_equal(impute(pixels, missing, rng)[:, ~missing], pixels[:, ~missing])
    flat = np.full((2, 31, 31), 80, np.float32)
    assert impute(flat, missing) == pytest.approx(flat, abs=1e-3)


def test_noise_is_added_to_what_is_filled() -> None:
    missing = np.zeros((40, 40), bool)
    missing[:, 10:] = True
    filled = impute(np.full((3, 40, 40), 120, np.float32), missing, np.random.default_rng(0))
    assert filled[:, missing].std() == pytest.approx(255 * NOISE, rel=0.1)


def test_nothing_missing_and_all_missing() -> None:
    pixels = picture(np.random.default_rng(2))
    assert np.array_equal(impute(pixels, np.zeros((24, 24), bool)), pixels)
    assert (impute(pixels, np.ones((24, 24), bool)) == 127.5).all()
