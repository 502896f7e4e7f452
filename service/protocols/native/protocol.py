"""The native API's row in the table of protocols."""

from __future__ import annotations

from service.protocols import WireProtocol
from service.protocols.native.evaluations import LARGE_POSTS, router
from service.protocols.native.openapi import OPENAPI

__all__ = ["NATIVE"]

NATIVE = WireProtocol(
    name="native",
    router=router,
    prefixes=(router.prefix,),
    large_posts=LARGE_POSTS,
    modules=("service.evaluation.run", "anyio._core._fileio"),  # the latter opens the page's files
    openapi=OPENAPI,
)
