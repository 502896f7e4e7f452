"""What a process of its own is told of the model that it is to load, and of how. Needs no torch to import."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # pydantic reads the annotations
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from service.settings import LogFormat, LogLevel, ModelConfig, Settings

__all__ = ["LoadOrder"]


class LoadOrder(BaseModel):
    """A model, and the settings that its process needs; it goes there as JSON.

    Attributes:
        config: of the model.
        device: as in the settings, and so are those that follow.
    """

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    config: ModelConfig
    device: str
    threads: int
    cache_dir: Path
    allow_download: bool
    weights_mirror: str | None
    max_image_bytes: int
    max_image_pixels: int
    max_image_frames: int
    log_level: LogLevel
    log_format: LogFormat

    @classmethod
    def of(cls, settings: Settings, config: ModelConfig, **more: Any) -> Self:
        """Make one for a model, with what is set; ``more`` are the further fields, and settings to be replaced."""
        shared = {name: getattr(settings, name) for name in cls.model_fields if name in Settings.model_fields}
        return cls(config=config, **shared | more)

    def to_json(self) -> bytes:
        """Encode it, without what was left out of the model's configuration: that has defaults of its source."""
        return self.model_dump_json(exclude_unset=True).encode()
