"""What a process is to check, and with what. Needs no torch to import."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # pydantic reads the annotations

from service.models.order import LoadOrder

__all__ = ["Job"]


class Job(LoadOrder):
    """One model to check.

    Attributes:
        image: a picture's file.
        image_name: how it is called.
        out: folder for what is drawn; None where it is not kept.
    """

    image: bytes
    image_name: str
    out: Path | None
