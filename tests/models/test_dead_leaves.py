"""Pictures that a network is tried with."""

from __future__ import annotations

import pytest
import torch

from service.models.dead_leaves import dead_leaves


@pytest.mark.parametrize("shape", [(24, 3, 64, 48), (3, 1, 8, 8), (1, 5, 9, 300)])
def test_they_have_the_shape_and_the_range_that_was_asked_for(shape: tuple[int, int, int, int]) -> None:
    found = dead_leaves(*shape)

    assert found.shape == shape
    assert 0 <= float(found.min()) < 0.2
    assert 0.8 < float(found.max()) <= 1


def test_they_are_the_same_at_every_call_and_differ_from_each_other() -> None:
    one, other = dead_leaves(24, 3, 32, 32), dead_leaves(24, 3, 32, 32)

    assert torch.equal(one, other)
    apart = (one[:, None] - one[None]).abs().mean((2, 3, 4)) + torch.eye(24)
    assert float(apart.min()) > 0.1


def test_a_random_state_of_others_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    dead_leaves(2, 3, 16, 16)

    assert torch.equal(torch.random.get_rng_state(), before)


def test_their_power_falls_with_the_square_of_the_frequency() -> None:
    """As in natural images (Field, 1987): from 4 to 16 waves across by some 4². Noise has the same at all."""
    grey = dead_leaves(24, 3, 64, 64).mean(1)
    power = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square().mean(0)
    at = [float(power[k, 0] + power[0, k]) for k in range(1, 21)]

    assert 8 < sum(at[2:6]) / sum(at[14:18]) < 64
