"""``camserve manage``: change the models of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.flags import add_command, server_url
from service.settings import ModelConfig

if TYPE_CHECKING:
    import argparse

    from service.wire_models import ModelEntry

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = add_command(commands, "manage", _manage, "change the models of a running server")
    parser.add_argument("--server", type=server_url, default="http://127.0.0.1:8000", metavar="URL", help="where it is")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds a key with the scope manage")
    parser.add_argument("--wait", type=float, default=300.0, metavar="S", help="seconds to wait until it is loaded")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    put = verbs.add_parser("put", help="create a model, or replace it while it answers")
    put.add_argument("model", help="[name=]architecture[:weights][,option=value…]; paths are those of the server")
    reload = verbs.add_parser("reload", help="load a model again, because its file has changed")
    reload.add_argument("model", help="its name")
    reload.add_argument("--layer", metavar="LAYER", help="the default layer from then on; as it is if left out")
    for verb, text in {
        "unload": "put a model out of memory until somebody asks for it",
        "remove": "remove a model",
    }.items():
        verbs.add_parser(verb, help=text).add_argument("model", help="its name")
    alias = verbs.add_parser("alias", help="point a further name to a version of a model")
    for name in ("alias", "model", "version"):
        alias.add_argument(name)


def _manage(options: argparse.Namespace) -> int:
    from service.client import Client  # noqa: PLC0415

    key = options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else None
    with Client(options.server, api_key=key, retries=0) as client:
        match options.verb:
            case "put":
                config = ModelConfig.model_validate(options.model)
                fields = config.model_dump(mode="json", exclude_unset=True, exclude={"name"})
                _tell(client.put_model(config.name, wait_s=options.wait, **fields))
            case "reload":
                _tell(client.reload_model(options.model, layer=options.layer, wait_s=options.wait))
            case "unload":
                _tell(client.unload_model(options.model))
            case "remove":
                client.remove_model(options.model)
                print(f"{options.model}: removed")
            case "alias":
                pointed = client.put_alias(options.alias, options.model, options.version)
                print(f"{pointed.alias}: {pointed.model}, version {pointed.version}")
    return 0


def _tell(entry: ModelEntry) -> None:
    print(f"{entry.name}: {entry.state}" + (f", version {entry.version}" if entry.version else ""))
    for version in entry.versions:
        # One that an alias points to never takes over.
        if version.state in {"loading", "ready"} and not (version.current or version.aliases):
            which = f"version {version.version}" if version.version else "another version"
            how_far = f"{version.progress:.0%}" + (f", {version.stage}" if version.stage else "")
            print(f"{entry.name}: {which} is being loaded ({how_far}), and takes over once it is ready")
    for warning in entry.warnings:
        print(f"warning: {warning.text}")
