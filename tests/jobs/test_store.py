"""Where evaluations are kept: private, by one process, whole or with words."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from typing import TYPE_CHECKING

import pytest

from service.errors import ServiceError
from service.jobs.job import Facts
from service.jobs.store import Store, temporary_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDS = [f"01M8M517XD1M8CBHZWXDCDBQ1{number}" for number in range(4)]


def facts(number: int, **changed: object) -> Facts:
    about = {"id": IDS[number], "owner": "ann", "model": "shapes", "digest": "ab", "layers": ("layer4",)}
    return Facts.model_validate({
        **about, "methods": ("gradcam",), "purposes": ("class",), "seed": 2**63 - 1, "images": 3, **changed,
    })  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data" / "evaluations")
    yield store
    store.close()


def test_what_is_put_is_there_after_a_restart(tmp_path: Path, store: Store) -> None:
    kept = [facts(0), facts(1, state="failed", reason="the disk 💽", ended=2.5, seconds=1.5, restarts=2)]
    for each in [*kept, facts(2)]:
        store.put(each)
        store.make_folder(each.id)
    store.remove(IDS[2])
    store.close()
    again = Store(store.root)
    assert again.all() == kept
    again.close()
    store.__init__(store.root)  # type: ignore[misc]  # for the fixture to close


def test_only_this_user_reads_it(store: Store) -> None:
    store.put(facts(0))
    folder = store.make_folder(IDS[0])
    assert stat.S_IMODE(store.root.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [file for file in store.root.iterdir() if file.is_file()]
    assert {file.name for file in files} >= {"evaluations.sqlite", "evaluations.sqlite-wal", "lock"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_removed_with_all_that_lies_there(store: Store) -> None:
    store.put(facts(0))
    (store.make_folder(IDS[0]) / "found").write_bytes(b"x")
    store.remove(IDS[0])
    assert not store.folder(IDS[0]).exists()
    assert store.all() == []


def test_what_was_sent_and_never_taken_goes(store: Store) -> None:
    """The service was killed while somebody sent it."""
    store.put(facts(0))
    for number in (0, 1):
        store.make_folder(IDS[number])
    store.put(facts(3))  # its folder was deleted by hand
    assert [each.id for each in store.all()] == [IDS[0]]
    assert [each.id for each in store.all()] == [IDS[0]]
    assert store.folder(IDS[0]).is_dir()
    assert not store.folder(IDS[1]).exists()


def test_one_process_has_it(store: Store) -> None:
    with pytest.raises(BlockingIOError):
        Store(store.root)


def test_a_damaged_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "evaluations.sqlite").write_bytes(b"no database at all, but long enough" * 100)
    with pytest.raises(ServiceError, match=r"evaluations\.sqlite cannot be read: .* Remove it to forget"):
        Store(tmp_path)


def test_a_damaged_row_is_said_to_be_one(store: Store) -> None:
    store._rows.execute("INSERT INTO evaluations VALUES ('x', '{}')")
    with pytest.raises(ServiceError, match="cannot be read"):
        store.all()


def test_a_later_form_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "evaluations.sqlite") as rows:
        rows.execute("PRAGMA user_version = 99")
    rows.close()
    with pytest.raises(ServiceError, match="later version"):
        Store(tmp_path)


def test_a_disk_that_takes_nothing_is_an_os_error(store: Store) -> None:
    store._rows.execute("PRAGMA query_only = ON")
    with pytest.raises(OSError, match="readonly"):
        store.put(facts(0))


class TestTemporary:
    def test_those_of_killed_services_go(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        left, held, young = (temporary_root() for _ in range(3))
        Store(left).close()
        store = Store(held)
        Store(young).close()
        for folder in (left, held):
            os.utime(folder, (0, 0))
        made = temporary_root()
        assert sorted(tmp_path.iterdir()) == sorted([held, young, made])
        store.close()
