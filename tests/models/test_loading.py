from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from torch import nn

from service.models.info import ModelWarning

if TYPE_CHECKING:
    import pytest

    from tests.models.conftest import LoadToy

ODD = ModelWarning("odd", "The weights look odd. Save them again.")


def test_what_a_source_warns_of_is_known_and_logged(load_toy: LoadToy, caplog: pytest.LogCaptureFixture) -> None:
    toy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with caplog.at_level(logging.WARNING):
        info = load_toy(toy, warnings=(ODD,)).info

    assert info.warnings == (ODD,)
    assert caplog.messages == ["model toy: The weights look odd. Save them again."]
