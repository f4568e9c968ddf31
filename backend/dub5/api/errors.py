"""What Litestar itself raises (404, 405, …) and what our controllers raise, in OpenAI's shape or in Anthropic's."""

from __future__ import annotations

import re
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException

from dub5.api.http import ClientLeft, too_large
from dub5.api.messages import MessagesRoute
from dub5.api.paths import not_served, nothing_at
from dub5.errors import (
    Dub5Error,
    InternalError,
    InvalidRequest,
    UnknownPath,
    WrongMethod,
    render,
    render_messages,
)
from dub5.telemetry.logging import get_logger
from dub5.telemetry.record import record_of

_log = get_logger()

_MESSAGES = "/v1/messages/"
"""Below it is Anthropic's API, also what of it is not served: `batches`."""


def _respond(request: Request[Any, Any, Any], error: Dub5Error) -> Response[bytes]:
    record = record_of(request.scope)
    record.error_code = error.code
    # Their clients name a version with each request: also of what has one path in both APIs, as models.
    anthropic = request.scope["path"].startswith(_MESSAGES) or "anthropic-version" in request.headers
    rendered = render_messages(error, record.request_id) if anthropic else render(error)
    headers = {name.decode(): value.decode() for name, value in rendered.headers}
    if anthropic:
        headers[MessagesRoute.id_header.decode()] = record.request_id
    return Response(
        rendered.body, status_code=rendered.status, headers=headers, media_type="application/json"
    )


def _on_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _respond(request, _as_ours(request, error))


def _as_ours(request: Request[Any, Any, Any], error: HTTPException) -> Dub5Error:
    path = request.scope["path"]
    # Where an API that is not here has the path of one of ours, as `responses/compact`, its method does not matter.
    if error.status_code == 404 or (error.status_code == 405 and not_served(path) is not None):
        return UnknownPath(nothing_at(path, (route.path_format for route in request.app.routes)))
    if error.status_code == 405:
        return WrongMethod(f"This path does not take {request.method[:20]}.", allow=_allowed(request))
    if error.status_code == 413:
        return too_large(request.app.state.max_body)
    if error.status_code < 500:
        return InvalidRequest(error.detail)
    return InternalError()


def _allowed(request: Request[Any, Any, Any]) -> str:
    """The methods that the path takes; Litestar knows them but does not say."""
    path = request.url.path.rstrip("/") or "/"
    matching = [
        route
        for route in request.app.routes
        if re.fullmatch(re.sub(r"\{[^}]+\}", ".+", route.path_format), path)
    ]
    if not matching:
        return ""
    # A name may have slashes: of what it could be in as well, the longest is meant.
    route = max(matching, key=lambda route: len(route.path_format))
    methods = set(getattr(route, "methods", ()))
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _on_defect(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    record = record_of(request.scope)
    _log.error("request failed", request_id=record.request_id, trace_id=record.trace.trace_id, exc_info=error)
    return _respond(request, InternalError())


def _on_leaving(request: Request[Any, Any, Any], _: ClientLeft) -> Response[bytes]:
    """No client is left to read it."""
    record_of(request.scope).outcome = "client_disconnect"
    return _respond(request, InvalidRequest("The body broke off.", param="body"))


HANDLERS: Any = {
    Dub5Error: _respond,
    ClientLeft: _on_leaving,
    HTTPException: _on_http,
    Exception: _on_defect,
}
