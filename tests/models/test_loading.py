from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from service.errors import ModelLoadError
from service.models.info import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.models.conftest import LoadToy

ODD = ModelWarning("odd", "The weights look odd. Save them again.")


def test_what_a_source_warns_of_is_known_and_logged(load_toy: LoadToy, caplog: pytest.LogCaptureFixture) -> None:
    toy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with caplog.at_level(logging.WARNING):
        info = load_toy(toy, warnings=(ODD,)).info

    assert info.warnings == (ODD,)
    assert caplog.messages == ["model toy: The weights look odd. Save them again."]


class OneLogit(nn.Module):
    """A logit of about 1000, of which pictures change little; ``rows`` may mix what is beside them into it."""

    def __init__(self, rows: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 1, 1)
        self._rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return self._rows(1000 + self.body(x).mean((2, 3)))


class TestRowsOfOneLogit:
    """The range of a single logit is nothing: what is rounding goes by its size."""

    def test_rounding_is_no_dependence(self, load_toy: LoadToy) -> None:
        info = load_toy(OneLogit(lambda logits: logits * (1 + 1e-6 * len(logits)))).info

        assert info.default_layer == "body"

    def test_dependence_is_found(self, load_toy: LoadToy) -> None:
        with pytest.raises(ModelLoadError, match="changes with the other pictures in the batch"):
            load_toy(OneLogit(lambda logits: logits * (1 + 1e-2 * len(logits))))

    def test_rounding_of_terms_that_cancel_is_none_either(self, load_toy: LoadToy) -> None:
        """A logit near zero that is the difference of large numbers is rounded as these are."""
        load_toy(OneLogit(lambda logits: 1e-9 * logits + 1e-7 * len(logits)))


def test_views_stacked_in_the_batch_are_named_as_the_reason(load_toy: LoadToy) -> None:
    """The model sees two rows per picture inside: the picture and its mirror image."""

    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 4, 4, 4)

        def forward(self, images: Tensor) -> Tensor:
            both: Tensor = self.features(torch.cat([images, images.flip(3)])).mean((2, 3))
            return both[: len(images)] + both[len(images) :]

    with pytest.raises(ModelLoadError, match="'features', is refused: its output has not one row per picture"):
        load_toy(Stacked())
