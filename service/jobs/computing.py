"""Evaluations are computed in processes of their own: one that ends is started again, and goes on from what was found.

Runs in the front process.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from service.engine.worker_process import words_for_exit
from service.errors import ServiceError
from service.jobs.order import Order
from service.jobs.process import StoodStill, run

if TYPE_CHECKING:
    from pathlib import Path

    from service.engine.explainer import Explainer
    from service.jobs.job import Job
    from service.metrics import Metrics
    from service.models.info import ModelInfo
    from service.settings import ModelConfig, Settings

__all__ = ["Computing"]

log = logging.getLogger("camserve.evaluations")

_IN_VAIN = 3  # processes in a row that end without having found anything


class Computing:
    """Starts processes, and hears them.

    Args:
        settings: what the processes are told.
        metrics: counts them.
        explainer: knows the models.
    """

    def __init__(self, settings: Settings, metrics: Metrics, explainer: Explainer) -> None:
        self._settings, self._metrics, self._explainer = settings, metrics, explainer

    async def compute(self, job: Job, folder: Path) -> str | None:
        """Compute an evaluation; return why that cannot be done, or None where it is.

        Args:
            job: what is computed; it hears how far that is.
            folder: where its pictures are, and where everything goes that is found.

        Raises:
            ServiceError: the model is gone, cannot be loaded, or is another one.
            OSError: the machine has no process or no descriptor left.
        """
        in_vain = 0
        while True:
            config = await self._config(job)
            memory = ""
            try:
                ended = await self._attempt(job, config, folder)
            except StoodStill as still:
                words = f"{still} and was ended"
            else:
                if not isinstance(ended, int):
                    return ended or None
                words = words_for_exit(ended) if ended >= 0 else f"was {words_for_exit(ended)}"
                memory = " Too little memory, most likely." if ended == -9 else ""
            in_vain = 0 if job.found else in_vain + 1
            if in_vain >= _IN_VAIN:
                vain = f"Its process {words} {in_vain} times without having found anything more."
                return f"{vain}{memory} The log here has more."
            log.warning("evaluation %s: its process %s, and is started again", job.facts.id, words)
            job.facts.restarts += 1
            self._metrics.evaluation_restarts.inc()
            job.begins()

    async def _attempt(self, job: Job, config: ModelConfig, folder: Path) -> int | str:
        """Run one process; return "" where it is done, why it cannot be, or how the process ended."""
        facts = job.facts
        outcome: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            match message:
                case {"done": True}:
                    outcome.append("")
                case {"failed": str(reason)}:
                    outcome.append(reason)
                case {"done": int() | float(), "total": int() | float(), "stage": str(), "found": int()}:
                    job.hears(message)

        order = Order.of(
            self._settings,
            config,
            digest=facts.digest,
            folder=folder,
            layers=facts.layers,
            methods=facts.methods,
            purposes=facts.purposes,
            seed=facts.seed,
            seconds=facts.seconds,
            threads=self._settings.evaluation_threads,
        )
        began = time.monotonic()
        try:
            code = await run("service.jobs.main", order.to_json(), hear)
        finally:
            spent = time.monotonic() - began
            facts.seconds += spent
            self._metrics.evaluation_seconds.inc(spent)
        return outcome[0] if outcome else code

    async def _config(self, job: Job) -> ModelConfig:
        """Return what the model is loaded from, as it is served now.

        Raises:
            ServiceError: it is gone, cannot be loaded, or is another one.
        """
        facts, registry = job.facts, self._explainer.pool.registry
        await self._explainer.settled(facts.model)
        for key, held in registry.held().items():
            if key.name == facts.model and held.info.digest == facts.digest:
                version = registry.version(key)
                if version is not None:
                    return _as_served(version.config, held.info)
        status = self._explainer.model(facts.model)
        if status.known is not None and status.known.digest == facts.digest:
            return _as_served(status.config, status.known)
        raise ServiceError(
            f"Model {facts.model!r} is not what it was when this was asked for: another version has taken its place, "
            "or it cannot be loaded. Ask again."
        )


def _as_served(config: ModelConfig, info: ModelInfo) -> ModelConfig:
    """Have the process compute in what the workers compute in, without asking the hardware again."""
    return config.model_copy(update={"precision": info.dtype})
