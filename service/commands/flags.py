"""What several commands have in common: their parsers, flags of requests and settings, words for errors."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from service import logs
from service.errors import LayerNotExplainable, ServiceError, UnknownLayer, UnknownMethod
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.options import Option

__all__ = [
    "add_command",
    "add_options",
    "add_settings",
    "drop_output",
    "find_own_code",
    "named",
    "server_url",
    "settings_of",
    "worded",
]


def add_command(commands: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    """Add a command that ``run`` carries out; return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=f"{help_text.capitalize()}."
    )
    parser.set_defaults(run=run)
    return parser


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Give the command a flag for every option of a request."""
    group = parser.add_argument_group("options of the request", "docs/api.md has their defaults and bounds")
    for option in options:
        flag = f"--{option.name.replace('_', '-')}"
        text = option.describe(methods="docs/methods.md", colormaps="docs/api.md").replace("%", "%%")
        if option.type is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            group.add_argument(
                flag,
                action="append" if option.repeatable else "store",
                choices=option.choices or None,
                metavar=None if option.choices else option.name.upper(),
                help=f"{text} Repeatable." if option.repeatable else text,
            )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Give the command a flag for every setting."""
    group = parser.add_argument_group("settings", "also as CAMSERVE_… in the environment, and in the --config file")
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    for name, field in Settings.model_fields.items():
        text = (field.description or "").replace("%", "%%")
        if name == "models":
            group.add_argument("--model", dest=name, action="append", metavar="MODEL", help=text)
        elif field.annotation is bool:
            group.add_argument(f"--{name.replace('_', '-')}", action=argparse.BooleanOptionalAction, help=text)
        else:
            choices = (
                typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else None
            )
            metavar = None if choices else name.rpartition("_")[2].upper()
            group.add_argument(f"--{name.replace('_', '-')}", choices=choices, metavar=metavar, help=text)


def settings_of(options: argparse.Namespace) -> Settings:
    """Read the settings that a command was given, and let the log look as they say.

    Raises:
        OSError: the settings file cannot be read.
        pydantic.ValidationError: a setting is not as it must be.
        tomllib.TOMLDecodeError: the settings file is not TOML.
    """
    given = {name: value for name in Settings.model_fields if (value := getattr(options, name, None)) is not None}
    with logs.kept_back():
        settings = load_settings(options.config, **given)
        logs.configure(settings.log_level, settings.log_format)
    return settings


def server_url(text: str) -> str:
    """Read the address of a server.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r} is no address of a server, such as http://127.0.0.1:8000")
    return text


def find_own_code() -> None:
    """Let models from the user's own code be imported from the working directory, as a worker process does."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def drop_output() -> None:
    """Send what is printed nowhere: Python would try to flush the rest at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def named(file: object) -> str:
    r"""Return a file's name for a terminal, which obeys control characters: as ``\x1b``, ends of lines, too."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(file))


def worded(error: ServiceError) -> str:
    """Return the message, followed by where the command line lists what could have been asked for.

    A server's message says where the server does: ``camserve layers`` would load a model of its own.
    """
    if isinstance(error, UnknownLayer | LayerNotExplainable) and not _is_of_server(error):
        return f"{error} `camserve layers` lists those that can be explained."
    return f"{error} docs/methods.md describes them." if isinstance(error, UnknownMethod) else str(error)


def _is_of_server(error: ServiceError) -> bool:
    from service.client.errors import ClientError  # noqa: PLC0415

    return isinstance(error, ClientError)
