"""What has been loaded once while the service runs: the same need not be tried again.

Runs in the front process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.engine.file_marks import files_of, mark

if TYPE_CHECKING:
    from service.engine.file_marks import Mark
    from service.models.info import ModelInfo
    from service.settings import ModelConfig

__all__ = ["Proven"]

_REMEMBERED = 1000


class Proven:
    """Remembers configurations that could be loaded, with a mark of their files and what was found out."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Mark, ModelInfo]] = {}

    def mark(self, config: ModelConfig) -> Mark:
        """Return the mark of the files of a model as they are; takes a while where they are many."""
        return mark(files_of(config))

    def add(self, config: ModelConfig, files: Mark, info: ModelInfo) -> None:
        """Remember that a model could be loaded when its files had this mark."""
        self._known.pop(_text(config), None)
        self._known[_text(config)] = files, info
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    def forget(self, config: ModelConfig) -> None:
        """Have a model tried again."""
        self._known.pop(_text(config), None)

    def info(self, config: ModelConfig, files: Mark, *, same_code: bool) -> ModelInfo | None:
        """Return what was found out of the same model; None where it may be another.

        Args:
            config: of the model.
            files: mark of its files as they are.
            same_code: whether a function of the user's is what it was, as where workers have imported it.
        """
        then, info = self._known.get(_text(config), (None, None))
        if info is None or then != files or (info.source == "python" and not same_code):
            return None
        return info


def _text(config: ModelConfig) -> str:
    """Write down what a model is loaded from."""
    return config.model_dump_json(exclude={"version"})
