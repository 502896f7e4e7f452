"""Tasks in, predictions out: within the time that Label Studio waits, and so that nothing that is done is lost."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from service.engine.request import Request
from service.errors import (
    BadInput,
    DeadlineExceeded,
    InvalidOption,
    ModelOutputError,
    NotReady,
    PictureNotFetched,
    ServiceError,
)
from service.labelling.labels import meanings
from service.protocols.label_studio.batch import Finished, run
from service.protocols.label_studio.look import Asking, look, look_where
from service.protocols.label_studio.pictures import NOBODY, Credentials, Pictures, is_fault
from service.protocols.label_studio.regions import REGIONS
from service.protocols.label_studio.tasks import marked_region, pointed_image, value_of_task
from service.protocols.label_studio.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.engine.explainer import Explainer
    from service.metrics import Metrics
    from service.models.info import ModelInfo
    from service.protocols.label_studio.config import ImageTag, Labelling
    from service.protocols.label_studio.look import Seen
    from service.protocols.label_studio.place import Place
    from service.settings import Settings

    Prediction = dict[str, Any]

__all__ = ["Backend", "Question", "keys_of"]

log = logging.getLogger("camserve.label_studio")

_MAX_ITEMS = 64  # pictures of a task
_KEPT_BYTES = 64 * 1024 * 1024
_MAX_NAMED = 1000  # projects whose unmatched labels were said
_MOST_NAMED = 50


@dataclass(frozen=True)
class Question:
    """A request for predictions.

    Attributes:
        tasks: as Label Studio sends them; of very many, the first.
        keys: of the tasks, as :func:`keys_of` returns them.
        others: how many tasks more were sent.
        labelling: what their project asks for.
        project: which it is.
        context: what somebody marked with a smart tool; None where nobody did.
        credentials: of the project, for pictures elsewhere.
    """

    tasks: Sequence[Mapping[str, Any]]
    keys: Sequence[str]
    labelling: Labelling
    others: int = 0
    project: str = ""
    context: Mapping[str, Any] | None = None
    credentials: Credentials = NOBODY


class Backend:
    """Answers Label Studio. One for the application, in one event loop.

    Args:
        settings: all of them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pictures = Pictures(settings)
        self._finished = Finished(_KEPT_BYTES)
        self._versions = Versions(settings.label_studio_score)
        self._named: OrderedDict[tuple[str, ...], None] = OrderedDict()

    async def close(self) -> None:
        """Close the connections."""
        await self._pictures.close()

    # -- what predictions are known by --------------------------------------------------------------------------------

    def version(self, engine: Explainer, place: Place, labelling: Labelling, project: str | None = None) -> str:
        """Return what predictions are known by, of a project that introduces itself, without waiting for the model.

        Raises:
            UnknownModel, UnknownLayer, UnknownMethod …: there is no such place.
        """
        self._check(engine, place)
        if project is None:
            return self._versions.now(engine, place, labelling)
        return self._versions.introduced(engine, place, labelling, project)

    def _check(self, engine: Explainer, place: Place) -> None:
        """Raise what is wrong with a place as soon as the model is known: of every task, it would be the same."""
        status = engine.model(place.model)
        if status.info is not None:
            engine.check(Request(model=place.model, layers=(place.layer,), methods=(place.method,)))

    async def introduce(self, engine: Explainer, place: Place, labelling: Labelling, project: str) -> None:
        """Say once in the log which labels of a project mean no class of the model, as soon as that is known."""
        status = engine.model(place.model)
        info = status.info or status.known
        seen = (project, status.config.name, labelling.digest)
        if info is None or seen in self._named:
            return
        self._named[seen] = None
        if len(self._named) > _MAX_NAMED:
            self._named.popitem(last=False)
        if unmatched := await asyncio.to_thread(_unmatched, labelling, info, status.config.label_map):
            log.warning(
                "project %s: model %s has no class for %s; say in its label_map what they mean",
                project,
                info.name,
                ", ".join(map(repr, unmatched)),
            )

    # -- predictions --------------------------------------------------------------------------------------------------

    async def predict(
        self, engine: Explainer, place: Place, question: Question, client: Mapping[str, Any], metrics: Metrics
    ) -> list[Prediction]:
        """Answer a request.

        Returns:
            A prediction for each task; or, for very many, or several that not all have one in time, exactly one, at
            which Label Studio asks for them one by one.

        Raises:
            ServiceError: there is none for the only task, or for any, that it would be right to keep.
        """
        budget_s = self._settings.label_studio_budget_s
        until = asyncio.get_running_loop().time() + budget_s
        await self._loaded(engine, place, until)
        self._check(engine, place)
        version = self._versions.predicted(engine, place, question.labelling, question.project)
        timeout_s = min(budget_s, self._settings.max_request_timeout_s)
        asking = Asking(engine, place, question.labelling, client, self._settings.label_studio_score, timeout_s)
        late = DeadlineExceeded(f"The prediction was not ready within {budget_s:g} s.")
        if question.context is not None:
            try:
                async with asyncio.timeout_at(until):
                    return [{**await self._pointed(asking, question, question.context), "model_version": version}]
            except TimeoutError:
                raise late from None
        keys = [f"{client['client']} {version} {key}" for key in question.keys]
        work = [
            partial(self._one, asking, question, version, key, task)
            for key, task in zip(keys, question.tasks, strict=True)
        ]
        outcomes = await run(work, until - asyncio.get_running_loop().time())
        ready = [outcome for outcome in outcomes if isinstance(outcome, dict)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, ServiceError)]
        asked = len(outcomes) + question.others
        _count(metrics, ready, asked - len(ready))
        if len(ready) == asked:
            self._finished.forget(keys)
            return [{name: value for name, value in each.items() if name != "failed"} for each in ready]
        if len(errors) == len(outcomes):
            raise errors[0]
        if len(outcomes) == 1:
            raise late
        log.info("%d of %d tasks are ready; Label Studio will ask one by one", len(ready), asked)
        return [{"result": [], "score": 0.0, "model_version": version}]

    async def _loaded(self, engine: Explainer, place: Place, until: float) -> None:
        """Wait for a model that is loading: here, and nowhere else."""
        name = engine.model(place.model).config.name
        try:
            async with asyncio.timeout_at(until):
                await engine.settled(name)
        except TimeoutError:
            raise NotReady(f"Model {name!r} is being loaded.", retry_after_s=5) from None

    async def _one(
        self, asking: Asking, question: Question, version: str, key: str, task: Mapping[str, Any]
    ) -> Prediction:
        """Predict a task; one that cannot be predicted, now or later, gets an empty prediction with the reason.

        What is predicted is kept at once: whoever waits for it may go away before the others are.
        """
        if (kept := self._finished.get(key)) is not None:
            return kept
        try:
            seen = await self._seen(asking, question, task)
        except ServiceError as error:
            later = is_fault(error) or not isinstance(error, BadInput | ModelOutputError)
            log.warning("task %s %s: %s", task.get("id"), "is put off" if later else "fails", error.message)
            if later:
                raise
            return {"result": _reason(asking.labelling, error), "score": 0.0, "model_version": version, "failed": True}
        best = max((each for each in seen if each.score is not None), key=lambda each: each.probability, default=None)
        results = [result for each in seen for result in each.results]
        prediction = {"result": results, "score": best.score if best else None, "model_version": version}
        self._finished.keep(key, prediction)
        return prediction

    async def _seen(self, asking: Asking, question: Question, task: Mapping[str, Any]) -> list[Seen]:
        found: list[Seen] = []
        for image in asking.labelling.images.values():
            controls = [each for each in asking.labelling.about(image.name) if not each.interactive_only]
            if not controls:
                continue
            region = marked_region(task, image.name) if asking.score == "mass_inside" else None
            looked = [
                await look(asking, controls, data, item, region)
                for item, data in await self._data(image, task, question)
            ]
            found += _said_once(looked)
        return found

    async def _data(
        self, image: ImageTag, task: Mapping[str, Any], question: Question
    ) -> list[tuple[int | None, bytes]]:
        """Get the pictures of an ``<Image>``, with their place where there is a list of them."""
        value = value_of_task(image, task)
        if not image.several:
            return [(None, await self._pictures.get(value, task.get("id"), question.credentials))]
        values = value if isinstance(value, list) else [value]
        if len(values) > _MAX_ITEMS:
            raise PictureNotFetched(f"The task has {len(values)} pictures; {_MAX_ITEMS} at most are looked at.")
        # One after the other: several tasks are on their way at once.
        return [
            (item, await self._pictures.get(each, task.get("id"), question.credentials))
            for item, each in enumerate(values)
        ]

    async def _pointed(self, asking: Asking, question: Question, context: Mapping[str, Any]) -> Prediction:
        """Answer what somebody pointed at: the part of their class's map that lies there."""
        image, item = pointed_image(asking.labelling, context)
        if image is None or not question.tasks:
            raise InvalidOption("There is no task, or no <Image> in the labelling configuration.")
        value = value_of_task(image, question.tasks[0])
        if item is not None and isinstance(value, list):
            value = value[item] if item < len(value) else None
        data = await self._pictures.get(value, question.tasks[0].get("id"), question.credentials)
        seen = await look_where(asking, image.name, context, data, item)
        return {"result": list(seen.results), "score": seen.score}


def _count(metrics: Metrics, ready: Sequence[Prediction], lacking: int) -> None:
    failed = sum("failed" in each for each in ready)
    for result, number in {"predicted": len(ready) - failed, "failed": failed, "put_off": lacking}.items():
        metrics.labelling_tasks.labels("label-studio", result).inc(number)


def keys_of(tasks: Sequence[Mapping[str, Any]], project: str, labelling: Labelling) -> list[str]:
    """Return what tells each task from others, and from itself once its data have changed."""
    about = hashlib.sha256(json.dumps([project, labelling.digest]).encode())
    return [_key(about.copy(), task) for task in tasks]


def _key(key: hashlib._Hash, task: Mapping[str, Any]) -> str:
    told = json.dumps([task.get("id"), task.get("data"), task.get("annotations")], sort_keys=True)
    key.update(told.encode())
    return key.hexdigest()


def _unmatched(labelling: Labelling, info: ModelInfo, label_map: Mapping[str, Sequence[int | str]]) -> list[str]:
    """Return the first of the labels that mean no class."""
    labels = dict.fromkeys(label for control in labelling.controls for label in control.labels)
    known = meanings(labels, info, label_map)
    return [each.label.value for each in known if not each.classes][:_MOST_NAMED]


def _reason(labelling: Labelling, error: ServiceError) -> list[dict[str, Any]]:
    """Say in a text field of the project why there is no prediction, if it has one."""
    texts = [each for each in labelling.controls if each.type == "textarea" and not each.interactive_only]
    return [
        {
            "id": "reason",
            "from_name": each.name,
            "to_name": each.image,
            "type": each.type,
            "value": {"text": [f"No prediction: {error.message}"]},
        }
        for each in texts[:1]
    ]


def _said_once(looked: Sequence[Seen]) -> list[Seen]:
    """Of several pictures, keep what is said of the task as a whole of the one that is the surest of it."""
    best: dict[str, tuple[int, float]] = {}
    for index, seen in enumerate(looked):
        for result in seen.results:
            if _of_the_whole(result) and result["score"] > best.get(result["from_name"], (0, -1.0))[1]:
                best[result["from_name"]] = index, result["score"]
    return [
        replace(
            seen,
            results=tuple(
                each for each in seen.results if not _of_the_whole(each) or best[each["from_name"]][0] == index
            ),
        )
        for index, seen in enumerate(looked)
    ]


def _of_the_whole(result: Mapping[str, Any]) -> bool:
    return result["type"] not in REGIONS and "item_index" not in result
