"""What is checked once it is loaded: the model, what its source gave, and pictures to try it with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from service.cam.methods import METHODS
from service.errors import ServiceError
from service.imaging.decode import DecodedImage, DecodeLimits, decode
from service.imaging.preprocess import decode_for, preprocess
from service.options import Options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.check.job import Job
    from service.models.host import ModelHost
    from service.models.info import ModelInfo
    from service.models.sources.source import LoadedModel

__all__ = ["DEFAULT_METHOD", "Subject"]

(DEFAULT_METHOD,) = Options().methods


@dataclass(frozen=True)
class Subject:
    """A loaded model.

    Attributes:
        job: what was asked for.
        host: the model.
        loaded: what its source gave, before the configuration's overrides.
    """

    job: Job
    host: ModelHost
    loaded: LoadedModel

    @property
    def info(self) -> ModelInfo:
        """What is known of the model."""
        return self.host.info

    @property
    def method(self) -> str | None:
        """The method that it is tried with: the default one, or the first that works."""
        works = [name for name, row in METHODS.items() if name not in self.info.refused_methods and row.uses_layer]
        return DEFAULT_METHOD if DEFAULT_METHOD in works else next(iter(works), None)

    @cached_property
    def picture(self) -> DecodedImage | ServiceError:
        """The picture, or why this model cannot be given it."""
        try:
            return decode(self.job.image, self._limits, self.info.preprocess.channels)
        except ServiceError as error:
            return error

    @cached_property
    def seen(self) -> DecodedImage | ServiceError:
        """The picture as it is decoded for the model, or why it cannot be."""
        if isinstance(self.picture, ServiceError) or self.info.preprocess.decoding == "full":
            return self.picture
        return decode_for(self.job.image, self._limits, self.info.preprocess)

    @property
    def _limits(self) -> DecodeLimits:
        return DecodeLimits(self.job.max_image_bytes, self.job.max_image_pixels, self.job.max_image_frames)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """Eight different inputs, (8, H, W, channels): the picture, turned and inverted; of noise if there is none."""
        spec = self.info.preprocess
        if isinstance(self.seen, DecodedImage):
            upright = preprocess(self.seen, spec).pixels
        else:
            size = (spec.height, spec.width, spec.channels)
            upright = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
        turned = [upright, upright[::-1], upright[:, ::-1], upright[::-1, ::-1]]
        return np.stack([*turned, *(255 - each for each in turned)])
