"""What every request passes before it comes to its route; each part costs the usual request a comparison.

Requests that browsers send: pages of other origins stay out, those that are allowed may read what comes. What
`dub5.api.origins` decides by no page can leave out or change, and no program sends it, but for desktop programs that
are browsers inside and have an odd origin: their key lets them in.

A replica that is leaving puts `Connection: close` on what it still answers, and refuses with 503 what comes too late.

For the usual request none of this has a coroutine of its own: each chunk of a stream would wake that one, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from dub5.admission.drain import Drain
from dub5.admission.keys import KeyRing
from dub5.api.chat import QuestionRoute
from dub5.api.http import CLOSE, headers_of, key_of, send_error
from dub5.api.origins import BROWSER_HEADERS, VARY, Origins, is_foreign, is_preflight, preflight_headers
from dub5.api.paths import canonical
from dub5.errors import Dub5Error, ForeignOrigin, Overloaded
from dub5.telemetry.record import record_of


class BrowserMiddleware:
    """`keys` are None where none opens anything. Other callers are known by the names of their headers."""

    def __init__(self, app: ASGIApp, origins: Origins, keys: KeyRing | None = None) -> None:
        self._app = app
        self._origins = origins
        self._keys = keys
        self._varies = bool(origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        for name, _ in scope["headers"]:
            if name in BROWSER_HEADERS:
                return self._from_browser(scope, receive, send)
        if self._varies:
            record_of(scope).answer_headers = [VARY]
        return self._app(scope, receive, send)

    def _from_browser(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        headers, method = headers_of(scope), scope["method"]  # type: ignore[typeddict-item]
        record = record_of(scope)
        if self._varies:
            record.answer_headers = [VARY]
        allowed = self._origins.headers(headers.get("origin"))
        if allowed is not None:
            record.answer_headers = allowed
            if is_preflight(method, headers):
                return _permit(send, headers)
        elif is_foreign(method, headers) and not self._has_key(headers):
            record.error_code = ForeignOrigin.code
            return send_error(send, ForeignOrigin(headers.get("origin")))
        return self._app(scope, receive, send)

    def _has_key(self, headers: dict[str, str]) -> bool:
        if self._keys is None or not self._keys.configured:
            return False
        try:
            self._keys.authenticate(key_of(headers))
        except Dub5Error:
            return False
        return True


async def _permit(send: Send, headers: dict[str, str]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": preflight_headers(headers)})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class DrainMiddleware:
    """Sends clients elsewhere while the replica leaves."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
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


class QuestionsFirst:
    """Takes requests for one of the `routes` straight to it, and all others, also to a path written otherwise, on.

    What the router, the exception handling and the copies of a framework cost per request is a tenth of a hit. A path
    without its version is as good as with it, and HEAD is answered wherever GET is.
    """

    def __init__(self, routes: Iterable[QuestionRoute], app: ASGIApp) -> None:
        self._by_path: dict[str, ASGIApp] = {route.spelling.path: route.handle for route in routes}
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        route = self._by_path.get(scope["path"])
        return self._elsewhere(scope, receive, send) if route is None else route(scope, receive, send)

    def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["path"] = canonical(scope["path"])
        app = self._by_path.get(scope["path"], self._app)
        if scope["method"] == "HEAD":  # type: ignore[typeddict-item]
            return _head(app, scope, receive, send)
        return app(scope, receive, send)


async def _head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """As GET: the server sends no body, for it knows the scope as it was."""
    as_get: Any = {**scope, "method": "GET"}
    record = record_of(scope)
    await app(as_get, receive, send)
    record.route = as_get.get("path_template", record.route)
