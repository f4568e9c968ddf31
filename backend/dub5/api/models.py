"""`GET /v1/models`, `/v1/models/{id}`, `/v1/personalities` and the index."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from litestar import Controller, Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from dub5.admission.keys import Caller
from dub5.chat.catalog import Catalog

CREATED = 1_767_225_600
"""2026-01-01 in seconds since the epoch, of every model: OpenAI's shape asks for a time, and when a name of ours was
made is not known. This one is the same on each replica and after each start."""

_CREATED_AT = datetime.fromtimestamp(CREATED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
"""The same, as Anthropic's clients read it."""


class ModelsController(Controller):
    """Models and personalities in OpenAI's shape and in Anthropic's, so that every client's model picker shows both."""

    path = "/v1"
    opt = {"role": "chat"}  # noqa: RUF012  # Litestar's own class attribute

    @get("/models")
    async def models(
        self, request: Request[Any, Any, Any], catalog: NamedDependency[Catalog]
    ) -> dict[str, Any]:
        """Those that the caller's key may use, all of them on one page."""
        caller: Caller = request.state.caller
        names = [name for name in catalog.names() if caller.may_use(name)]
        first, last = (names[0], names[-1]) if names else (None, None)
        data = [_model(name, catalog) for name in names]
        return {"object": "list", "data": data, "has_more": False, "first_id": first, "last_id": last}

    @get("/models/{name:path}")
    async def model(
        self, request: Request[Any, Any, Any], catalog: NamedDependency[Catalog], name: FromPath[str]
    ) -> dict[str, Any]:
        """Names may have slashes; Litestar gives the rest of a path with the one before it."""
        name = name.removeprefix("/")
        request.state.caller.require_model(name)
        return _model(catalog[name].name, catalog)

    @get("/personalities")
    async def personalities(
        self, request: Request[Any, Any, Any], catalog: NamedDependency[Catalog]
    ) -> dict[str, Any]:
        caller: Caller = request.state.caller
        data = [
            {
                "name": each.name,
                "description": each.description,
                "model": each.model,
                "cache_class": each.cache_class,
                "revision": each.revision,
            }
            for each in catalog.personalities.values()
            if caller.may_use(each.name)
        ]
        return {"object": "list", "data": data}


def _model(name: str, catalog: Catalog) -> dict[str, Any]:
    """`kind`, `context_window` and `price`, $ per million tokens, are ours: left out where they are not known."""
    target = catalog[name]
    described = {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "dub5",
        "type": "model",
        "display_name": name,
        "created_at": _CREATED_AT,
        "lifecycle": "active",
    }
    kind = "personality" if target.personality is not None else target.kind
    if kind is not None:
        described["kind"] = kind
    if target.context_window is not None:
        described["context_window"] = described["max_input_tokens"] = target.context_window
    price = target.model.price
    if not price.input and not price.output:
        return described
    cached = price.input if price.cached_input is None else price.cached_input
    return {**described, "price": {"input": price.input, "cached_input": cached, "output": price.output}}


@get("/")
async def index() -> dict[str, Any]:
    """What there is where the page is switched off: open to all, and says nothing about the installation."""
    return {
        "service": "dub5",
        "chat": "POST /v1/chat/completions",
        "models": "GET /v1/models",
        "personalities": "GET /v1/personalities",
        "cache": "GET /v1/cache",
    }
