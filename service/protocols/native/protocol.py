"""The native API's row in the table of protocols."""

from __future__ import annotations

from service.protocols import WireProtocol
from service.protocols.native.openapi import OPENAPI
from service.protocols.native.routes import router

__all__ = ["NATIVE"]

NATIVE = WireProtocol(name="native", router=router, prefixes=(router.prefix,), openapi=OPENAPI)
