"""What an evaluation has found so far, step by step: arrays by name, which can be kept and gone on with."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["State"]


class State:
    """Finished steps by their names. A step that is known is not computed again."""

    def __init__(self) -> None:
        self._steps: dict[str, dict[str, NDArray[np.generic]]] = {}

    def __contains__(self, step: str) -> bool:
        return step in self._steps

    def __getitem__(self, step: str) -> Mapping[str, NDArray[np.generic]]:
        return self._steps[step]

    def get(self, step: str) -> Mapping[str, NDArray[np.generic]] | None:
        """Return what a step has found; None where it was not done."""
        return self._steps.get(step)

    def put(self, step: str, found: Mapping[str, NDArray[np.generic]]) -> None:
        """Keep what a step has found: at least one array."""
        self._steps[step] = dict(found)

    def to_bytes(self) -> bytes:
        """Write all of it, without pickles."""
        named = {f"{step}\t{name}": array for step, found in self._steps.items() for name, array in found.items()}
        stream = io.BytesIO()
        # Names of layers may hold what names of files in an archive must not.
        np.savez_compressed(stream, np.array(list(named), dtype=np.str_), *named.values())
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Read what ``to_bytes`` wrote."""
        state, stream = cls(), io.BytesIO(data)
        with np.load(stream, allow_pickle=False) as arrays:
            for index, key in enumerate(arrays["arr_0"].tolist()):
                step, _, name = key.partition("\t")
                state._steps.setdefault(step, {})[name] = arrays[f"arr_{index + 1}"]
        return state
