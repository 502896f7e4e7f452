from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

import pytest
from PIL import TiffImagePlugin

from service.errors import InvalidImage
from service.imaging.decode import decode
from service.imaging.quiet import quiet
from tests.hostile.bombs import strips, tiff, tiled

if TYPE_CHECKING:
    from service.imaging.decode import DecodeLimits


def pillow_warns() -> None:
    vars(TiffImagePlugin)["warnings"].warn("odd file")


def test_a_quiet_thread_says_nothing_and_other_threads_still_do() -> None:
    inside, checked = threading.Event(), threading.Event()
    raised: list[Warning] = []

    def decodes() -> None:
        with quiet():
            inside.set()
            checked.wait(60)
            try:
                pillow_warns()
            except Warning as warning:
                raised.append(warning)

    thread = threading.Thread(target=decodes)
    thread.start()
    assert inside.wait(60)
    with pytest.warns(UserWarning, match="odd file"):
        pillow_warns()
    checked.set()
    thread.join()
    assert not raised


def test_quiet_nests_and_ends_after_an_error() -> None:
    def fail() -> None:
        with quiet():
            with quiet():
                pass
            pillow_warns()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.warns(UserWarning, match="odd file"):
        pillow_warns()


def test_the_filters_of_the_process_are_not_touched() -> None:
    before = list(warnings.filters)
    with quiet():
        assert list(warnings.filters) == before


def test_libtiff_says_nothing(capfd: pytest.CaptureFixture[str], limits: DecodeLimits) -> None:
    for data in (tiff(strips(64, 64, 5), bytes(1000)), tiled(64, 64, 64, 8), tiled(64, 64, 2048, 5)):
        with pytest.raises(InvalidImage):
            decode(data, limits)
    assert capfd.readouterr() == ("", "")
