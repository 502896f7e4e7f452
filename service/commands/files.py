"""``camserve explain`` and ``predict``: pictures from files, without a server."""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.flags import add_command, add_options, add_settings, named, settings_of, worded
from service.commands.pictures import explained, find_images, in_order, interruptible, loaded, request_of
from service.errors import ServiceError
from service.options import OPTIONS

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from service.engine.answers import Answer, MapAnswer
    from service.engine.request import Request
    from service.imaging.encode import EncodedImage
    from service.wire import PictureResult

__all__ = ["add"]


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


def _explain(options: argparse.Namespace) -> int:
    options.output = options.output or ["overlay", "regions"]
    return asyncio.run(interruptible(_explain_files(options, request_of(options, "explain"))))


async def _explain_files(options: argparse.Namespace, asked: Request) -> int:
    from service.protocols.native.responses import to_wire  # noqa: PLC0415

    results: list[dict[str, Any]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    async for file, answer in _answers(options, asked):
        if isinstance(answer, ServiceError):
            failed += 1
            print(f"{named(file)}: {worded(answer)}", file=sys.stderr)
            continue
        result = to_wire(answer, str(file)).results[0].model_dump(mode="json", exclude={"error"})
        for explanation, drawn in zip(result["explanations"], answer.images[0].explanations, strict=True):
            stem = options.out / _stem(file, len(results), explanation)
            explanation.update(_written(stem, drawn, with_map="map" in asked.outputs))
            if drawn.proof is not None:
                print(f"{named(file)}: {drawn.layer}, {drawn.method}: {explanation['verification']['text']}")
        results.append({"file": str(file), "model": answer.model.name, **result})
    summary = options.out / "explanations.json"
    summary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"{len(results)} explained, {failed} failed: {named(summary)}")
    return 1 if failed else 0


def _written(stem: Path, drawn: MapAnswer, *, with_map: bool) -> dict[str, str]:
    """Write what was drawn, and the raw map if asked for; return the files' names by output."""
    import numpy as np  # noqa: PLC0415

    files: dict[str, Path] = {}
    for output in ("heatmap", "overlay", "mask", "hidden"):
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
    return asyncio.run(interruptible(_predict_files(options, request_of(options, "predict"))))


async def _predict_files(options: argparse.Namespace, asked: Request) -> int:
    from service.protocols.native.responses import to_wire  # noqa: PLC0415

    failed = 0
    async for file, answer in _answers(options, asked):
        if isinstance(answer, ServiceError):
            failed += 1
            print(f"{named(file)}: {worded(answer)}", file=sys.stderr)
            continue
        result = to_wire(answer, str(file)).results[0]
        if options.json:
            asked_for = {"predictions", *(("scores",) if result.scores else ())}
            print(json.dumps({"file": str(file), **result.model_dump(include=asked_for)}))
        else:
            print(f"{named(file)}: {_listed(result)}")
    return 1 if failed else 0


def _listed(result: PictureResult) -> str:
    """Return the classes of a picture in one line, and what its scores are if they were asked for."""
    parts = [f"{each.label} {each.probability:.1%}" for each in result.predictions]
    if result.scores is not None:
        told = result.scores.model_dump(include={"entropy", "margin"})
        parts += [f"{name} {value:.3f}" for name, value in told.items() if value is not None]
    return ", ".join(parts)


async def _answers(options: argparse.Namespace, asked: Request) -> AsyncIterator[tuple[Path, Answer | ServiceError]]:
    """Answer the files in order, several at a time, with a progress bar where there are several."""
    settings = settings_of(options)
    files = list(find_images(options.files))
    async with loaded(settings, asked) as explainer:
        one = partial(explained, explainer, asked)
        async for file, answer in in_order(files, one, settings.max_batch_size, total=len(files)):
            yield file, answer
