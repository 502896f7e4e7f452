"""One frozen Settings object, built once at start and passed down. The only module that reads the environment.

Order of precedence: command line, then environment (``CAMSERVE_…``), then the TOML file, then the defaults here.
"""

from __future__ import annotations

import ipaddress
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.errors import closest
from service.model_config import NAME_PATTERN, ModelConfig, parse_option
from service.vocabulary import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "KeyConfig",
    "LabelStudioScore",
    "LogFormat",
    "LogLevel",
    "ModelConfig",
    "Network",
    "Scope",
    "Settings",
    "environment",
    "is_set",
    "load_settings",
    "reason_not_to_listen",
]

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
Scope = Literal["infer", "metrics", "manage"]
LabelStudioScore = Literal["probability", "entropy", "margin", "mass_inside", "flip_stability", "layer_agreement"]


def _scopes(value: object) -> object:
    """Read ``infer+metrics``."""
    return value.split("+") if isinstance(value, str) else value


class KeyConfig(BaseModel):
    """An API key, from a ``[[keys]]`` table or from ``name=sha256[,option=value…]``; ``camserve key`` makes one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Who has it; stands in the log.", pattern=NAME_PATTERN)
    sha256: str = Field(
        description="The SHA-256 digest of the key, in hexadecimal; the key itself is not kept.",
        pattern="^[0-9a-f]{64}$",
    )
    scopes: Annotated[frozenset[Scope], BeforeValidator(_scopes)] = Field(
        frozenset({"infer"}),
        min_length=1,
        description="What it may do: `infer` asks models, `metrics` reads `/metrics`, `manage` changes models and "
        "sees the workers in `/readyz`. In one string, joined by `+`.",
    )
    max_concurrent: int | None = Field(None, ge=1, le=100_000, description="Requests that may run at once.")
    requests_per_minute: int | None = Field(
        None, ge=1, le=1_000_000, description="Requests per minute, spread as you like over the minute."
    )
    cost_per_minute: float | None = Field(
        None,
        gt=0,
        description="Work per minute: passes of a model over one picture; a million pixels decoded or drawn count as "
        "one.",
    )
    weight: float = Field(
        1.0, gt=0, le=1000, description="How large its share is where several keys want more than there is."
    )

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return _parse_key(value) if isinstance(value, str) else value


def _parse_key(text: str) -> dict[str, str]:
    head, *options = text.split(",")
    name, _, digest = head.partition("=")
    return {"name": name, "sha256": digest, **dict(parse_option(option, "key") for option in options)}


def _check_keys(keys: tuple[KeyConfig, ...]) -> tuple[KeyConfig, ...]:
    for what, values in {"name": [key.name for key in keys], "digest": [key.sha256 for key in keys]}.items():
        if len(set(values)) != len(values):
            raise ValueError(f"two keys have the same {what}")
    return keys


def _split(value: object) -> object:
    """Read one string of the environment or the command line: items apart by white space."""
    return value.split() if isinstance(value, str) else value


_ORIGIN = re.compile(r"https?://(\*\.)?[A-Za-z0-9.-]+(:\d{1,5}|:\*)?|https?://\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin: write https://host or https://host:port, nothing behind it")
    return tuple(origin.lower() for origin in origins)  # as browsers write them


def _check_exact(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        if "*" in origin.removeprefix("*"):
            raise ValueError(f"{origin!r} has a wildcard: name each origin, or allow any with '*'")
    return origins


def _lowered(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if "://" in name or "/" in name or re.search(r"[^:\]]:\d+$", name):
            raise ValueError(f"{name!r} is no host: write its name or address alone, without scheme, port or path")
    return tuple(name.lower().strip("[]") for name in names)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _check_networks(networks: tuple[Any, ...]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(each) for each in networks)
    except ValueError as error:
        raise ValueError(f"{error}: write an address, or a network as 172.16.0.0/12") from error


Networks = Annotated[
    tuple[Network, ...], NoDecode, BeforeValidator(_check_networks), BeforeValidator(_split)
]  # validators that come before run from the last to the first
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        found = _HOST.fullmatch(host)
        if found is None or int((found[2] or ":1")[1:]) > 65535:
            raise ValueError(f"{host!r} is no host such as minio:9000, which has neither scheme nor path")
    return hosts


Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_hosts)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_origins)]


def _check_models(models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
    names = [model.name for model in models]
    if not names:
        raise ValueError("there must be at least one model")
    if len(set(names)) != len(names):
        raise ValueError(f"two models have the same name: {', '.join(names)}")
    return models


class CostLimit(BaseModel):
    """How much work may be asked for; from a table, or from ``forward=…,pixels=…,bytes=…``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forward: float = Field(gt=0, description="Passes of the model.")
    pixels: int = Field(gt=0, description="Pixels decoded and drawn.")
    bytes: int = Field(gt=0, description="Bytes sent.")

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return dict(parse_option(option, "cost") for option in value.split(",")) if isinstance(value, str) else value

    def __str__(self) -> str:
        """Write it as it is read."""
        return f"forward={self.forward:g},pixels={self.pixels},bytes={self.bytes}"


def _expanded(path: Path) -> Path:
    """Put the home directory in the place of ``~``; not every user of a container has one."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no home directory: set HOME, XDG_CACHE_HOME, or cache_dir to a folder") from None


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def _bytes(value: object) -> object:
    """Read ``8GB``, ``512 MiB`` or a number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", value.strip().upper()) if isinstance(value, str) else None
    return value if found is None or found[2] not in _UNITS else int(float(found[1]) * _UNITS[found[2]])


def _expanded_if_any(path: Path | None) -> Path | None:
    return None if path is None else _expanded(path)


def _folder_if_any(path: Path | None) -> Path | None:
    if path is None:
        return None
    folder = _expanded(path)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    return folder.absolute()


def _all_expanded(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(_expanded(path) for path in paths)


def _check_management(on: bool, info: ValidationInfo) -> bool:  # pydantic's signature
    """Refuse to let strangers change what is served: with some kinds of models they could run code here."""
    if not on or info.data.get("keys"):
        return on
    if not is_loopback(info.data.get("host", "")):
        raise ValueError("models are changed over HTTP only with API keys, or by this machine alone: set keys, or host")
    for name in ("allowed_hosts", "cors_origins"):
        if "*" in info.data.get(name, ()):
            raise ValueError(f"without API keys, {name} must name whom it means: any page could change models")
    return on


class Settings(BaseSettings):
    """Everything that can be set; each field has a row in docs/operations.md."""

    model_config = SettingsConfigDict(env_prefix="CAMSERVE_", extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    models: Annotated[tuple[ModelConfig, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_models)] = (
        Field(
            (
                ModelConfig(name="shapes", architecture="shapes"),
                ModelConfig(name="shapes-shortcut", architecture="shapes-shortcut"),
            ),
            description="Models to serve, the first being the default. "
            "`[name=]architecture[:weights][,option=value…]`, repeated on the command line, apart by spaces in the "
            "environment, or `[[models]]` tables in the file.",
        )
    )
    device: str = Field("auto", description="`auto` (every GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.")
    workers: int = Field(1, ge=1, le=64, description="Worker processes per device.")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads per worker; 0 shares the cores among the workers.")
    concurrency: int = Field(2, ge=1, le=16, description="Batches a worker computes at once, each on another model.")
    max_batch_size: int = Field(16, ge=1, le=1024, description="Pictures in a batch at most.")
    max_batch_pixels: int = Field(16 * 1024 * 1024, ge=1024, description="Model-input pixels in a batch at most.")
    max_queue: int = Field(128, ge=1, le=100_000, description="Pictures accepted and not yet answered, at most.")
    request_timeout_s: float = Field(30.0, gt=0, le=3600, description="Deadline of a request that sets none.")
    max_request_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="Longest deadline that a request may ask for; a longer one is cut to it."
    )
    max_request_cost: CostLimit = Field(
        CostLimit(forward=50_000, pixels=2_000_000_000, bytes=256 * 1024 * 1024),
        description="Work that one request may ask for, as `forward=…,pixels=…,bytes=…`: passes of the model over one "
        "picture, pixels decoded and drawn, bytes of the answer.",
    )
    max_total_cost: CostLimit = Field(
        CostLimit(forward=200_000, pixels=8_000_000_000, bytes=512 * 1024 * 1024),
        description="Work of all requests not yet answered, likewise; never less than that of one.",
    )
    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="Bytes in a request body at most.")
    max_inflight_bytes: int = Field(
        256 * 1024 * 1024, ge=1024, description="Bytes of all request bodies not yet answered, at most."
    )
    max_image_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="Bytes in one picture at most.")
    max_image_pixels: int = Field(64_000_000, ge=1, description="Pixels in one picture at most.")
    max_open_pixels: int = Field(
        128_000_000, ge=1, description="Pixels decoded or drawn at once, at most; further pictures wait."
    )
    max_image_frames: int = Field(1000, ge=1, description="Frames in one picture at most; the first is used.")
    max_images: int = Field(32, ge=1, le=1024, description="Pictures in one request at most.")
    max_explanations: int = Field(64, ge=1, le=10_000, description="Explanations per picture at most.")
    max_evaluations: int = Field(16, ge=1, le=1000, description="Evaluations that may wait or run, at most.")
    max_evaluation_images: int = Field(
        1000, ge=1, le=100_000, description="Pictures in one evaluation at most; as many masks may come with them."
    )
    max_evaluation_bytes: Annotated[int, BeforeValidator(_bytes)] = Field(
        1024 * 1024 * 1024,
        ge=1024,
        description="Bytes in the body that asks for an evaluation at most, such as `1GiB`.",
    )
    max_evaluation_forward: float = Field(
        2_000_000, gt=0, description="Passes of the model that one evaluation may take, as they are estimated."
    )
    evaluation_processes: int = Field(
        1, ge=1, le=64, description="Evaluations that run at once, each on another model and in a process of its own."
    )
    evaluation_threads: int = Field(1, ge=1, le=1024, description="CPU threads of such a process.")
    evaluation_ttl_s: float = Field(
        86_400, gt=0, description="Time that what came out of an evaluation is kept after its end."
    )
    decode_threads: int = Field(0, ge=0, le=256, description="Threads that decode and render; 0 is one per core.")
    cache_dir: Annotated[Path, AfterValidator(_expanded)] = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "camserve",  # noqa: TID251
        description="Where downloaded weights, and what was measured of models, are kept.",
    )
    weights_mirror: str | None = Field(
        None,
        pattern="^(https?|file)://",
        description="Base URL that replaces torchvision's download site, for machines behind a mirror.",
    )
    allow_download: bool = Field(True, description="Whether weights may be downloaded.")
    keys: Annotated[tuple[KeyConfig, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_keys)] = Field(
        (),
        description="API keys; without any, everybody may ask. `name=sha256[,option=value…]`, apart by spaces, or "
        "`[[keys]]` tables in the file.",
    )
    expose_without_keys: bool = Field(
        False,
        description="Whether to listen on other than a loopback address without keys: something else must then keep "
        "strangers out.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_lowered)] = Field(
        (),
        description="Host names, apart by spaces, that a service without keys on a loopback address answers to, "
        "besides localhost, 127.0.0.1 and ::1; `*` is any.",
    )
    cors_origins: Annotated[Origins, AfterValidator(_check_exact)] = Field(
        (),
        description="Origins, apart by spaces, whose pages may call the API and read its answers; `*` is any.",
    )
    frame_ancestors: Origins = Field(
        (),
        description="Origins, apart by spaces, whose pages may show `/embed` in a frame, besides this one; `*` is any.",
    )
    management: Annotated[bool, AfterValidator(_check_management)] = Field(
        False,
        description="Whether models may be created, replaced, put out and removed over HTTP. Needs keys, or a loopback "
        "address without `*` in `allowed_hosts` and `cors_origins`.",
    )
    management_modules: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Python modules, apart by spaces, whose functions may be named over HTTP as the architecture of a "
        "model: whoever may change models can call whatever these modules hold.",
    )
    model_dirs: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split), AfterValidator(_all_expanded)] = Field(
        (),
        description="Folders, apart by spaces, in which files that are named over HTTP must lie.",
    )
    watch: Annotated[Path | None, AfterValidator(_folder_if_any)] = Field(
        None,
        description="Folder whose files and folders are models by their names: what comes or changes is loaded and "
        "takes over, what goes is removed.",
    )
    memory_budget: Annotated[int | None, BeforeValidator(_bytes)] = Field(
        None,
        ge=1024,
        description="Bytes that all models may take on a device, such as `8GB`; beyond, those that were not asked for "
        "the longest are put out, and loaded again when somebody asks.",
    )
    data_dir: Annotated[Path | None, AfterValidator(_expanded_if_any)] = Field(
        None,
        description="Folder that keeps models made over HTTP, and evaluations; without one they are forgotten at a "
        "restart.",
    )
    protocols: Annotated[tuple[Protocol | Literal["all", "none"], ...], NoDecode, BeforeValidator(_split)] = Field(
        ("all",),
        description="Protocols to speak besides the native one, apart by spaces: their names in docs/protocols.md; or "
        "`all`, or `none`.",
    )
    label_studio_url: str | None = Field(
        None,
        pattern="^https?://",
        description="Where Label Studio is, for pictures that lie in it: the one host of this network that is asked "
        "for pictures, besides `label_studio_storage`.",
    )
    label_studio_storage: Hosts = Field(
        (),
        description="Hosts in this network that tasks may have pictures on, such as `minio:9000`, apart by spaces; "
        "without a port, the usual one. Whoever may ask for predictions can have any picture there looked at.",
    )
    label_studio_token: SecretStr | None = Field(
        None, description="Personal access token, or legacy token, of a user who sees the projects."
    )
    label_studio_score: LabelStudioScore = Field(
        "probability", description="What the score of a prediction in Label Studio is, by which tasks are sorted there."
    )
    label_studio_budget_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Time for the tasks of one request; beyond, Label Studio is made to ask for them one by one.",
    )
    cvat_root: bool = Field(
        False,
        description="Whether CVAT's calls are answered at `/api/functions` and `/api/function_invocations`, too, "
        "without a key: a CVAT server knows the host and port of its functions, no path and no key.",
    )
    cvat_allow: Networks = Field(
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")),
        description="Addresses or networks, apart by spaces, from which `cvat_root` lets calls in; others are refused, "
        "and so is what came through a proxy.",
    )
    worker_start_timeout_s: float = Field(600.0, gt=0, description="Time a worker may take to load its models.")
    worker_silence_timeout_s: float = Field(
        120.0,
        gt=0,
        description="Time without a sign of life, from a worker or from a batch that it computes, after which the "
        "worker is replaced.",
    )
    max_connections: int = Field(1000, ge=1, le=1_000_000, description="Connections open at once, at most.")
    header_timeout_s: float = Field(10.0, gt=0, le=3600, description="Time for the head of a request to arrive.")
    stall_timeout_s: float = Field(
        20.0, gt=0, le=3600, description="Longest pause of a client that sends a body or takes an answer."
    )
    transfer_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="Time for a whole body to arrive, or for a whole answer to be taken."
    )
    keep_alive_s: int = Field(75, ge=0, le=3600, description="Time that a connection may wait for its next request.")
    drain_delay_s: float = Field(
        0.0, ge=0, le=3600, description="Time on shutdown in which `/readyz` says so and requests are still taken."
    )
    drain_timeout_s: float = Field(30.0, ge=0, description="Time that accepted requests get on shutdown.")
    tracing: bool = Field(
        False,
        description="Whether spans are sent to an OpenTelemetry collector. Needs the extra `otel`; the standard "
        "`OTEL_…` variables say where to.",
    )
    log_level: LogLevel = Field("info", description="What is logged.")
    log_format: LogFormat = Field("text", description="`json` is one object per line, for machines.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, then the file that ``load_settings`` names."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(file: Path | None = None, **overrides: Any) -> Settings:
    """Build the settings from ``overrides``, the environment and the TOML ``file``.

    Raises:
        pydantic.ValidationError: a value is out of range, or a key or a variable ``CAMSERVE_…`` is unknown.
        FileNotFoundError: ``file`` does not exist.
    """
    _check_environment()
    if file is None:
        return Settings(**overrides)
    if not file.is_file():
        raise FileNotFoundError(f"there is no settings file {file}")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    settings = FromFile(**overrides)
    if "models" in Settings(**overrides).model_fields_set:
        return settings  # they came from the command line or the environment: relative to the working directory
    return settings.model_copy(update={"models": tuple(_beside(file, model) for model in settings.models)})


def reason_not_to_listen(settings: Settings) -> str | None:
    """Return why a server with these settings would be open to strangers by oversight, or None."""
    if settings.keys or settings.expose_without_keys or is_loopback(settings.host):
        return None
    return (
        f"host: {settings.host!r} can be reached by other machines, and there is no API key, so that anybody could use "
        "the service. Make a key with `camserve key NAME` and put it into `keys`; or listen on 127.0.0.1; or, where "
        "something else keeps strangers out, set expose_without_keys"
    )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, and no other can reach it by that name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or nothing, which means every address
        return False


def _check_environment() -> None:
    """Refuse misspelt variables, which would otherwise be ignored in silence.

    Raises:
        pydantic.ValidationError: there is one.
    """
    known = {name.upper() for name in Settings.model_fields}
    given = [name for name in os.environ if name.upper().startswith("CAMSERVE_")]  # noqa: TID251
    names = [(name, name.upper().removeprefix("CAMSERVE_")) for name in given]
    # The tests have variables of their own, and start servers with them.
    unknown = [(name, rest) for name, rest in names if rest not in known and not rest.startswith("TESTS_")]
    if unknown:
        problems: list[InitErrorDetails] = [
            {"type": _unknown_variable(rest, known), "loc": (name,), "input": None} for name, rest in unknown
        ]
        raise ValidationError.from_exception_data("Settings", problems, hide_input=True)


def _unknown_variable(rest: str, known: set[str]) -> PydanticCustomError:
    if re.match(r"SERVICE_(HOST|PORT)|PORT_\d", rest):
        hint = "Kubernetes sets it for a service named camserve: set enableServiceLinks to false in the pod"
    elif suggestions := closest(rest, known):
        hint = f"did you mean {' or '.join(f'CAMSERVE_{name}' for name in suggestions)}?"
    else:
        hint = "`camserve serve --help` lists the settings"
    return PydanticCustomError("unknown_variable", "there is no such setting; {hint}", {"hint": hint})


def _beside(file: Path, model: ModelConfig) -> ModelConfig:
    """Read relative paths in a settings file as relative to that file."""
    changed: dict[str, Any] = {}
    if isinstance(model.labels, dict):
        changed["labels"] = {head: _path_beside(file, path) for head, path in model.labels.items()}
    elif model.labels is not None:
        changed["labels"] = _path_beside(file, model.labels)
    if model.weights is not None and (file.parent / model.weights).is_file():
        changed["weights"] = str(file.parent / model.weights)
    if re.search(r"[./]", model.architecture) and (file.parent / model.architecture).exists():
        changed["architecture"] = str(file.parent / model.architecture)
    return model.model_copy(update=changed)


def _path_beside(file: Path, path: Path) -> Path:
    return file.parent / path if (file.parent / path).is_file() else path


def is_set(*names: str) -> bool:
    """Whether one of these variables of other libraries is in the environment."""
    return any(name in os.environ for name in names)  # noqa: TID251


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Let a library that is imported meanwhile find ``variables`` in the environment."""
    before = {name: os.environ.get(name) for name in variables}  # noqa: TID251
    os.environ.update(variables)  # noqa: TID251
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)  # noqa: TID251
            else:
                os.environ[name] = value  # noqa: TID251
