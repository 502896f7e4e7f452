"""What the process of an evaluation is told. Needs no torch to import."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # pydantic reads the annotations
from typing import Any

from pydantic import BaseModel, ConfigDict

from service.evaluation.asked import Purpose  # noqa: TC001
from service.settings import LogFormat, LogLevel, ModelConfig, Settings

__all__ = ["Order"]


class Order(BaseModel):
    """One evaluation; it goes to its process as JSON.

    Attributes:
        config: of the model.
        digest: that the model must have.
        folder: where the pictures lie, and where everything that is found goes.
        layers: to compare.
        methods: to compare.
        purposes: what maps are wanted for.
        seed: what all chance follows from.
        seconds: that earlier processes have spent on it.
        device: as in the settings, and so are those that follow.
    """

    model_config = ConfigDict(frozen=True)

    config: ModelConfig
    digest: str
    folder: Path
    layers: tuple[str, ...]
    methods: tuple[str, ...]
    purposes: tuple[Purpose, ...]
    seed: int
    seconds: float
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
    def of(cls, settings: Settings, config: ModelConfig, **facts: Any) -> Order:
        """Make one for a model, with what is set."""
        shared = {name: getattr(settings, name) for name in cls.model_fields if name in Settings.model_fields}
        return cls(config=config, **shared | facts)

    def to_json(self) -> bytes:
        """Encode it, without what was left out of the model's configuration: that has defaults of its source."""
        return self.model_dump_json(exclude_unset=True).encode()
