"""What somebody sent for an evaluation: pictures, and what is marked on them. Files have numbers, no names."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # pydantic reads the annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["ANNOTATIONS", "MATERIAL", "PICTURES", "Image", "Look", "Material", "Skipped"]

PICTURES = "pictures"
"""The folder, in that of a job, with what was sent."""
ANNOTATIONS, MATERIAL = "annotations", "material.json"
"""In it, a file of COCO, and what the other files are."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Image(_Kept):
    """A picture, or a mask.

    Attributes:
        file: its name in the folder.
        name: under which it was sent.
        mask: the file of its mask.
    """

    file: str
    name: str
    mask: str | None = None


class Skipped(_Kept):
    """A file that is left out.

    Attributes:
        name: under which it was sent.
        code: of what is wrong with it.
        text: the same in words.
    """

    name: str
    code: str
    text: str


class Material(_Kept):
    """All that was sent.

    Attributes:
        images: the pictures.
        masks: the masks that were sent; those that belong to a picture stand there, too.
        annotations: whether there is a file of COCO.
        marked: pictures on which something is marked.
        skipped: what is left out.
    """

    images: tuple[Image, ...] = ()
    masks: tuple[Image, ...] = ()
    annotations: bool = False
    marked: int = 0
    skipped: tuple[Skipped, ...] = ()


class Look(_Kept):
    """What the process that looks at what was sent is told; it goes there as JSON."""

    folder: Path
    material: Material
    max_image_bytes: int
    max_image_pixels: int
    max_image_frames: int
