"""A picture has one answer, or the model is refused at every load, whatever luck it has."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.models.conftest import LoadToy

OWN = torch.Generator()


def coins_of_torch(rows: int) -> Tensor:
    return torch.randint(2, (rows, 1)).float()


def coins_of_numpy(rows: int) -> Tensor:
    return torch.from_numpy(np.random.randint(2, size=(rows, 1))).float()


def coins_of_python(rows: int) -> Tensor:
    return torch.tensor([[float(random.random() < 0.5)] for _ in range(rows)])


def coins_of_its_own(rows: int) -> Tensor:
    return torch.randint(2, (rows, 1), generator=OWN).float()


def one_coin_for_all(rows: int) -> Tensor:
    return torch.randint(2, (1, 1)).float().expand(rows, 1)


class Flips(nn.Module):
    """Adds a coin per row to its logits, times ``strength``."""

    def __init__(self, coins: Callable[[int], Tensor], strength: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Linear(4, 3)
        self.coins, self.strength = coins, strength

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).relu().mean((2, 3)))
        return logits + self.strength * self.coins(len(x))


@pytest.mark.parametrize("coins", [coins_of_torch, coins_of_numpy, coins_of_python, coins_of_its_own, one_coin_for_all])
def test_a_model_that_flips_coins_is_refused_at_every_load(coins: Callable[[int], Tensor], load_toy: LoadToy) -> None:
    model = Flips(coins)
    for seed in range(25):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        OWN.manual_seed(seed)
        with pytest.raises(ModelLoadError, match="the same picture another answer every time"):
            load_toy(model)


def test_random_numbers_that_change_no_answer_are_a_warning(load_toy: LoadToy) -> None:
    info = load_toy(Flips(coins_of_torch, strength=0)).info

    assert [warning.code for warning in info.warnings] == ["random_numbers"]


def test_a_model_that_draws_nothing_leaves_the_generators_alone(load_toy: LoadToy) -> None:
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.random(), np.random.seed(5)

    assert load_toy(Flips(lambda rows: torch.zeros(rows, 1))).info.warnings == ()
    assert (random.getstate(), np.random.random()) == before[:2]


# -- whatever is beside it --------------------------------------------------------------------------------------------


class Leaks(nn.Module):
    """Adds to its logits what depends on the other images of the batch, times ``strength``."""

    def __init__(self, leak: Callable[[Tensor], Tensor], strength: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.Linear(4, 3)
        self.leak, self.strength = leak, strength

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).relu().mean((2, 3)))
        return logits + self.strength * self.leak(logits.detach())


def from_all(logits: Tensor) -> Tensor:
    return logits.mean(0, keepdim=True)


def from_those_before(logits: Tensor) -> Tensor:
    return logits.cumsum(0) - logits


def from_those_behind(logits: Tensor) -> Tensor:
    return logits.flip(0).cumsum(0).flip(0) - logits


@pytest.mark.parametrize("leak", [from_all, from_those_before, from_those_behind])
@pytest.mark.parametrize("strength", [1.0, 1e-3, 1e-4])
def test_the_least_dependence_on_other_pictures_is_refused(
    leak: Callable[[Tensor], Tensor], strength: float, load_toy: LoadToy
) -> None:
    with pytest.raises(ModelLoadError, match="changes with the other pictures in the batch"):
        load_toy(Leaks(leak, strength))


def test_rounding_that_follows_the_size_of_the_batch_alone_is_none(load_toy: LoadToy) -> None:
    def rounding(logits: Tensor) -> Tensor:
        return torch.full_like(logits, 1.0 if len(logits) > 1 else 0.0)

    load_toy(Leaks(rounding, strength=1e-4))
