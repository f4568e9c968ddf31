"""A replica that is leaving: `Connection: close` on what it still answers, 503 on what comes too late."""

from __future__ import annotations

from collections.abc import Awaitable

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from dub5.admission.drain import Drain
from dub5.api.http import CLOSE, send_error
from dub5.errors import Overloaded


class DrainMiddleware:
    """Costs one comparison while the replica serves."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own: each chunk of a stream would wake that one too.
        return (self._app if self._drain.state == "serving" else self._drained)(scope, receive, send)

    async def _drained(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and CLOSE not in message["headers"]:
                message["headers"] = [*message["headers"], CLOSE]
            await send(message)

        if self._drain.state == "lingering":
            await self._app(scope, receive, closing)
        else:
            await send_error(closing, Overloaded("This replica is shutting down.", retry_after=1))
