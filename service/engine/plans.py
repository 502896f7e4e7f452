"""What is done to each image of a request, where images may have options of their own.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from service.engine.plan import Plan, plan
from service.errors import BadInput
from service.options import Options

if TYPE_CHECKING:
    from service.engine.encoded import EncodedSentences
    from service.engine.request import Request, Upload
    from service.models.info import ModelInfo

__all__ = ["plans"]

_NAMES = [field.name for field in fields(Options)]


def plans(
    request: Request, info: ModelInfo, max_explanations: int, encoded: EncodedSentences | None = None
) -> list[tuple[Upload, Plan]]:
    """Resolve a request for each of its images; options of an image's own that cannot be met are its error alone.

    Images with the same options have the same plan, so that they count as one piece of work.

    Raises:
        BadInput: the request's own options cannot be met, as :func:`service.engine.plan.plan` says.
    """
    common = plan(request, info, max_explanations, encoded)
    made: dict[Options, Plan | BadInput] = {}
    planned: list[tuple[Upload, Plan]] = []
    for upload in request.images:
        if upload.options is None:
            planned.append((upload, common))
            continue
        if upload.options not in made:
            made[upload.options] = _own(request, upload.options, info, max_explanations, encoded)
        own = made[upload.options]
        planned.append((upload, own) if isinstance(own, Plan) else (_failed(upload, own), common))
    return planned


def _own(
    request: Request, options: Options, info: ModelInfo, max_explanations: int, encoded: EncodedSentences | None
) -> Plan | BadInput:
    own = replace(request, **{name: getattr(options, name) for name in _NAMES})
    try:
        return plan(own, info, max_explanations, encoded)
    except BadInput as error:
        return error


def _failed(upload: Upload, error: BadInput) -> Upload:
    """Give an image its error; the first that was found stays."""
    return replace(upload, data=b"", error=upload.error or error)
