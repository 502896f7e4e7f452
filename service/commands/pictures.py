"""Pictures from files, answered in this process or by whatever else answers: what several commands do with them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from service.commands.flags import find_own_code, named
from service.errors import InvalidImage, ServiceError
from service.options import attributes_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence

    from service.engine.answers import Answer
    from service.engine.explainer import Explainer
    from service.engine.request import Request, Upload
    from service.settings import Settings
    from service.vocabulary import Operation

__all__ = ["explained", "find_images", "images_in", "in_order", "interruptible", "loaded", "request_of"]

T = TypeVar("T")

_TIMEOUT_S = 3600.0  # of one image: nobody waits for others behind it


def request_of(options: argparse.Namespace, op: Operation) -> Request:
    """Make a request of the flags, without images yet.

    Raises:
        pydantic.ValidationError: a value is out of range.
    """
    from service.engine.request import Request  # noqa: PLC0415
    from service.wire import ExplainOptions, PredictOptions  # noqa: PLC0415

    model = ExplainOptions if op == "explain" else PredictOptions
    given = {name: value for name in model.model_fields if (value := getattr(options, name, None)) is not None}
    return Request(op=op, timeout_s=_TIMEOUT_S, **attributes_of(model.model_validate(given).given()))


async def interruptible(work: Coroutine[None, None, int]) -> int:
    """Do ``work``; Ctrl-C ends it whenever it comes.

    ``asyncio.run`` alone does not see one that comes just before the loop falls asleep, or in another thread, until
    something else wakes the loop: here, a model that has loaded.
    """
    loop = asyncio.get_running_loop()
    receiver, sender = socket.socketpair()
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        loop.add_reader(receiver, receiver.recv, 4096)
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            return await work
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(receiver)


@asynccontextmanager
async def loaded(settings: Settings, asked: Request) -> AsyncIterator[Explainer]:
    """Load the first model in this process; a wrong option is wrong for every file, and said once.

    Raises:
        ServiceError: the model cannot be loaded, or the request does not go with it.
    """
    from service.engine.explainer import Explainer  # noqa: PLC0415
    from service.engine.workers.waiting import short_waits  # noqa: PLC0415

    with short_waits():
        from service.engine.workers.in_process import InProcessWorker  # noqa: PLC0415
    from service.metrics import Metrics  # noqa: PLC0415

    find_own_code()
    # The first model alone is asked; the others need not be loaded, nor by more than one worker per device.
    chosen = settings.model_copy(update={"models": settings.models[:1], "workers": 1})
    explainer = Explainer(chosen, Metrics(), launch=InProcessWorker)
    await explainer.start()
    try:
        await explainer.settled()
        explainer.check(asked)
        yield explainer
    finally:
        await explainer.stop()


async def in_order(
    files: Sequence[Path], answer: Callable[[Path], Awaitable[T]], at_once: int, *, total: int, done: int = 0
) -> AsyncIterator[tuple[Path, T]]:
    """Answer files in order, several at a time, with a progress bar where there are several.

    Args:
        files: those to answer.
        answer: answers one.
        at_once: how many at a time.
        total: how many there are in all.
        done: how many of them were answered before.
    """
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm(total=total, initial=done, unit="picture", disable=total < 2) as bar:
        for begin in range(0, len(files), at_once):
            chunk = files[begin : begin + at_once]
            answers = await asyncio.gather(*(answer(file) for file in chunk))
            bar.update(len(chunk))
            for each in zip(chunk, answers, strict=True):
                yield each


async def explained(explainer: Explainer, asked: Request, file: Path) -> Answer | ServiceError:
    """Answer one file, or return what is wrong with it."""
    try:
        return await explainer.answer(replace(asked, images=[_read(file)]))
    except ServiceError as error:
        return error


def _read(file: Path) -> Upload:
    from service.engine.request import Upload  # noqa: PLC0415

    try:
        return Upload(file.read_bytes(), file.name)
    except OSError as error:
        raise InvalidImage(f"The file cannot be read: {error.strerror}.") from error


def find_images(patterns: Sequence[str]) -> Iterator[Path]:
    """Yield the pictures that files, folders and glob patterns name.

    Raises:
        FileNotFoundError: one names none.
    """
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            yield from images_in(path)
        elif path.is_file():
            yield path
        else:
            matches = path.parent.glob(path.name) if any(mark in path.name for mark in "*?[") else ()
            files = sorted(file for file in matches if not file.is_dir())
            if not files:
                raise FileNotFoundError(f"there is no picture {pattern}")
            yield from files


def images_in(folder: Path) -> list[Path]:
    """Return the files below a folder whose names are those of pictures that can be read; say what is left out."""
    from service.imaging.formats import suffixes  # noqa: PLC0415

    known, found = suffixes(), sorted(folder.rglob("*"))
    _tell_of_closed(folder, found)
    # A pipe or a socket would be waited for without end; a link to nothing is said to be one where it is read.
    files = [file for file in found if file.is_file() or not file.exists()]
    left_out = (file for file in files if file.suffix.lower() not in known)
    kinds = Counter(file.suffix.lower() or "without a suffix" for file in left_out)
    if kinds:
        listed = ", ".join(f"{count} {named(kind)}" for kind, count in kinds.most_common())
        print(
            f"{named(folder)}: skipped {sum(kinds.values())}, not named as pictures that are read: {listed}",
            file=sys.stderr,
        )
    return [file for file in files if file.suffix.lower() in known]


def _tell_of_closed(folder: Path, found: Iterable[Path]) -> None:
    """Say which folders are not looked into: those behind links, which may lead in circles, and unreadable ones."""
    for each in (folder, *found):
        if each.is_symlink() and each.is_dir() and each != folder:
            print(f"{named(each)}: skipped, a link to a folder; name that folder itself", file=sys.stderr)
        elif each.is_dir() and not os.access(each, os.R_OK | os.X_OK):
            print(f"{named(each)}: skipped, you lack the permission to read this folder", file=sys.stderr)
