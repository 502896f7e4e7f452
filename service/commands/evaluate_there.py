"""``camserve evaluate --server``: the evaluation runs behind a server, and is cancelled with Ctrl-C."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from service.commands.evaluated import require_marks, require_places, write
from service.commands.evaluation_table import table
from service.commands.flags import named
from service.commands.pictures import images_in
from service.errors import InvalidOption

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from service.client import Client
    from service.wire_evaluation import Evaluation

__all__ = ["evaluate_there"]


def evaluate_there(options: argparse.Namespace) -> int:
    """Do what the flags say at the server that they name."""
    from service.client import Client  # noqa: PLC0415

    if options.compare_with:
        raise InvalidOption("Two models are compared here, not behind a server: leave out --server or --compare-with.")
    require_marks(options)
    require_places(options)
    key = options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else None
    with Client(options.server, api_key=key, timeout=600.0) as client:
        if options.cancel:
            client.remove_evaluation(options.cancel)
        elif options.list:
            print("\n".join(_listed(client)))
        else:
            _write(options, client, _evaluated(options, client))
    return 0


def _listed(client: Client) -> Iterator[str]:
    for each in client.evaluations().evaluations:
        left = "" if each.eta_s is None else f", {each.eta_s:.0f} s left"
        reason = f": {each.reason}" if each.reason else ""
        yield f"{each.id}  {each.model}  {each.images} pictures  {each.state} {each.progress:.0%}{left}{reason}"


def _evaluated(options: argparse.Namespace, client: Client) -> Evaluation:
    """Send the pictures of the folder under their paths in it, and wait."""
    if options.folder is None or not options.folder.is_dir():
        raise FileNotFoundError(f"there is no folder {options.folder}" if options.folder else "name a folder")
    if len(options.models or ()) > 1:
        raise InvalidOption("A server is asked for one model: give --model once, with the name that it has there.")
    images, masks = _pictures(options.folder, options.masks)
    with _bar() as progress:
        return client.evaluate(
            images,
            masks=masks or None,
            annotations=options.boxes,
            progress=progress,
            model=options.models[0] if options.models else None,
            layer=options.layers,
            method=options.methods,
            purpose=options.purpose,
            seed=options.seed,
        )


def _pictures(folder: Path, masks: Path | None) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the pictures of a folder, and their masks, by the path from it."""
    from service.evaluation.annotations import mask_file  # noqa: PLC0415
    from service.evaluation.gathering import without_masks  # noqa: PLC0415

    if masks is not None and not masks.is_dir():
        raise FileNotFoundError(f"there is no folder {masks}")
    files = filter(_is_readable, without_masks(images_in(folder), masks))
    names = {file.relative_to(folder): file for file in files}
    if not names:
        raise FileNotFoundError(f"there is no picture in {folder}")
    found = {} if masks is None else {name: mask_file(masks, name) for name in names}
    return (
        {name.as_posix(): file for name, file in names.items()},
        {name.as_posix(): mask for name, mask in found.items() if mask is not None and mask != names[name]},
    )


def _is_readable(file: Path) -> bool:
    """Whether a file can be sent; say why it is left out otherwise."""
    try:
        file.open("rb").close()
    except OSError as error:
        print(f"{named(file)}: The file cannot be read: {error.strerror}.", file=sys.stderr)
        return False
    return True


@contextmanager
def _bar() -> Iterator[Callable[[Evaluation], None]]:
    """Show how far it is, and how much time is left."""
    from tqdm import tqdm  # noqa: PLC0415

    form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} so far{postfix}"
    with tqdm(total=1.0, bar_format=form, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def show(found: Evaluation) -> None:
            bar.set_description_str(found.stage or found.state, refresh=False)
            bar.set_postfix_str("" if found.eta_s is None else f"{found.eta_s:.0f} s left", refresh=False)
            bar.update(found.progress - bar.n)

        yield show


def _write(options: argparse.Namespace, client: Client, done: Evaluation) -> None:
    assert done.result is not None
    result: dict[str, Any] = done.result.model_dump(exclude_unset=True)
    for each in done.skipped:
        print(f"{named(each.name)}: {each.text}", file=sys.stderr)
    write(options, result, partial(client.evaluation_report, done.id), table(result))
