"""The table of model sources."""

from __future__ import annotations

from service.errors import ModelLoadError, closest
from service.models.sources import embedded, python, torchvision_models
from service.models.sources.source import Source

__all__ = ["SOURCES", "find_source"]

SOURCES: dict[str, Source] = {
    "embedded": Source("Embedded in this package", embedded.architectures, embedded.has, embedded.load),
    "torchvision": Source(
        "torchvision classification models",
        torchvision_models.architectures,
        torchvision_models.has,
        torchvision_models.load,
    ),
    "python": Source("Your own code, by dotted name: mypackage.nets.build", list, python.has, python.load),
}


def find_source(architecture: str) -> Source:
    """Find the source that has ``architecture``.

    Raises:
        ModelLoadError: none has; the message names the closest.
    """
    for source in SOURCES.values():
        if source.has(architecture):
            return source
    known = [name for source in SOURCES.values() for name in source.architectures()]
    near = closest(architecture, known)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ModelLoadError(f"There is no architecture {architecture!r}.{meant} `camserve models` lists them.")
