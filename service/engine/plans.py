"""What is done to each image of a request, where images may have options of their own.

Runs in the front process.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from service.engine.cost import Work
from service.engine.encoded import EncodedSentences
from service.engine.plan import Plan, plan
from service.errors import BadInput
from service.options import Options

if TYPE_CHECKING:
    from service.engine.request import Request, Upload
    from service.imaging.decode import Header
    from service.models.info import ModelInfo

__all__ = ["Plans"]

_NAMES = [field.name for field in fields(Options)]
_options_of = attrgetter(*_NAMES)

# Callers have few sets of options, and pictures of few sizes, and ask for them again and again.
_REMEMBERED, _SIZES = 64, 16


class Plans:
    """Makes plans, and remembers the latest: to work one out takes longer than to look it up.

    Args:
        max_explanations: of one picture.
        encoded: which sentences need not be encoded any more; none are if left out.
    """

    def __init__(self, max_explanations: int, encoded: EncodedSentences | None = None) -> None:
        self._max_explanations, self._encoded = max_explanations, encoded or EncodedSentences()
        self._latest: OrderedDict[Any, tuple[ModelInfo, Plan]] = OrderedDict()
        self._works: WeakKeyDictionary[Plan, dict[tuple[Header, ...], Work]] = WeakKeyDictionary()

    def of(self, request: Request, info: ModelInfo) -> list[tuple[Upload, Plan]]:
        """Resolve a request for each of its images; options of an image's own that cannot be met are its error alone.

        Images with the same options have the same plan, so that they count as one piece of work.

        Raises:
            BadInput: the request's own options cannot be met, as :func:`service.engine.plan.plan` says.
        """
        common = self._plan(request, info)
        made: dict[Options, Plan | BadInput] = {}
        planned: list[tuple[Upload, Plan]] = []
        for upload in request.images:
            if upload.options is None:
                planned.append((upload, common))
                continue
            if upload.options not in made:
                made[upload.options] = self._own(request, upload.options, info)
            own = made[upload.options]
            planned.append((upload, own) if isinstance(own, Plan) else (_failed(upload, own), common))
        return planned

    def work(self, todo: Plan, headers: tuple[Header, ...]) -> Work:
        """Count what a plan asks for of pictures with these headers; what was counted is forgotten with the plan."""
        known = self._works.setdefault(todo, {})
        if headers not in known:
            if len(known) >= _SIZES:
                del known[next(iter(known))]
            known[headers] = Work.of(todo, headers)
        return known[headers]

    def _own(self, request: Request, options: Options, info: ModelInfo) -> Plan | BadInput:
        own = replace(request, **{name: getattr(options, name) for name in _NAMES})
        try:
            return self._plan(own, info)
        except BadInput as error:
            return error

    def _plan(self, request: Request, info: ModelInfo) -> Plan:
        if request.region is not None:  # of many points perhaps
            return plan(request, info, self._max_explanations, self._encoded)
        asked = info.key, request.op, _options_of(request)
        known, made = self._latest.get(asked, (None, None))
        if made is None or known is not info:  # a version that was loaded anew
            made = plan(request, info, self._max_explanations, self._encoded)
        if not made.lane.sentences.all:  # what they cost changes as they are encoded, and they may be long
            self._latest[asked] = info, made
            self._latest.move_to_end(asked)
        if len(self._latest) > _REMEMBERED:
            self._latest.popitem(last=False)
        return made


def _failed(upload: Upload, error: BadInput) -> Upload:
    """Give an image its error; the first that was found stays."""
    return replace(upload, data=b"", error=upload.error or error)
