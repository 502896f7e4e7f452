"""ROAD beside ``grad-cam``'s, which fills with the published solver: the same where it is right, and where it is not.

It takes away what lies above a percentile of the map's values, ours by rank: the same unless values are equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from service.demo.scenes import LABELS, make_scene
from service.evaluation.imputation import impute
from service.evaluation.ranking import ranks
from service.evaluation.road import SHARES, road_combined, road_inputs
from service.models.shapes_net import MEAN, STD, ShapesNet
from tests.cam.test_parity import peer
from tests.evaluation.test_imputation import picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

WEIGHTS = Path("service/demo/shapes.safetensors")
SIZE = 64


class Shown(nn.Module):
    """The embedded model, of pixels 0–1."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ShapesNet(num_classes=len(LABELS))
        self.network.load_state_dict(load_file(WEIGHTS))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        found: Tensor = self.network(normalised)
        return found


def planes(pixels: NDArray[np.uint8]) -> Tensor:
    """Return pixels (…, h, w, 3) as the model takes them, (…, 3, h, w)."""
    return torch.from_numpy(np.moveaxis(pixels, -1, -3).astype(np.float32) / 255)


@pytest.mark.parametrize("share", SHARES)
def test_what_is_filled_is_close_to_the_published_solution(share: float) -> None:
    imputer = peer("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0)
    rng = np.random.default_rng(0)
    pixels, field = picture(rng, SIZE), picture(rng, SIZE)[0]
    missing = field > np.quantile(field, 1 - share)
    wanted = imputer(torch.from_numpy(pixels), torch.from_numpy(~missing).float()).numpy()
    found = impute(pixels, missing)
    assert np.array_equal(found[:, ~missing], wanted[:, ~missing])
    apart = (found - wanted)[:, missing]
    assert np.sqrt((apart**2).mean()) < 0.12 * pixels.std()
    assert np.corrcoef(found[:, missing].ravel(), wanted[:, missing].ravel())[0, 1] > 0.99


def test_scores_are_grad_cams() -> None:
    """Of maps without equal values: the object's mask, smoothed, its opposite, and smooth noise."""
    road, targets = peer("pytorch_grad_cam.metrics.road"), peer("pytorch_grad_cam.utils.model_targets")
    combined = road.ROADCombined(percentiles=[round(100 * (1 - share)) for share in SHARES])
    rng, model = np.random.default_rng(0), Shown()
    found, wanted = [], []
    for number in range(6):
        scene = make_scene(rng, number)
        label = int(model(planes(scene.pixels)[None]).argmax())
        evidence = _map(number % 3, scene.target_mask, rng)
        with torch.no_grad():
            shown = model(planes(road_inputs(scene.pixels, evidence, rng))).softmax(dim=1)[:, label]
        found.append(road_combined(shown.numpy()))
        target = targets.ClassifierOutputSoftmaxTarget(label)
        wanted.append(float(combined(planes(scene.pixels)[None], evidence[None], [target], model)[0]))
    assert max(wanted) - min(wanted) > 0.5
    assert np.corrcoef(found, wanted)[0, 1] > 0.99
    assert np.mean(found) == pytest.approx(np.mean(wanted), abs=0.01)


def _map(kind: int, mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a map (h, w) in 0–1, no two values of which are equal."""
    noise = picture(rng, len(mask))[0] / 255 + rng.uniform(0, 1e-3, mask.shape)
    found = [mask + 0.2 * noise, (1 - mask) + 0.2 * noise, noise][kind]
    return np.asarray(found / found.max(), np.float32)


@pytest.mark.parametrize("percentile", [20, 40, 60, 80])
def test_grad_cam_takes_everything_away_where_most_of_a_map_is_zero(percentile: int) -> None:
    """A threshold of 0 keeps nothing that is below it: why pixels are taken away by rank here."""
    confidence = peer("pytorch_grad_cam.metrics.perturbation_confidence")
    evidence = np.zeros((SIZE, SIZE), np.float32)
    evidence[:8, :8] = 1 + np.random.default_rng(0).random((8, 8))
    kept: list[Any] = []
    confidence.RemoveMostRelevantFirst(percentile, lambda _, mask: kept.append(mask))(
        torch.zeros(3, SIZE, SIZE), torch.from_numpy(evidence)
    )
    assert not kept[0].any()
    places = ranks(evidence, np.random.default_rng(0))
    gone = places < round((1 - percentile / 100) * evidence.size)
    assert gone.mean() == pytest.approx(1 - percentile / 100, abs=1e-3)
    assert gone[:8, :8].all()
