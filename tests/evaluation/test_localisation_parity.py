"""Localisation metrics beside ``quantus`` and ``scikit-learn``: the same where these are right, and where not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.evaluation.grid_pointing_game import CELLS, share_in_cell
from service.evaluation.mass_inside import mass_inside
from service.evaluation.pointing_game import pointing_game
from service.evaluation.pxap import BINS, average_precision, pixel_counts
from tests.cam.test_parity import peer

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # a peer's own are not ours to mend

PICTURES, SIZE = 40, 24


@pytest.fixture
def maps() -> NDArray[np.float64]:
    """Return maps (PICTURES, SIZE, SIZE), no two values of which are equal."""
    return np.random.default_rng(0).random((PICTURES, SIZE, SIZE))


@pytest.fixture
def masks() -> NDArray[np.bool_]:
    """Return as many objects, rectangles none of which is empty or everywhere."""
    rng, found = np.random.default_rng(1), np.zeros((PICTURES, SIZE, SIZE), np.bool_)
    for mask in found:
        (top, left), (height, width) = rng.integers(0, SIZE // 2, 2), rng.integers(2, SIZE // 2, 2)
        mask[top : top + height, left : left + width] = True
    return found


def localisation(name: str, **options: Any) -> Any:
    """Return a metric of ``quantus``."""
    return getattr(peer("quantus"), name)(disable_warnings=True, **options)


def test_the_pointing_game_is_theirs(maps: NDArray[np.float64], masks: NDArray[np.bool_]) -> None:
    wanted = localisation("PointingGame").evaluate_batch(a_batch=maps[:, None], s_batch=masks[:, None])
    found = [pointing_game(*each) for each in zip(maps, masks, strict=True)]
    assert 0 < sum(found) < PICTURES
    assert np.array_equal(found, wanted)


def test_a_map_that_is_the_same_everywhere_always_hits_in_theirs(masks: NDArray[np.bool_]) -> None:
    """Why maxima share a hit here: a dead map knows nothing, and scores as chance does."""
    dead = np.zeros(masks.shape)
    assert localisation("PointingGame").evaluate_batch(a_batch=dead[:, None], s_batch=masks[:, None]).all()
    assert [pointing_game(*each) for each in zip(dead, masks, strict=True)] == pytest.approx(masks.mean(axis=(1, 2)))


def test_the_mass_inside_is_their_relevance_mass_accuracy(maps: NDArray[np.float64], masks: NDArray[np.bool_]) -> None:
    wanted = localisation("RelevanceMassAccuracy").evaluate_batch(a_batch=maps[:, None], s_batch=masks[:, None])
    assert [mass_inside(*each) for each in zip(maps, masks, strict=True)] == pytest.approx(wanted)


@pytest.mark.parametrize("cell", range(CELLS))
def test_the_share_in_a_cell_is_their_focus_on_one_picture(maps: NDArray[np.float64], cell: int) -> None:
    where = np.tile(np.arange(CELLS) == cell, (PICTURES, 1))
    wanted = localisation("Focus").evaluate_batch(a_batch=maps[:, None], c_batch=where)
    assert [share_in_cell(each, cell) for each in maps] == pytest.approx(wanted)


def test_the_average_precision_is_scikit_learns(maps: NDArray[np.float64], masks: NDArray[np.bool_]) -> None:
    """Of maps with a value in the middle of each step that is counted, and 1."""
    metrics = peer("sklearn.metrics")
    stepped = (np.floor(maps * BINS) + 0.5) / BINS
    stepped[:, 0, 0] = 1
    found = [float(average_precision(pixel_counts(*each))) for each in zip(stepped, masks, strict=True)]
    scores = np.minimum(stepped, (BINS - 0.5) / BINS)  # 1 is in the last step
    wanted = [
        metrics.average_precision_score(mask.ravel(), score.ravel()) for mask, score in zip(masks, scores, strict=True)
    ]
    assert found == pytest.approx(wanted, abs=1e-9)
