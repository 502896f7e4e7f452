"""Where evaluations are kept: a small SQLite file, and a folder for each. Nobody but this user can read them.

Runs in the front process.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from service.errors import ServiceError
from service.jobs.job import Facts

__all__ = ["Store", "temporary_root"]

_FILE, _LOCK = "evaluations.sqlite", "lock"
_FORM = 1
_PREFIX, _YOUNG_S = "camserve-evaluations-", 60.0
_ULID = re.compile("[0-9A-HJKMNP-TV-Z]{26}")


class Store:
    """Evaluations in a folder. Methods take their time at the disk, and may be called in any thread.

    Args:
        root: the folder; made if it is not there.

    Raises:
        BlockingIOError: another process has it.
        ServiceError: the file is damaged, or of a later version.
        OSError: the folder cannot be written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        self._lock = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._rows = self._opened()
        except BaseException:
            os.close(self._lock)
            raise
        self._one = threading.Lock()

    def _opened(self) -> sqlite3.Connection:
        file = self.root / _FILE
        file.touch(mode=0o600)  # SQLite gives what it puts beside it the same mode
        try:
            rows = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            rows.execute("PRAGMA journal_mode = WAL")
            rows.execute("PRAGMA synchronous = NORMAL")
            (form,) = rows.execute("PRAGMA user_version").fetchone()
            if form > _FORM:
                raise ServiceError(f"{file} is of a later version of camserve. Use that, or another data_dir.")
            rows.execute("CREATE TABLE IF NOT EXISTS evaluations (id TEXT PRIMARY KEY, facts TEXT NOT NULL)")
            rows.execute(f"PRAGMA user_version = {_FORM}")
        except sqlite3.Error as error:
            raise ServiceError(f"{file} cannot be read: {error}. Remove it to forget what it holds.") from error
        return rows

    def close(self) -> None:
        """Let go of the folder."""
        with self._one:
            self._rows.close()
            os.close(self._lock)

    def folder(self, job: str) -> Path:
        """Return the folder of an evaluation."""
        return self.root / job

    def make_folder(self, job: str) -> Path:
        """Make the folder of an evaluation.

        Raises:
            OSError: the disk is full.
        """
        folder = self.folder(job)
        folder.mkdir(mode=0o700)
        return folder

    def all(self) -> list[Facts]:
        """Return what is kept, oldest first; remove folders that belong to nothing, and what has none.

        Raises:
            ServiceError: the file is damaged.
        """
        try:
            with self._one:
                rows = self._rows.execute("SELECT facts FROM evaluations ORDER BY id").fetchall()
            found = [Facts.model_validate_json(facts) for (facts,) in rows]
        except (sqlite3.Error, ValidationError) as error:
            why = f"{error}" if isinstance(error, sqlite3.Error) else "an evaluation in it is none"
            raise ServiceError(
                f"{self.root / _FILE} cannot be read: {why}. Remove it to forget what it holds."
            ) from error
        for facts in [each for each in found if not self.folder(each.id).is_dir()]:
            self.remove(facts.id)  # deleted by hand, or while it was being written
            found.remove(facts)
        known = {facts.id for facts in found}
        for folder in self.root.iterdir():
            if _ULID.fullmatch(folder.name) and folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)  # sent when the service was killed, and never taken
        return found

    def put(self, facts: Facts) -> None:
        """Keep an evaluation, or how it is now.

        Raises:
            OSError: the disk is full, or the folder may not be written to.
        """
        text = facts.model_dump_json()
        try:
            with self._one:
                self._rows.execute("INSERT OR REPLACE INTO evaluations VALUES (?, ?)", (facts.id, text))
        except sqlite3.Error as error:
            raise OSError(f"{self.root / _FILE}: {error}") from error

    def remove(self, job: str) -> None:
        """Forget an evaluation, with its folder."""
        try:
            with self._one:
                self._rows.execute("DELETE FROM evaluations WHERE id = ?", (job,))
        except sqlite3.Error as error:
            raise OSError(f"{self.root / _FILE}: {error}") from error
        finally:
            shutil.rmtree(self.folder(job), ignore_errors=True)


def temporary_root() -> Path:
    """Make a folder for evaluations that nobody keeps; remove those of services that were killed.

    Raises:
        OSError: the disk is full.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _remove_if_left(folder)
    return Path(tempfile.mkdtemp(prefix=_PREFIX))


def _remove_if_left(folder: Path) -> None:
    about = folder.stat(follow_symlinks=False)
    if about.st_uid != os.getuid() or time.time() - about.st_mtime < _YOUNG_S:
        return  # somebody else's, or one whose service has just made it and has not locked it
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
