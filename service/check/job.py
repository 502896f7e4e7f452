"""What a process is to check, and with what. Needs no torch to import."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # pydantic reads the annotations

from pydantic import BaseModel, ConfigDict

from service.settings import LogFormat, LogLevel, ModelConfig, Settings

__all__ = ["Job"]


class Job(BaseModel):
    """One model to check; it goes to the process as JSON.

    Attributes:
        config: of the model.
        device: as in the settings, and so are those that follow.
        image: a picture's file.
        image_name: how it is called.
        out: folder for what is drawn; None where it is not kept.
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
    image: bytes
    image_name: str
    out: Path | None

    @classmethod
    def of(cls, settings: Settings, config: ModelConfig, image: tuple[bytes, str], out: Path | None) -> Job:
        """Make one of the settings, for one of their models; ``image`` is a file and its name."""
        shared = {name: getattr(settings, name) for name in cls.model_fields if name in Settings.model_fields}
        return cls(config=config, image=image[0], image_name=image[1], out=out, **shared)

    def to_json(self) -> bytes:
        """Encode it, without what was left out of the model's configuration: that has defaults of its source."""
        return self.model_dump_json(exclude_unset=True).encode()
