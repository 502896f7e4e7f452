"""``camserve explain`` and ``predict``: pictures from files, without a server."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.flags import add_command, add_options, add_settings, find_own_code, settings_of, worded
from service.errors import InvalidImage, ServiceError
from service.options import OPTIONS, attributes_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence

    from service.engine.answers import Answer, MapAnswer
    from service.engine.explainer import Explainer
    from service.engine.request import Request, Upload
    from service.imaging.encode import EncodedImage
    from service.vocabulary import Operation
    from service.wire import PictureResult

__all__ = ["add"]

_TIMEOUT_S = 3600.0  # of one image: nobody waits for others behind it


def add(commands: Any) -> None:
    """Add both commands to the parser's."""
    explain = add_command(commands, "explain", _explain, "explain pictures without a server")
    _add_files(explain)
    explain.add_argument("--out", type=Path, default=Path("camserve-out"), help="folder for what is drawn, and JSON")
    add_options(explain, OPTIONS.values())
    add_settings(explain)
    predict = add_command(commands, "predict", _predict, "classify pictures without a server")
    _add_files(predict)
    predict.add_argument("--json", action="store_true", help="print JSON lines")
    add_options(predict, [option for option in OPTIONS.values() if option.about.predict])
    add_settings(predict)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="picture, folder or glob pattern")


def _request(options: argparse.Namespace, op: Operation) -> Request:
    """Make a request of the flags, without images yet.

    Raises:
        pydantic.ValidationError: a value is out of range.
    """
    from service.engine.request import Request  # noqa: PLC0415
    from service.wire import ExplainOptions, PredictOptions  # noqa: PLC0415

    model = ExplainOptions if op == "explain" else PredictOptions
    given = {name: value for name in model.model_fields if (value := getattr(options, name)) is not None}
    return Request(op=op, timeout_s=_TIMEOUT_S, **attributes_of(model.model_validate(given).given()))


def _explain(options: argparse.Namespace) -> int:
    options.output = options.output or ["overlay", "regions"]
    return asyncio.run(_interruptible(_explain_files(options, _request(options, "explain"))))


async def _explain_files(options: argparse.Namespace, asked: Request) -> int:
    from service.protocols.native.responses import to_wire  # noqa: PLC0415

    results: list[dict[str, Any]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    async for file, answer in _answers(options, asked):
        if isinstance(answer, ServiceError):
            failed += 1
            print(f"{file}: {worded(answer)}", file=sys.stderr)
            continue
        result = to_wire(answer, str(file)).results[0].model_dump(mode="json", exclude={"error"})
        for explanation, drawn in zip(result["explanations"], answer.images[0].explanations, strict=True):
            stem = options.out / _stem(file, len(results), explanation)
            explanation.update(_written(stem, drawn, with_map="map" in asked.outputs))
        results.append({"file": str(file), "model": answer.model.name, **result})
    summary = options.out / "explanations.json"
    summary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"{len(results)} explained, {failed} failed: {summary}")
    return 1 if failed else 0


def _written(stem: Path, drawn: MapAnswer, *, with_map: bool) -> dict[str, str]:
    """Write what was drawn, and the raw map if asked for; return the files' names by output."""
    import numpy as np  # noqa: PLC0415

    files: dict[str, Path] = {}
    for output in ("heatmap", "overlay", "mask"):
        image: EncodedImage | None = getattr(drawn.rendered, output)
        if image is not None:
            ending = image.media_type.removeprefix("image/").replace("jpeg", "jpg")
            files[output] = stem.with_name(f"{stem.name}{'' if output == 'overlay' else f'-{output}'}.{ending}")
            files[output].write_bytes(image.data)
    if with_map:
        files["map"] = stem.with_name(f"{stem.name}.npy")
        np.save(files["map"], drawn.raw)
    return {output: file.name for output, file in files.items()}


def _stem(file: Path, number: int, explanation: dict[str, Any]) -> str:
    """Name files after their image, layer, method and class; the number keeps equal names apart."""
    parts = [f"{number:04d}", file.stem, explanation["layer"], explanation["method"], explanation["target"]["label"]]
    safe = ["".join(c if c.isalnum() or c in "._-" else "_" for c in part)[:60] for part in parts]
    return "-".join(safe)


def _predict(options: argparse.Namespace) -> int:
    return asyncio.run(_interruptible(_predict_files(options, _request(options, "predict"))))


async def _predict_files(options: argparse.Namespace, asked: Request) -> int:
    from service.protocols.native.responses import to_wire  # noqa: PLC0415

    failed = 0
    async for file, answer in _answers(options, asked):
        if isinstance(answer, ServiceError):
            failed += 1
            print(f"{file}: {worded(answer)}", file=sys.stderr)
            continue
        result = to_wire(answer, str(file)).results[0]
        if options.json:
            asked_for = {"predictions", *(("scores",) if result.scores else ())}
            print(json.dumps({"file": str(file), **result.model_dump(include=asked_for)}))
        else:
            print(f"{file}: {_listed(result)}")
    return 1 if failed else 0


def _listed(result: PictureResult) -> str:
    """Return the classes of a picture in one line, and what its scores are if they were asked for."""
    parts = [f"{each.label} {each.probability:.1%}" for each in result.predictions]
    if result.scores is not None:
        told = result.scores.model_dump(include={"entropy", "margin"})
        parts += [f"{name} {value:.3f}" for name, value in told.items() if value is not None]
    return ", ".join(parts)


async def _interruptible(work: Coroutine[None, None, int]) -> int:
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


async def _answers(options: argparse.Namespace, asked: Request) -> AsyncIterator[tuple[Path, Answer | ServiceError]]:
    """Answer the files in order, several at a time, with a progress bar where there are several."""
    from tqdm import tqdm  # noqa: PLC0415

    from service.engine.explainer import Explainer  # noqa: PLC0415
    from service.engine.workers.in_process import InProcessWorker  # noqa: PLC0415
    from service.metrics import Metrics  # noqa: PLC0415

    settings = settings_of(options)
    files = list(_find_images(options.files))
    find_own_code()
    # The first model alone is asked; the others need not be loaded, nor by more than one worker per device.
    chosen = settings.model_copy(update={"models": settings.models[:1], "workers": 1})
    explainer = Explainer(chosen, Metrics(), launch=InProcessWorker)
    await explainer.start()
    try:
        await explainer.settled()
        explainer.check(asked)  # a wrong option is wrong for every file: it is said once
        step = settings.max_batch_size
        with tqdm(total=len(files), unit="picture", disable=len(files) < 2) as bar:
            for begin in range(0, len(files), step):
                chunk = files[begin : begin + step]
                answers = await asyncio.gather(*(_one(explainer, file, asked) for file in chunk))
                bar.update(len(chunk))
                for file, answer in zip(chunk, answers, strict=True):
                    yield file, answer
    finally:
        await explainer.stop()


async def _one(explainer: Explainer, file: Path, asked: Request) -> Answer | ServiceError:
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


def _find_images(patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            yield from _images_in(path)
        elif path.is_file():
            yield path
        else:
            matches = path.parent.glob(path.name) if any(mark in path.name for mark in "*?[") else ()
            files = sorted(file for file in matches if not file.is_dir())
            if not files:
                raise FileNotFoundError(f"there is no picture {pattern}")
            yield from files


def _images_in(folder: Path) -> list[Path]:
    """Return the files below a folder whose names are those of pictures that can be read; say what is left out."""
    from service.imaging.formats import suffixes  # noqa: PLC0415

    known = suffixes()
    files = sorted(file for file in folder.rglob("*") if not file.is_dir())
    left_out = (file for file in files if file.suffix.lower() not in known)
    kinds = Counter(file.suffix.lower() or "without a suffix" for file in left_out)
    if kinds:
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        print(
            f"{folder}: skipped {sum(kinds.values())}, not named as pictures that are read: {listed}", file=sys.stderr
        )
    return [file for file in files if file.suffix.lower() in known]
