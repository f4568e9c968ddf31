"""`GET` and `DELETE /v1/responses/{id}`, and the items of a Response that is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Controller, Request, Response, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from dub5.api.http import read_body
from dub5.api.responses_request import cannot
from dub5.api.responses_store import Record, ResponseStore
from dub5.errors import InvalidRequest, UnknownResponse
from dub5.providers.protocol import Json
from dub5.telemetry.record import record_of

_INPUT = 0x8000
"""Positions of a request's own items in ids begin here, those of its answer at 0."""
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


_SMALL = 1024
"""Bytes of a body that a GET has beside its path: a larger one is passed over."""


class _Wanted(msgspec.Struct):
    stream: bool = False


def items_of(record: Record) -> list[Json]:
    """The items of a request's input, and those of its answer, each with an id."""
    response = msgspec.json.decode(record.response)
    ident = response["id"].removeprefix("resp_")
    output: list[Json] = response["output"]
    for position, signed in record.signed.items():
        if position < len(output):
            output[position]["encrypted_content"] = signed
    return [*_input(record, ident), *output]


def input_items(record: Record) -> list[Json]:
    """The items of a request's input as OpenAI shows them: contents as lists of parts."""
    ident = msgspec.json.decode(record.response)["id"].removeprefix("resp_")
    return [_shown(item) for item in _input(record, ident)]


def _input(record: Record, ident: str) -> list[Json]:
    given = msgspec.json.decode(record.input)
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    made = []
    for position, item in enumerate(given):
        kind = item.get("type") or "message"
        if kind == "item_reference":
            made.append(item)
            continue
        written, name = item.get("id"), f"{_PREFIXES.get(kind, 'msg')}_{ident}{_INPUT + position:04x}"
        made.append({**item, "id": written if written and isinstance(written, str) else name, "type": kind})
    return made


def _shown(item: Json) -> Json:
    if item["type"] == "message":
        content = item["content"]
        if isinstance(content, str):
            kind = "output_text" if item["role"] == "assistant" else "input_text"
            content = [
                {"type": kind, "text": content, **({"annotations": []} if kind == "output_text" else {})}
            ]
        return {"status": "completed", **item, "content": content}
    if item["type"] in ("function_call", "function_call_output"):
        return {"status": "completed", **item}
    return item


class ResponsesController(Controller):
    """For Responses that are kept: those of the caller's tenant."""

    path = "/v1/responses"
    opt = {"role": "chat"}  # noqa: RUF012  # Litestar's own class attribute

    @get("/{name:str}")
    async def response(
        self, request: Request[Any, Any, Any], responses: NamedDependency[ResponseStore], name: FromPath[str]
    ) -> Response[bytes]:
        if await _wants_events(request):
            # Who reads events would find none, and no error.
            raise cannot("stream", "what is kept is given whole")
        record = await _record(request, responses, name)
        return Response(record.response, media_type="application/json")

    @delete("/{name:str}", status_code=200)
    async def forget(
        self, request: Request[Any, Any, Any], responses: NamedDependency[ResponseStore], name: FromPath[str]
    ) -> Json:
        if not responses.enabled or not await responses.forget(_tenant(request), name):
            raise UnknownResponse(name, param="id")
        return {"id": name, "object": "response", "deleted": True}

    @get("/{name:str}/input_items")
    async def input(
        self,
        request: Request[Any, Any, Any],
        responses: NamedDependency[ResponseStore],
        name: FromPath[str],
    ) -> Json:
        """`limit` of them, those `after` an id; the last one first, unless `order` says otherwise."""
        limit, newest_first, after = _page(request.query_params)
        items = input_items(await _record(request, responses, name))
        if newest_first:
            items.reverse()
        known = [item.get("id") for item in items]
        if after is not None and after not in known:
            # The first page again would have whoever reads on go round without end.
            raise InvalidRequest("No item of this request has such an id: `after`.", param="after")
        # The last of that name: a request may name two items alike, and pages would go round without end.
        start = 0 if after is None else len(known) - known[::-1].index(after)
        page = items[start : start + limit]
        return {
            "object": "list",
            "data": page,
            "first_id": page[0].get("id") if page else None,
            "last_id": page[-1].get("id") if page else None,
            "has_more": start + limit < len(items),
        }


async def _wants_events(request: Request[Any, Any, Any]) -> bool:
    """By the query, or in a small body, where OpenAI's client for Go says it."""
    if request.query_params.get("stream", "false") != "false":
        return True
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or not 0 < int(length) <= _SMALL:
        return False
    body = await read_body(dict(request.headers), request.receive, _SMALL)
    try:
        return msgspec.json.decode(body, type=_Wanted).stream
    except (ValueError, RecursionError):  # whatever it holds, it is no wish for events
        return False


def _page(query: Mapping[str, Any]) -> tuple[int, bool, Any]:
    """How many, whether the last one comes first, and after which id. InvalidRequest names what is none."""
    limit, order = query.get("limit", "20"), query.get("order", "desc")
    if not re.fullmatch(r"[1-9][0-9]?|100", limit):
        raise InvalidRequest("Expected a number from 1 to 100: `limit`.", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("Expected `asc` or `desc`: `order`.", param="order")
    return int(limit), order == "desc", query.get("after")


async def _record(request: Request[Any, Any, Any], responses: ResponseStore, name: str) -> Record:
    """UnknownResponse where there is none."""
    found = await responses.find(_tenant(request), [name]) if responses.enabled else [None]
    if found[0] is None:
        raise UnknownResponse(name, param="id")
    return found[0]


def _tenant(request: Request[Any, Any, Any]) -> str:
    return record_of(request.scope).tenant or ""
