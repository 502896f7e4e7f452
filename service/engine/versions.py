"""One version of a model: what is known of it, and what its label is.

Runs in the front process.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from service.models.info import ModelWarning

if TYPE_CHECKING:
    from service.models.info import ModelInfo, ModelKey
    from service.settings import ModelConfig
    from service.vocabulary import LoadingStage, ModelState, VersionState

__all__ = ["HeldVersion", "Labels", "ModelStatus", "Version", "VersionStatus"]

_REMEMBERED = 1000


@dataclass(frozen=True)
class ModelStatus:
    """A model, as seen over all workers: the version that its name points to.

    Attributes:
        config: what it is loaded from.
        state: how far it is.
        reason: why it failed.
        info: what the workers that hold it found out; None if none does.
        known: the same; where none holds it any more, what was known when one did.
        on_demand: whether it has answered and is loaded again: when somebody asks for it, or since its worker ended.
    """

    config: ModelConfig
    state: ModelState
    reason: str | None = None
    info: ModelInfo | None = None
    known: ModelInfo | None = None
    on_demand: bool = False


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model.

    Attributes:
        key: how front and workers call it.
        config: what it is loaded from.
        version: its label; None until some worker has read the weights.
        state: how far it is.
        reason: why it failed.
        progress: how much of loading is done, 0 to 1, over all workers that load it.
        stage: what is being done, where it is being loaded.
        current: whether the model's name points to it.
        aliases: the other names that point to it.
    """

    key: ModelKey
    config: ModelConfig
    version: str | None
    state: VersionState
    reason: str | None = None
    progress: float = 0.0
    stage: LoadingStage | None = None
    current: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeldVersion:
    """One version that some worker holds.

    Attributes:
        info: what is known of it.
        devices: where it is held.
        idle: whether it could be put out: nobody needs or loads it.
    """

    info: ModelInfo
    devices: frozenset[str]
    idle: bool


@dataclass(eq=False)
class Version:
    """A version and what is known of it; what is by worker has the number of the one that told.

    Attributes:
        key: how front and workers call it.
        config: what it is loaded from.
        loading: how much each worker that loads it has done.
        stages: what each worker that loads it does.
        infos: what each worker that holds it found out.
        failures: why a worker could not load it.
        awaited: the workers that ended while they loaded it, and whose replacements will.
        given_up: why it does not take over, where some workers hold it and another cannot load it.
        leases: how many need it now.
        beside: whether it is there for an alias alone, and never takes over.
        draining: whether it serves only what has begun with it.
        unloaded: whether no worker is to hold it until somebody asks for it.
        on_demand: whether it is so, or is loaded again because somebody asked for it or its worker ended.
        known: what was known of it when it was loaded last.
        reached: how much of loading was done when somebody asked last.
        expected: name → digest of the content that it pointed to before the service was started again.
    """

    key: ModelKey
    config: ModelConfig
    loading: dict[int, float] = field(default_factory=dict)
    stages: dict[int, LoadingStage] = field(default_factory=dict)
    infos: dict[int, ModelInfo] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    awaited: set[int] = field(default_factory=set)
    given_up: str | None = None
    leases: int = 0
    beside: bool = False
    draining: bool = False
    unloaded: bool = False
    on_demand: bool = False
    known: ModelInfo | None = None
    reached: float = 0.0
    expected: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> ModelState:
        """How far it is, whether or not it drains."""
        if self.given_up is not None:
            return "failed"
        if self.infos:
            return "ready"
        if self.unloaded:
            return "unloaded"
        return "failed" if self.failures else "loading"

    @property
    def drained(self) -> bool:
        """Whether nobody needs it any more."""
        return (self.draining or self.given_up is not None) and not self.leases

    @property
    def info(self) -> ModelInfo | None:
        """What the workers that hold it found out; None if none does."""
        return self.warned(next(iter(self.infos.values()), None))

    @property
    def devices(self) -> frozenset[str]:
        """Where the workers that hold it compute."""
        return frozenset(info.device for info in self.infos.values())

    @property
    def label(self) -> str | None:
        """What people call it."""
        return self.known.version if self.known else self.config.version

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        return self.given_up or (None if self.infos else next(iter(self.failures.values()), None))

    @property
    def progress(self) -> float:
        """How much of loading is done, 0 to 1; never less than before."""
        if self.state == "ready" and not (self.loading or self.awaited):
            return 1.0
        parts = [*self.loading.values(), *(0.0 for _ in self.awaited), *(1.0 for _ in self.infos)]
        self.reached = max(self.reached, sum(parts) / len(parts) if parts else 0.0)
        return self.reached

    @property
    def stage(self) -> LoadingStage | None:
        """What the worker does that has loaded the least of it; None where none is loading it."""
        if not self.loading:
            return "waiting" if self.state == "loading" else None
        return self.stages.get(min(self.loading, key=self.loading.__getitem__), "waiting")

    def warned(self, info: ModelInfo | None) -> ModelInfo | None:
        """Return ``info`` with a warning for each name that pointed to other weights before."""
        if info is None or not self.expected:
            return info
        warnings = [
            ModelWarning(
                "changed_while_away",
                f"{name} pointed to other weights before the service was started again: its file has changed since. "
                "Put the old file back, or load the model or point the alias anew to say that this is meant.",
            )
            for name, content in self.expected.items()
            if content != info.content
        ]
        return replace(info, warnings=(*info.warnings, *warnings)) if warnings else info

    def contradicts(self, info: ModelInfo) -> bool:
        """Whether a worker found other weights than those that answer as this version now."""
        return self.known is not None and self.known.digest != info.digest and bool(self.infos or self.leases)

    def contradiction(self, info: ModelInfo) -> str:
        """Say in what a worker contradicts those that answer as this version."""
        if self.known is not None and self.known.dtype != info.dtype:
            return (
                f"It computes in {info.dtype} on {info.device}, and in {self.known.dtype} on {self.known.device}: one "
                "model gives one answer. Set its precision to float32, or its device."
            )
        return (
            "It has other weights here than with other workers: its file has changed, or they are random. Reload the "
            "model."
        )


class Labels:
    """Gives every version of a model a label that no other has: two of one label but another digest are told apart."""

    def __init__(self) -> None:
        # Model → label → digest of the first version that was called so.
        self._digests: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def label(self, info: ModelInfo) -> str:
        """Return what the version is called: as its weights say, with 8 hex digits behind where others were so."""
        digests = self._digests[info.name]
        first = digests.setdefault(info.version, info.digest)
        if len(digests) > _REMEMBERED:
            digests.pop(next(iter(digests)))
        return info.version if first == info.digest else f"{info.version}+{info.digest[:8]}"

    def forget(self, model: str) -> None:
        """Forget a model that is gone."""
        self._digests.pop(model, None)
