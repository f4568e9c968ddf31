"""`GET /v1/cache` and `POST /v1/cache/invalidations`: what the cache does, and making it forget."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from litestar import Controller, Request, get, post
from litestar.di import NamedDependency
from msgspec import Meta

from dub5.admission.arrivals import Arrivals
from dub5.admission.keys import Caller
from dub5.api.http import parse_tags, read_body, require_json
from dub5.cache.freshness import NO_DIRECTIVES
from dub5.cache.policies import Policies
from dub5.cache.store import AnswerStore
from dub5.chat.catalog import Catalog
from dub5.chat.pipeline import Pipeline, answer_too_large
from dub5.chat.request import diagnosis, invalid, read
from dub5.contract import TAG, purge_names
from dub5.errors import Dub5Error, Forbidden, InvalidRequest, PurgedHereOnly
from dub5.json_steps import LARGE, SMALL, TooCostly, at_once, decode, in_steps, survey
from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import record_of

T = TypeVar("T")

_LONGEST_PURGE = 64 * 2**10
"""Bytes: a hundred tags, each character of them escaped."""

_TAG, _LONGEST_ESCAPE = 100, 6
_Word = Annotated[str, Meta(min_length=1, max_length=100)]
_Tag = Annotated[str, Meta(pattern=f"^{TAG}$")]


class Invalidation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to forget: exactly one of the fields, of which `tenant` may also narrow another one."""

    tags: Annotated[list[_Tag], Meta(min_length=1, max_length=100)] | None = None
    personality: _Word | None = None
    model: _Word | None = None
    class_: _Word | None = msgspec.field(default=None, name="class")
    tenant: _Word | None = None
    all: bool = False

    def names(self, owner: str | None) -> list[str]:
        """The names to purge: for the whole installation, or inside the tenant `owner`."""
        narrow = [self.tags, self.personality, self.model, self.class_]
        given = sum(value is not None for value in narrow)
        wide = self.all or (self.tenant is not None and not given)
        if given + wide != 1:
            raise InvalidRequest("Say one of tags, personality, model, class, tenant, all.", param="body")
        for place, tag in enumerate(self.tags or ()):
            if tag.endswith("\n"):  # `$` lets it pass, and RE2 has nothing for that
                name = f"tags[{place}]"
                raise InvalidRequest(f"A tag ends with no line feed: `{name}`.", param=name)
        return purge_names(
            tags=self.tags or (),
            personality=self.personality,
            model=self.model,
            class_name=self.class_,
            tenant=owner,
        )


class _Message(msgspec.Struct):
    role: Literal["assistant"]
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str
    index: int = 0


class _Completion(msgspec.Struct):
    choices: Annotated[list[_Choice], Meta(min_length=1)]


class _Answer(msgspec.Struct):
    """For the sake of the path in its errors."""

    answer: _Completion


class WrittenAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer that people have written: the request it answers, and its text or a whole `chat.completion`."""

    request: msgspec.Raw
    answer: msgspec.Raw
    tags: Annotated[list[Annotated[str, Meta(max_length=_TAG)]], Meta(max_length=100)] = []

    def completion(self, model: str) -> bytes:
        """InvalidRequest where it is neither text nor a completion."""
        answer = _decoded(b'{"answer":%b}' % bytes(self.answer))["answer"]
        if isinstance(answer, dict):
            try:
                msgspec.convert({"answer": answer}, _Answer)
            except msgspec.ValidationError as error:
                raise invalid(str(error)) from None
            return msgspec.json.encode(answer)
        if not isinstance(answer, str):
            raise InvalidRequest("Expected `str | object`: `answer`.", param="answer")
        digest = hashlib.blake2b(answer.encode(), digest_size=12).hexdigest()
        message = {"role": "assistant", "content": answer, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return msgspec.json.encode(
            {
                "id": f"chatcmpl-written-{digest}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": model,
                "choices": [choice],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
            }
        )


class CacheController(Controller):
    """For people and scripts; the figures are metrics too."""

    path = "/v1/cache"

    @get(opt={"role": "admin"})
    async def cache(
        self,
        catalog: NamedDependency[Catalog],
        store: NamedDependency[AnswerStore],
        policies: NamedDependency[Policies],
        metrics: NamedDependency[Metrics],
    ) -> dict[str, Any]:
        """Of this replica: the policy in force per class, entries, bytes, and lookups since it started."""
        lookups = metrics.lookups_by_class()
        classes = {}
        for name, each in catalog.classes.items():
            lifetimes = policies.in_force[name]
            counts = lookups.get(name, {})
            classes[name] = {
                **msgspec.to_builtins(lifetimes),
                "source": policies.source(name),
                "share": each.share,
                "cacheable": each.cacheable,
                "max_temperature": each.max_temperature,
                "tool_results": each.tool_results,
                "lookups": counts,
                "hit_ratio": _hit_ratio(counts),
            }
        entries, size = store.occupancy()
        local = {"entries": entries, "bytes": size}
        return {"enabled": store.enabled, "local": local, "classes": classes}

    @post("/invalidations", opt={"role": "tenant_admin"}, status_code=200)
    async def invalidate(
        self, request: Request[Any, Any, Any], store: NamedDependency[AnswerStore]
    ) -> dict[str, Any]:
        """Forget answers, at once here and within a second everywhere; PurgedHereOnly where Redis is away."""
        require_json(dict(request.headers))
        body = await _arrived(request)
        if len(body) > _LONGEST_PURGE:
            raise InvalidRequest(f"A purge is at most {_LONGEST_PURGE} bytes.", param="body")
        wanted = await _parse(body, Invalidation)
        names = wanted.names(_owner(wanted, request.state.caller))
        if store.enabled and not await store.purge(names):
            raise PurgedHereOnly
        return {"purged": names}

    @post("/answers", opt={"role": "tenant_admin"}, status_code=200)
    async def put(
        self,
        request: Request[Any, Any, Any],
        pipeline: NamedDependency[Pipeline],
        arrivals: NamedDependency[Arrivals],
    ) -> dict[str, Any]:
        """Store an answer for those whom the class lets share the caller's; for all tenants only as admin."""
        require_json(dict(request.headers))
        body, caller = await _arrived(request), request.state.caller
        key = None
        async with arrivals.reading_lock if len(body) >= LARGE else contextlib.nullcontext():
            written = await _written(body, most=pipeline.max_entry)
            tags = parse_tags(",".join(written.tags), field="tags")
            reading = read(bytes(written.request), room=arrivals.room)
            written = msgspec.structs.replace(written, request=msgspec.Raw())
            del body  # of which both have copies
            with _inside_request():
                asked = await reading
                if asked.large:
                    key = await pipeline.key_of(asked, caller=caller, tags=tags)
        with arrivals.reading(asked.size, max(0, asked.cost - asked.size)):
            with _inside_request():
                question = pipeline.prepare(
                    asked,
                    caller=caller,
                    directives=NO_DIRECTIVES,
                    tags=tags,
                    record=record_of(request.scope),
                    key=key,
                )
            if question.target.cache_class.share == "public":
                request.state.caller.require("admin")  # it would answer other tenants, too
            await pipeline.put(question, written.completion(asked.model))
        return {"stored": True}


@contextlib.contextmanager
def _inside_request() -> Iterator[None]:
    """What is wrong with the request that a written answer is for is named by its path in the whole body."""
    try:
        yield
    except Dub5Error as error:
        inner = error.param
        if inner is not None:
            error.param = "request" if inner == "body" else f"request.{inner}"
        if isinstance(error, InvalidRequest):
            error.message = error.message.replace(f"`{inner}`", f"`{error.param}`")
        raise


async def _arrived(request: Request[Any, Any, Any]) -> bytes:
    """The body, which Litestar would keep until it is answered."""
    return await read_body(dict(request.headers), request.receive, request.app.state.max_body)


async def _written(body: bytes, *, most: int) -> WrittenAnswer:
    """Only its outside is decoded. InvalidRequest where the answer cannot be of `most` bytes."""
    if len(body) > SMALL:
        try:
            await in_steps(survey(body))
        except TooCostly as error:
            raise InvalidRequest(str(error), param="body") from None
    written = await _parse(body, WrittenAnswer)
    if len(written.answer) > _LONGEST_ESCAPE * most:  # before it is decoded
        raise answer_too_large()
    return msgspec.structs.replace(written, answer=written.answer.copy())


def _decoded(text: bytes) -> Any:
    try:
        return decode(text)
    except (ValueError, RecursionError) as error:  # msgspec's and Unicode's errors are ValueErrors
        raise at_once(diagnosis(text, error)) from None


async def _parse(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise await in_steps(diagnosis(body, error)) from None


def _owner(wanted: Invalidation, caller: Caller) -> str | None:
    """Whose answers: everybody's for an admin who names no tenant, else one tenant's."""
    if "admin" in caller.roles:
        return wanted.tenant
    if wanted.tenant not in {None, caller.tenant}:
        raise Forbidden("This key may purge its own tenant's answers only.")
    return caller.tenant


def _hit_ratio(lookups: dict[str, float]) -> float | None:
    """Share of cacheable requests answered without a provider call of their own; None before the first."""
    asked = sum(count for result, count in lookups.items() if result != "bypass")
    return round(1 - lookups.get("miss", 0.0) / asked, 4) if asked else None
