"""Memory that is shared with a worker: what is put in stays as it is until it is freed."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import pixel_room
from service.engine.pixel_room import PixelRoom, Placed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def descriptor() -> Iterator[int]:
    with PixelRoom.made() as made:
        if made is None:
            pytest.skip("this system has no such memory")
        yield made[1]


def pixels(number: int, count: int = 2, height: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (count, height, 7, 3), np.uint8)


def of_megabytes(count: int) -> NDArray[np.uint8]:
    return np.zeros((1, count, MEGABYTE, 1), np.uint8)


def test_another_process_would_see_the_same(descriptor: int) -> None:
    front, worker = PixelRoom(descriptor), PixelRoom(descriptor)
    placed = front.put(1, pixels(1))
    assert placed is not None
    np.testing.assert_array_equal(worker.at(placed), pixels(1))


@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.sampled_from([1, 5, 200_000])), max_size=30),
)
def test_batches_do_not_touch_each_other(descriptor: int, steps: list[tuple[int, int, int]]) -> None:
    """Each step frees what a number had, and puts in something else; 200,000 rows are four megabytes a picture."""
    room = PixelRoom(descriptor)
    there: dict[int, tuple[Placed, int]] = {}
    for step, (number, count, height) in enumerate(steps):
        room.free(number)
        there.pop(number, None)
        made = np.full((count, height, 7, 3), step, np.uint8)
        if (placed := room.put(number, made)) is not None:
            there[number] = placed, step
        for each, value in there.values():
            assert (room.at(each) == value).all()
    assert sum(int(np.prod(each.shape)) for each, _ in there.values()) <= pixel_room._BYTES


def test_what_finds_no_room_is_not_put_in(descriptor: int) -> None:
    room = PixelRoom(descriptor)
    assert room.put(1, of_megabytes(20)) is not None
    assert room.put(2, of_megabytes(20)) is None
    second = room.put(3, of_megabytes(12))
    assert second is not None
    assert second.start == 20 * MEGABYTE
    room.free(1)
    room.free(2)
    again = room.put(4, of_megabytes(20))
    assert again is not None
    assert again.start == 0
    assert PixelRoom(descriptor).put(1, of_megabytes(33)) is None


def test_a_system_without_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError

    for module, name in ((mmap, "mmap"), (os, "ftruncate"), (os, "memfd_create")):
        monkeypatch.setattr(module, name, forbidden, raising=False)
        with PixelRoom.made() as made:
            assert made is None
    monkeypatch.delattr(os, "memfd_create")
    with PixelRoom.made() as made:
        assert made is None
