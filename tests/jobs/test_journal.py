"""What was found is in the file as soon as it was found, whatever happens then."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

STEPS = {f"maps/{number}": {"a0": np.arange(number + 1.0), "a/1\t": np.array(number)} for number in range(4)}


def write(file: Path) -> None:
    with Journal(file) as journal:
        for step, found in STEPS.items():
            journal.put(step, found)
        assert journal.found == len(STEPS)


def known(file: Path) -> list[str]:
    with Journal(file) as journal:
        assert journal.found == 0
        found = [step for step in STEPS if step in journal]
        for step in found:
            for name, array in STEPS[step].items():
                np.testing.assert_array_equal(journal[step][name], array)
        return found


def test_it_goes_on_from_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "found"
    write(file)
    assert known(file) == list(STEPS)
    with Journal(file) as journal:
        journal.put("more", {"x": np.zeros(2)})
    with Journal(file) as journal:
        assert "more" in journal
        assert "maps/0" in journal


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "found")
    assert stat.S_IMODE((tmp_path / "found").stat().st_mode) == 0o600


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("journal") / "found"
    write(file)
    return file.read_bytes()


@given(data=st.data())
def test_cut_off_anywhere_the_whole_records_before_are_known(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("cut") / "found"
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    found = known(file)
    assert found == list(STEPS)[: len(found)]
    assert len(found) < len(STEPS)
    assert file.read_bytes() == whole[: file.stat().st_size]  # and what is appended next follows on that


@given(data=st.data())
def test_a_flipped_bit_is_never_taken_for_what_was_found(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("flipped") / "found"
    damaged = bytearray(whole)
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(damaged)
    assert known(file) == list(STEPS)[: len(known(file))]
