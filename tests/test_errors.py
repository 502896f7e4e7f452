"""What errors carry besides their words."""

from __future__ import annotations

import pickle

import pytest

from service.errors import (
    LayerNotExplainable,
    ModelLoadError,
    UnknownColormap,
    UnknownLayer,
    UnknownName,
    first_line,
    kind_and_line,
)

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


def test_a_message_can_be_written_whatever_it_was_made_of() -> None:
    message = ModelLoadError("a \ud83d and \x1b[31m\n" + "x" * 1_000_000).message
    assert message.encode().startswith(b"a \\ud83d and \\x1b[31m\nxxx")
    assert len(message) == 4000


@pytest.mark.parametrize(
    ("said", "line"),
    [("", "ValueError"), ("\n first. \nsecond", "first"), ("\ud83d", "\\ud83d"), ("y" * 999, "y" * 299 + "…")],
)
def test_the_first_line_of_what_an_exception_says(said: str, line: str) -> None:
    assert first_line(ValueError(said)) == line
    assert kind_and_line(ValueError(said)) == (f"ValueError: {line}" if said else "ValueError")


def test_an_exception_that_cannot_say_anything_has_its_kind() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    assert first_line(Mute()) == kind_and_line(Mute()) == "Mute"
