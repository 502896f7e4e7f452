"""``camserve key``: make an API key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.commands.flags import add_command
from service.settings import KeyConfig

if TYPE_CHECKING:
    import argparse

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    key = add_command(commands, "key", _key, "make an API key")
    key.add_argument("name", help="who gets it; stands in the log")


def _key(options: argparse.Namespace) -> int:
    from service.web.keys import digest_of, make_key  # noqa: PLC0415

    key = make_key()
    config = KeyConfig(name=options.name, sha256=digest_of(key))
    print(
        f"The key, which is shown this once and kept nowhere:\n\n  {key}\n\n"
        f"What the settings file keeps of it; more options are in docs/operations.md:\n\n"
        f'[[keys]]\nname = "{config.name}"\nsha256 = "{config.sha256}"\nscopes = ["infer"]\n\n'
        f"Or, in the environment:\n\nCAMSERVE_KEYS={config.name}={config.sha256}"
    )
    return 0
