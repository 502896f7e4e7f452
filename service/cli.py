"""The command line: ``camserve serve | explain | predict | models | layers | manage | key | openapi``.

Heavy imports stand inside the commands that need them, so that ``serve`` answers ``/livez`` within a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tomllib
import typing
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from service import __version__, logs
from service.errors import InvalidImage, LayerNotExplainable, ServiceError, UnknownLayer, UnknownMethod
from service.options import OPTIONS, attributes_of
from service.settings import KeyConfig, ModelConfig, Settings, load_settings, reason_not_to_listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence

    from service.engine.answers import Answer, MapAnswer
    from service.engine.explainer import Explainer
    from service.engine.request import Request, Upload
    from service.imaging.encode import EncodedImage
    from service.options import Option
    from service.vocabulary import Operation
    from service.wire import ModelEntry

__all__ = ["main"]

_TIMEOUT_S = 3600.0  # of one image: nobody waits for others behind it
_SAMPLE = Path(__file__).parent / "demo" / "samples" / "03-star.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    printing = _open_standard_streams()
    options = _parser().parse_args(arguments)
    if options.run is not _serve and not printing:
        print("camserve: standard output is closed: nothing can be printed", file=sys.stderr)
        return 1
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # here, where a broken pipe is still caught
    except BrokenPipeError:
        _drop_output()  # whoever read it has seen enough
        return 141
    except ServiceError as error:
        print(f"camserve: {_worded(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"camserve: {error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()  # it is what failed, and would be tried again at exit
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
    return printing


def _drop_output() -> None:
    """Send what is printed nowhere: Python would try to flush the rest at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _worded(error: ServiceError) -> str:
    """Return the message, followed by where the command line lists what could have been asked for."""
    if isinstance(error, UnknownLayer | LayerNotExplainable):
        return f"{error} `camserve layers` lists those that can be explained."
    return f"{error} docs/methods.md describes them." if isinstance(error, UnknownMethod) else str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("camserve", description="Where did the classifier look? Class activation maps.")
    parser.add_argument("--version", action="version", version=f"camserve {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = _command(commands, "serve", _serve, "serve models over HTTP")
    explain = _command(commands, "explain", _explain, "explain pictures without a server")
    _add_files(explain)
    explain.add_argument("--out", type=Path, default=Path("camserve-out"), help="folder for what is drawn, and JSON")
    _add_options(explain, OPTIONS.values())
    predict = _command(commands, "predict", _predict, "classify pictures without a server")
    _add_files(predict)
    predict.add_argument("--json", action="store_true", help="print JSON lines")
    _add_options(predict, [option for option in OPTIONS.values() if option.about.predict])
    _command(commands, "models", _models, "list the architectures that can be served")
    layers = _command(commands, "layers", _layers, "list the layers of a model")
    layers.add_argument("--all", action="store_true", help="also those that cannot be explained, with the reason")
    _add_manage(_command(commands, "manage", _manage, "change the models of a running server"))
    key = _command(commands, "key", _key, "make an API key")
    key.add_argument("name", help="who gets it; stands in the log")
    openapi = _command(commands, "openapi", _openapi, "print the OpenAPI document")
    openapi.add_argument("--output", type=Path, help="write it to this file")
    openapi.add_argument("--check", type=Path, help="compare it with this file; exit 1 if they differ")
    for command in (serve, explain, predict, layers):
        _add_settings(command)
    return parser


def _command(commands: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=f"{help_text.capitalize()}."
    )
    parser.set_defaults(run=run)
    return parser


def _add_manage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default="http://127.0.0.1:8000", metavar="URL", help="where it is")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds a key with the scope manage")
    parser.add_argument("--wait", type=float, default=300.0, metavar="S", help="seconds to wait until it is loaded")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    put = verbs.add_parser("put", help="create a model, or replace it while it answers")
    put.add_argument("model", help="[name=]architecture[:weights][,option=value…]; paths are those of the server")
    for verb, text in {
        "reload": "load a model again, because its file has changed",
        "unload": "put a model out of memory until somebody asks for it",
        "remove": "remove a model",
    }.items():
        verbs.add_parser(verb, help=text).add_argument("model", help="its name")
    alias = verbs.add_parser("alias", help="point a further name to a version of a model")
    for name in ("alias", "model", "version"):
        alias.add_argument(name)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="picture, folder or glob pattern")


def _add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
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


def _add_settings(parser: argparse.ArgumentParser) -> None:
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


def _settings(options: argparse.Namespace) -> Settings:
    given = {name: value for name in Settings.model_fields if (value := getattr(options, name, None)) is not None}
    settings = load_settings(options.config, **given)
    logs.configure(settings.log_level, settings.log_format)
    return settings


# -- serve ------------------------------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    from service.web.server import serve  # noqa: PLC0415

    settings = _settings(options)
    if reason := reason_not_to_listen(settings):
        print(f"camserve: {reason}", file=sys.stderr)
        return 2
    return serve(settings, lambda port: _announce(settings, port))


def _announce(settings: Settings, port: int) -> None:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104  # shown, not bound
    url = f"http://{host}:{port}"
    if settings.log_format == "json":
        logging.getLogger("camserve").info("camserve %s at %s", __version__, url)
        return
    try:
        print(_greeting(settings, url), flush=True)
    except OSError as error:  # a pipe that nobody reads, a disk that is full: no reason not to serve
        _drop_output()
        logging.getLogger("camserve").warning("camserve is at %s; it could not be printed: %s", url, error.strerror)


def _greeting(settings: Settings, url: str) -> str:
    models = ", ".join(model.name for model in settings.models)
    return (
        f"\ncamserve {__version__} at {url} (page, API reference at {url}/docs), loading: {models}\n\n"
        f"Try it:\n"
        f"  curl -F image=@{_SAMPLE} -F output=regions {url}/api/v1/explain\n"
        f"  curl -F image=@{_SAMPLE} -H 'Accept: image/jpeg' -o overlay.jpg {url}/api/v1/explain\n"
    )


# -- explain, predict -------------------------------------------------------------------------------------------------


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
            print(f"{file}: {_worded(answer)}", file=sys.stderr)
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
            print(f"{file}: {_worded(answer)}", file=sys.stderr)
            continue
        predictions = to_wire(answer, str(file)).results[0].predictions
        if options.json:
            print(json.dumps({"file": str(file), "predictions": [each.model_dump() for each in predictions]}))
        else:
            listed = ", ".join(f"{each.label} {each.probability:.1%}" for each in predictions)
            print(f"{file}: {listed}")
    return 1 if failed else 0


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

    settings = _settings(options)
    files = list(_find_images(options.files))
    _find_own_code()
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


def _find_own_code() -> None:
    """Let models from the user's own code be imported from the working directory, as a worker process does."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


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


# -- models, layers, key, openapi -------------------------------------------------------------------------------------


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

    settings = _settings(options)
    _find_own_code()
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
                _tell(client.reload_model(options.model, wait_s=options.wait))
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
    for warning in entry.warnings:
        print(f"warning: {warning.text}")


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


def _openapi(options: argparse.Namespace) -> int:
    from service.web.app import create_app  # noqa: PLC0415

    text = json.dumps(create_app(Settings()).openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if options.check is not None:
        return _compare(options.check, text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


def _compare(file: Path, text: str) -> int:
    import difflib  # noqa: PLC0415

    committed = file.read_text(encoding="utf-8")
    if committed == text:
        return 0
    difference = difflib.unified_diff(
        committed.splitlines(), text.splitlines(), str(file), "the code", lineterm="", n=2
    )
    print("\n".join(difference))
    print(f"camserve: {file} is not what the code says; run scripts/openapi", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
