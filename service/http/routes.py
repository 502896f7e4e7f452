"""Routes whose endpoints read the request themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["DirectRoute"]


class DirectRoute(APIRoute):
    """Calls its endpoint with the request and what the path holds, as text.

    FastAPI describes it in the document like any other, and does not work out what it wants at each request: that takes
    as long as reading the options. The endpoint must be a coroutine and return a response.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""

        async def answer(request: Request) -> Response:
            # Not all of the path's: it may stand below one with names of its own, where the application is mounted.
            named = {name: request.path_params[name] for name in self.param_convertors}
            response: Response = await self.endpoint(request=request, **named)
            return response

        return answer
