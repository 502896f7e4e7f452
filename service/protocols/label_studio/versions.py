"""What predictions are known by: the same in setup and every prediction, also where setup came before the model."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.protocols.label_studio.place import model_version

if TYPE_CHECKING:
    from service.engine.explainer import Explainer
    from service.protocols.label_studio.config import Labelling
    from service.protocols.label_studio.place import Place
    from service.settings import LabelStudioScore

__all__ = ["Versions"]

_MOST = 1000  # projects that introduced themselves while their model was loading


@dataclass
class _Said:
    """What a project was told while nothing was known of the model, and the digest of what it turned out to be."""

    version: str
    digest: str | None = None

    def holds_of(self, digest: str) -> bool:
        """Whether it stands for these weights; the first that it is asked of are those that it stands for."""
        if self.digest is None:
            self.digest = digest
        return self.digest == digest


class Versions:
    """Names versions. One for the application.

    A project that introduces itself while its model is loading is told a name that no other weights will ever have. It
    keeps that for as long as the model has the weights that come then: another would have Label Studio predict
    everything once more.

    Args:
        score: what a prediction's score is.
    """

    def __init__(self, score: LabelStudioScore) -> None:
        self._score = score
        self._said: OrderedDict[tuple[str, Place, str], _Said] = OrderedDict()

    def now(self, engine: Explainer, place: Place, labelling: Labelling) -> str:
        """Return the version by what is known now.

        Raises:
            UnknownModel, UnknownLayer, LayerNotExplainable: there is no such place.
        """
        return model_version(engine, place, labelling, self._score)

    def introduced(self, engine: Explainer, place: Place, labelling: Labelling, project: str) -> str:
        """Return the version that a project is told, which its predictions will have.

        Raises:
            UnknownModel, UnknownLayer, LayerNotExplainable: there is no such place.
        """
        status = engine.model(place.model)
        if status.info or status.known:
            return self.predicted(engine, place, labelling, project)
        about = (project, place, labelling.digest)
        said = self._said.get(about)
        if said is None or said.digest is not None:
            once = f"{status.state}-{secrets.token_hex(4)}"
            said = self._said[about] = _Said(model_version(engine, place, labelling, self._score, once))
            if len(self._said) > _MOST:
                self._said.popitem(last=False)
        return said.version

    def predicted(self, engine: Explainer, place: Place, labelling: Labelling, project: str) -> str:
        """Return the version that predictions have.

        Raises:
            UnknownModel, UnknownLayer, LayerNotExplainable: there is no such place.
        """
        now = self.now(engine, place, labelling)
        status, said = engine.model(place.model), self._said.get((project, place, labelling.digest))
        info = status.info or status.known
        return said.version if said is not None and info is not None and said.holds_of(info.digest) else now
