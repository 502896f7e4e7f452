"""What became of recorded pictures under another version: in words, and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from service.imaging.difference import moved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from service.golden.recording import RecordedModel, RecordedPicture

__all__ = ["ComparedPicture", "Report"]


@dataclass
class ComparedPicture:
    """A picture then and now.

    Attributes:
        before: as it was recorded.
        after: as it is now, map for map; None where it could not be compared.
        error: why it could not.
        drawn: the pictures of differences, by the number of the map.
    """

    before: RecordedPicture
    after: RecordedPicture | None = None
    error: str | None = None
    drawn: dict[int, Path] = field(default_factory=dict)

    @cached_property
    def moved(self) -> tuple[float, ...]:
        """For each map, the share of its mass that lies elsewhere now."""
        if self.after is None:
            return ()
        pairs = zip(self.before.maps, self.after.maps, strict=True)
        return tuple(moved(was.levels(), now.levels()) for was, now in pairs)

    @property
    def renamed(self) -> bool:
        """Whether another class is predicted now."""
        return self.after is not None and self.after.label != self.before.label

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        after = self.after
        maps = [
            {"layer": was.layer, "method": was.method, "label": was.label, "moved": round(share, 6), "drawn": path}
            for number, (was, share) in enumerate(zip(self.before.maps, self.moved, strict=False))
            for path in [str(self.drawn[number]) if number in self.drawn else None]
        ]
        return {
            "file": self.before.file,
            "error": self.error,
            "predicted": {
                "recorded": {"label": self.before.label, "probability": self.before.probability},
                "now": after and {"label": after.label, "probability": after.probability},
            },
            "maps": maps,
        }


@dataclass(frozen=True)
class Report:
    """All pictures of a recording.

    Attributes:
        recorded: whose maps were recorded.
        now: which model they were compared with.
        tolerance: the share of a map's mass that may lie elsewhere.
        pictures: in their order.
    """

    recorded: RecordedModel
    now: RecordedModel
    tolerance: float
    pictures: Sequence[ComparedPicture]

    @property
    def passed(self) -> bool:
        """Whether every map could be compared, and is where it was."""
        return all(
            each.error is None and all(share <= self.tolerance for share in each.moved) for each in self.pictures
        )

    def as_json(self) -> str:
        """Return it for programs."""
        told = {
            "passed": self.passed,
            "tolerance": self.tolerance,
            "recorded": self.recorded.model_dump(),
            "now": self.now.model_dump(),
            "pictures": [each.as_json() for each in self.pictures],
        }
        return json.dumps(told, indent=2)

    def as_text(self) -> str:
        """Return a line for everything that is not as it was, and one that sums up."""
        return "\n".join([*self._lines(), self._summary()])

    def _lines(self) -> Iterator[str]:
        for each in self.pictures:
            if each.error is not None:
                yield f"{each.before.file}: {each.error}"
            if each.renamed and each.after is not None:
                now, was = (f"{of.label} {of.probability:.1%}" for of in (each.after, each.before))
                yield f"{each.before.file}: now {now}, recorded as {was}"
            for number, path in each.drawn.items():
                of = each.before.maps[number]
                yield (
                    f"{each.before.file}: {each.moved[number]:.1%} of the map lies elsewhere "
                    f"({of.layer}, {of.method}, {of.label}): {path}"
                )

    def _summary(self) -> str:
        shares = [share for each in self.pictures for share in each.moved]
        moved_far = sum(share > self.tolerance for share in shares)
        failed = sum(each.error is not None for each in self.pictures)
        was, now = (f"{model.name} {model.version}" for model in (self.recorded, self.now))
        of = f"{was}" if self.recorded == self.now else f"{now}, recorded with {was}"
        failures = f", {failed} of {len(self.pictures)} pictures could not be compared" if failed else ""
        return (
            f"{'passed' if self.passed else 'failed'}: {len(shares)} maps of {of}, {moved_far} moved by more than "
            f"{self.tolerance:.3g} ({self.tolerance:.0%}), the furthest by {max(shares, default=0.0):.1%}{failures}"
        )
