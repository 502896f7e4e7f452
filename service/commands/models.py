"""``camserve models`` and ``layers``: what can be served, and what of it can be explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.commands.flags import add_command, add_settings, find_own_code, settings_of

if TYPE_CHECKING:
    import argparse

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add both commands to the parser's."""
    add_command(commands, "models", _models, "list the architectures that can be served")
    layers = add_command(commands, "layers", _layers, "list the layers of a model")
    layers.add_argument("--all", action="store_true", help="also those that cannot be explained, with the reason")
    add_settings(layers)


def _models(_options: argparse.Namespace) -> int:
    from service.models.sources.table import SOURCES  # noqa: PLC0415

    for source in SOURCES.values():
        print(f"{source.title}:")
        for name in source.architectures():
            print(f"  {name}")
    return 0


def _layers(options: argparse.Namespace) -> int:
    from service.models.loading import load_model  # noqa: PLC0415
    from service.models.sources.source import Downloads  # noqa: PLC0415

    settings = settings_of(options)
    find_own_code()
    downloads = Downloads(settings.cache_dir, settings.allow_download, settings.weights_mirror)
    info = load_model(settings.models[0], "cpu", downloads).info
    for layer in info.layers:
        if layer.explainable or options.all:
            mark = "*" if layer.name == info.default_layer else " "
            shape = "×".join(str(size) for size in layer.shape)
            print(f"{mark} {layer.name:48} {layer.type:24} {shape:16} {layer.note or ''}".rstrip())
    print(f"\n* the default layer of {info.name}")
    for warning in info.warnings:
        print(f"warning: {warning.text}")
    return 0
