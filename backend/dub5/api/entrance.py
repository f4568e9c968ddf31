"""What every request passes before it comes to its route; each part costs the usual request a comparison.

Requests that browsers send: pages of other origins stay out, those that are allowed may read what comes. What
`dub5.api.origins` decides by no page can leave out or change, and no program sends it, but for desktop programs that
are browsers inside and have an odd origin: their key lets them in.

A replica that is leaving puts `Connection: close` on what it still answers, and refuses with 503 what comes too late.

Questions go straight to their routes. What the router, the exception handling and the copies of a framework cost per
request is a tenth of a hit.

For the usual request none of this has a coroutine of its own: each chunk of a stream would wake that one, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, cast

from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from dub5.admission.drain import Drain
from dub5.admission.keys import KeyRing
from dub5.api.chat import QuestionRoute
from dub5.api.http import CLOSE, headers_of, key_of, send_error
from dub5.api.origins import BROWSER_HEADERS, VARY, Origins, is_foreign, is_preflight, preflight_headers
from dub5.api.paths import canonical
from dub5.errors import Dub5Error, ForeignOrigin, Overloaded
from dub5.telemetry.record import record_of


class Entrance:
    """Takes a request for one of the `routes` there, and any other to `app`.

    A path without its version is as good as with it, and HEAD is answered wherever GET is.
    `keys` are None where none opens anything. Callers that are no browsers are known by the names of their headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        origins: Origins,
        *,
        keys: KeyRing | None = None,
        drain: Drain | None = None,
        routes: Iterable[QuestionRoute] = (),
    ) -> None:
        self._app = app
        self._origins = origins
        self._keys = keys
        self._drain = drain or Drain()
        self._routes = {route.spelling.path: route for route in routes}
        self._by_path: dict[str, ASGIApp] = {path: route.handle for path, route in self._routes.items()}
        self._varies = bool(origins)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        for name, _ in scope["headers"]:
            if name in BROWSER_HEADERS:
                answered = self._for_browser(cast("HTTPScope", scope), send)
                if answered is not None:
                    return answered
                break
        else:
            if self._varies:
                record_of(scope).answer_headers = [VARY]
        app = self._by_path.get(scope["path"], self._elsewhere)
        if self._drain.state != "serving":
            return self._leaving(app, scope, receive, send)
        return app(scope, receive, send)

    def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["path"] = canonical(scope["path"])
        app = self._by_path.get(scope["path"], self._app)
        if scope["method"] == "HEAD":  # type: ignore[typeddict-item]
            return _head(app, scope, receive, send)
        return app(scope, receive, send)

    def _for_browser(self, scope: HTTPScope, send: Send) -> Awaitable[None] | None:
        """The answer to a preflight, or to a page that may not call; None where the request goes on."""
        headers, method = headers_of(scope), scope["method"]
        record = record_of(scope)
        if self._varies:
            record.answer_headers = [VARY]
        allowed = self._origins.headers(headers.get("origin"))
        if allowed is not None:
            record.answer_headers = allowed
            return _permit(send, headers) if is_preflight(method, headers) else None
        if is_foreign(method, headers) and not self._has_key(headers):
            record.error_code = ForeignOrigin.code
            return self._refuse(scope, send, ForeignOrigin(headers.get("origin")))
        return None

    def _has_key(self, headers: dict[str, str]) -> bool:
        if self._keys is None or not self._keys.configured:
            return False
        try:
            self._keys.authenticate(key_of(headers))
        except Dub5Error:
            return False
        return True

    def _refuse(self, scope: Scope, send: Send, error: Dub5Error) -> Awaitable[None]:
        """In the shape of the protocol that is spoken at that path."""
        route = self._routes.get(canonical(scope["path"]))
        return send_error(
            send, error, rendered=None if route is None else route.render(error, record_of(scope))
        )

    async def _leaving(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Send clients elsewhere while the replica leaves."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and CLOSE not in message["headers"]:
                message["headers"] = [*message["headers"], CLOSE]
            await send(message)

        if self._drain.state == "lingering":
            await app(scope, receive, closing)
        else:
            await self._refuse(scope, closing, Overloaded("This replica is shutting down.", retry_after=1))


async def _permit(send: Send, headers: dict[str, str]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": preflight_headers(headers)})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """As GET: the server sends no body, for it knows the scope as it was."""
    as_get: Any = {**scope, "method": "GET"}
    record = record_of(scope)
    await app(as_get, receive, send)
    record.route = as_get.get("path_template", record.route)
