"""The OpenAPI document as one reads it: what stands among the components, where it is used."""

from __future__ import annotations

from typing import Any

__all__ = ["inlined"]


def inlined(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document whose parameters, bodies, responses and headers stand where they are used."""

    def follow(node: Any) -> Any:
        if isinstance(node, list):
            return [follow(each) for each in node]
        if not isinstance(node, dict):
            return node
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#/components/schemas/"):
            _, _, kind, name = reference.split("/")
            return follow(document["components"][kind][name])
        return {name: follow(value) for name, value in node.items()}

    apart = {kind: document["components"][kind] for kind in ("schemas", "securitySchemes")}
    return {**document, "paths": follow(document["paths"]), "components": apart}
