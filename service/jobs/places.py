"""How many evaluations may wait or run, how many of them one API key may have, and whose turn it is.

Runs in the front process.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.errors import TooManyEvaluations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from service.jobs.job import Job
    from service.settings import Settings

__all__ = ["Places"]


class Places:
    """The places that there are. Where there are several keys, one has half of them at most.

    Args:
        settings: how many there are, and which keys.
    """

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_evaluations
        self.share = (self._most + 1) // 2 if len(settings.keys) > 1 else self._most
        self._arriving: Counter[str | None] = Counter()
        self._processes = settings.evaluation_processes
        self._turns: dict[str | None, int] = {}  # the number of each key's latest one
        self._begun = 0

    @contextmanager
    def hold(self, owner: str | None, jobs: Iterable[Job]) -> Iterator[None]:
        """Hold one of the places, beside those of ``jobs``, while what is sent arrives.

        Raises:
            TooManyEvaluations: all are taken, or all that this key may have.
        """
        taken = self._arriving + Counter(job.facts.owner for job in jobs if not job.over)
        if taken.total() >= self._most:
            raise _full(f"{self._most} evaluations wait or run")
        if taken[owner] >= self.share:
            raise _full(f"{self.share} evaluations of your API key wait or run")
        self._arriving[owner] += 1
        try:
            yield
        finally:
            self._arriving[owner] -= 1

    def next(self, jobs: Iterable[Job]) -> Job | None:
        """Return the evaluation that begins now, one of a model at a time; None where none may.

        Keys take turns: it is the oldest of the one whose turn was longest ago.
        """
        there = list(jobs)
        busy = [job.facts.model for job in there if job.task is not None]
        waiting = [job for job in there if job.facts.state == "queued" and job.task is None]
        waiting = [job for job in waiting if job.facts.model not in busy]
        if not waiting or len(busy) >= self._processes:
            return None
        found = min(waiting, key=lambda job: self._turns.get(job.facts.owner, 0))
        self._begun += 1
        self._turns[found.facts.owner] = self._begun
        return found


def _full(how: str) -> TooManyEvaluations:
    return TooManyEvaluations(
        f"{how}, and more may not. Delete one of yours, or ask again when one has ended.", retry_after_s=60
    )
