"""Whether an answer that a document shows looks like the real one."""

from __future__ import annotations

from typing import Any


def differences(shown: Any, real: Any, where: str = "answer", *, every_key: bool = False) -> list[str]:
    """Say where ``shown`` is not like ``real``.

    Members and list items may be left out, unless ``every_key`` is asked for; then members may not. Numbers and strings
    that end in an ellipsis have to be of the same type only, other strings, truth values and null have to be equal.
    What hangs on the machine is shown as "… or null", and may be either.
    """
    if shown == "… or null":
        return [] if real is None or isinstance(real, str) else [f"{where}: it is {str(real)[:80]!r}"]
    if isinstance(shown, dict) and isinstance(real, dict):
        return _members(shown, real, where, every_key=every_key)
    if isinstance(shown, list) and isinstance(real, list):
        if len(shown) > len(real):
            return [f"{where}: {len(shown)} items are shown, there are {len(real)}"]
        return [
            found
            for index, item in enumerate(shown)
            for found in differences(item, real[index], f"{where}[{index}]", every_key=every_key)
        ]
    if type(shown) is not type(real):
        return [f"{where}: {shown!r} is shown, it is {str(real)[:80]!r}"]
    exact = isinstance(shown, bool) or (isinstance(shown, str) and not shown.endswith("…"))
    if exact and shown != real:
        return [f"{where}: {shown!r} is shown, it is {str(real)[:200]!r}"]
    return []


def _members(shown: dict[str, Any], real: dict[str, Any], where: str, *, every_key: bool) -> list[str]:
    found = [f"{where}: there is no member {name!r}" for name in shown.keys() - real.keys()]
    if every_key:
        found += [f"{where}: the member {name!r} is not shown" for name in real.keys() - shown.keys()]
    for name in shown.keys() & real.keys():
        found += differences(shown[name], real[name], f"{where}.{name}", every_key=every_key)
    return found
