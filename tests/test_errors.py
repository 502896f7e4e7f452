"""What errors carry besides their words."""

from __future__ import annotations

import pickle

import pytest

from service.errors import LayerNotExplainable, UnknownColormap, UnknownLayer, UnknownName

ERROR = UnknownLayer.among("layer5", ["layer3", "layer4"], model="m")


def test_an_unknown_name_says_what_it_is_for_programs_too() -> None:
    assert (ERROR.kind, ERROR.name, ERROR.model) == ("layer", "layer5", "m")
    assert ERROR.suggestions == ("layer4", "layer3")
    assert ERROR.message == "There is no layer 'layer5'. Did you mean 'layer4' or 'layer3'?"


def test_a_hint_follows_where_it_holds_for_everybody() -> None:
    error = UnknownColormap.among("rainbow", ["turbo", "hot"], "Choose one of: turbo, hot.")
    assert error.message == "There is no colormap 'rainbow'. Choose one of: turbo, hot."
    assert error.suggestions == ()


def test_details_are_what_a_response_shows_and_no_more() -> None:
    assert ERROR.details == {"suggestions": ["layer4", "layer3"]}


@pytest.mark.parametrize("error", [ERROR, LayerNotExplainable.because("fc", "m", "no grid", "layer4")])
def test_an_error_of_a_worker_arrives_whole(error: UnknownName | LayerNotExplainable) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.model == "m"
