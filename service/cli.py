"""The command line, ``camserve``: what it prints where a command fails, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service import __version__
from service.commands import check, document, evaluate, export, files, golden, keys, manage, models, serve
from service.commands.flags import drop_output, worded
from service.errors import ServiceError, writable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "make_parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    printing = _open_standard_streams()
    options = make_parser().parse_args(arguments)
    if options.command != "serve" and not printing:
        print("camserve: standard output is closed: nothing can be printed", file=sys.stderr)
        return 1
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # here, where a broken pipe is still caught
    except BrokenPipeError:
        drop_output()  # whoever read it has seen enough
        return 141
    except ServiceError as error:
        print(f"camserve: {worded(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"camserve: {writable(str(error))}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()  # it is what failed, and would be tried again at exit
        return 1
    except ValidationError as error:
        for problem in error.errors():
            print(f"camserve: {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}", file=sys.stderr)
        return 2
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        print(f"camserve: the settings file is not TOML: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(130)  # Python would wait for the threads that load and compute, which nothing stops
    return code


def _open_standard_streams() -> bool:
    """Open what was closed for this process (``>&-``); return whether there was an output to print to.

    Otherwise the next file or socket gets the number, and whatever a library prints goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free
    printing = sys.stdout is not None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # for as long as the process lives
    # A label or a file's name may hold what the terminal's encoding lacks: that is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    return printing


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands, in the order in which the help lists them."""
    parser = argparse.ArgumentParser("camserve", description="Where did the classifier look? Class activation maps.")
    parser.add_argument("--version", action="version", version=f"camserve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for module in (serve, files, export, models, check, evaluate, golden, manage, keys, document):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
