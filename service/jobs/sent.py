"""Has a process look at what was sent for an evaluation, and words what it says.

Runs in the front process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from service.engine.worker_process import words_for_exit
from service.errors import BodyTooLarge, ImageTooLarge, InvalidOption, NoImage, ServiceError
from service.jobs.material import Look, Skipped
from service.jobs.process import StoodStill, run

if TYPE_CHECKING:
    from pathlib import Path

    from service.jobs.material import Material
    from service.settings import Settings

__all__ = ["look"]

_KINDS: dict[str, type[ServiceError]] = {
    kind.code: kind for kind in (BodyTooLarge, ImageTooLarge, InvalidOption, NoImage)
}


async def look(folder: Path, material: Material, settings: Settings) -> tuple[int, int, tuple[Skipped, ...]]:
    """Return how many pictures there are, on how many something is marked, and what is left out.

    Raises:
        NoImage, InvalidOption, BodyTooLarge: what was sent cannot be used.
        OSError: the machine has no process left, or the disk is full.
    """
    limits = {name: getattr(settings, name) for name in Look.model_fields if name.startswith("max_")}
    told: list[dict[str, Any]] = []
    said = Look(folder=folder, material=material, **limits).model_dump_json().encode()
    try:
        how = words_for_exit(await run("service.jobs.looking", said, told.append))
    except StoodStill as still:
        how = str(still)
    match told:
        case [{"images": int(images), "marked": int(marked), "skipped": list(skipped)}]:
            return images, marked, tuple(Skipped.model_validate(each) for each in skipped)
        case [{"errno": int(number)}]:
            raise OSError(number, os.strerror(number))
        case [{"code": str(kind), "message": str(message)}]:
            raise _KINDS.get(kind, InvalidOption)(message)
    raise InvalidOption(
        f"What was sent cannot be read: the process that looked at it {how}. Send fewer pictures, or "
        "less that is marked on them."
    )
