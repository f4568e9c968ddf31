"""A request, resolved: what answers it, under which key its answer is kept, and what is asked of a provider.

The key says which requests ask the same question. Everything in a request may shape its answer, unknown fields too
(they reach the provider), except for a short list of fields that cannot. Two requests that mean the same give the same
key in every process; the order of keys, `1` against `1.0`, an absent field against `null` and the spelling of JSON
escapes do not matter, nor does the protocol in which it was asked (`canonical`). Whose answer it may be, the scope, is
part of what is hashed, so two tenants never share a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from dub5.cache.freshness import Directives
from dub5.cache.store import CacheLookup
from dub5.chat.canonical import canonical, canonical_in_steps
from dub5.chat.catalog import Target
from dub5.chat.request import ChatRequest
from dub5.json_steps import Steps, fed, pieces
from dub5.providers.protocol import Call, Json
from dub5.settings.model import CacheClass
from dub5.telemetry.record import RequestRecord, TraceContext

KEY_VERSION = 2
"""Part of each key: raised when the meaning of a key changes, so that old answers are never found again."""

CANNOT_SHAPE_THE_ANSWER = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "metadata",
        "user",
        "store",
        "prompt_cache_key",
        "safety_identifier",
    }
)
"""`model` is there by its revision; `user` where the answer belongs to one user."""

Share = Literal["tenant", "user", "public"]
_canonical_json = msgspec.json.Encoder(order="deterministic")
_DIGEST = 24
_MOST = 2**63
_OURS = frozenset({"model", "stream", "stream_options"})


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """`lookup` is None where the cache is not to be used; `bypass` says why.

    At `deadline`, in seconds of time.monotonic, the caller stops waiting for the first byte.
    """

    request: ChatRequest
    fields: Json
    target: Target
    directives: Directives
    lookup: CacheLookup | None
    bypass: str | None
    record: RequestRecord
    deadline: float | None = None

    def detached(self) -> Question:
        """The same for work in the background: nobody waits, and what it notes goes into a record of its own."""
        record = msgspec.structs.replace(self.record, timings={})
        return msgspec.structs.replace(self, record=record, deadline=None)

    def call(self, trace: TraceContext) -> Call:
        """What a provider is asked, under the span `trace`; its `model` is filled in by the route."""
        body = {name: value for name, value in self.fields.items() if name not in _OURS}
        headers = {"x-request-id": self.record.request_id, "traceparent": trace.traceparent()}
        options = self.request.body.get("stream_options") or {}
        call = Call(
            model="",
            body=body,
            stream=self.request.stream,
            stream_options=options,
            large=self.request.large,
            headers=headers,
            spelled=self.request.spelled,
        )
        personality = self.target.personality
        if personality is None:
            return call
        body["messages"] = personality.messages(self.request)
        defaults = personality.defaults(self.request)
        return msgspec.structs.replace(call, stable=personality.stable, defaults=defaults)


def why_not_cached(fields: Json, cache_class: CacheClass, asked: Directives) -> str | None:
    """The `detail` of `Cache-Status: …; fwd=bypass`, or None where the cache may be used."""
    if cache_class.cacheable == "never":
        return "class"
    if asked.no_store:
        return "no-store"
    if (fields.get("n") or 1) > 1:
        return "n"
    if (fields.get("temperature") or 0.0) > cache_class.max_temperature:
        return "temperature"
    if not cache_class.tool_results and any(
        message["role"] in {"tool", "function"} for message in fields["messages"]
    ):
        return "tool-results"
    return None


def scope_of(share: Share, *, tenant: str, key_id: str, user: str | None) -> tuple[str, ...]:
    """Who may be given the answer."""
    if share == "public":
        return ("public",)
    if share == "tenant":
        return ("tenant", tenant)
    return ("user", tenant, key_id) if user is None else ("user", tenant, key_id, user)


def answer_key(
    fields: Mapping[str, Any],
    *,
    scope: tuple[str, ...],
    personality_revision: str,
    model_revision: str,
    tags: Iterable[str] = (),
) -> str:
    """48 hexadecimal digits: BLAKE2b-192 over canonical JSON.

    `fields` is the caller's request with the personality's sampling defaults filled in; what the personality
    says is covered by its revision.
    """
    parts = _head(scope, personality_revision, model_revision, tags)
    shaping = canonical(fields, CANNOT_SHAPE_THE_ANSWER, _canonical)
    parts.append({name: _canonical(value) for name, value in shaping.items()})
    return hashlib.blake2b(_canonical_json.encode(parts), digest_size=_DIGEST).hexdigest()


def answer_key_in_steps(
    fields: Mapping[str, Any],
    *,
    scope: tuple[str, ...],
    personality_revision: str,
    model_revision: str,
    tags: Iterable[str] = (),
) -> Steps[str]:
    """The same key of a request that is large."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    head = _head(scope, personality_revision, model_revision, tags)
    digest.update(_canonical_json.encode(head)[:-1] + b",")
    shaping = yield from canonical_in_steps(fields, CANNOT_SHAPE_THE_ANSWER, _canonical)
    yield from fed(pieces(shaping, names=sorted, scalar=_whole), digest.update)
    digest.update(b"]")
    return digest.hexdigest()


def _head(
    scope: tuple[str, ...], personality_revision: str, model_revision: str, tags: Iterable[str]
) -> list[Any]:
    return [KEY_VERSION, scope, personality_revision, model_revision, sorted(set(tags))]


def _canonical(value: Any) -> Any:
    """`value` with equal numbers written the same; itself where they are."""
    kind = type(value)
    if kind is str:
        return value
    if kind is dict or kind is list:
        changed: Any = None
        for name, item in value.items() if kind is dict else enumerate(value):
            new = _canonical(item)
            if new is not item:
                if changed is None:
                    changed = value.copy()
                changed[name] = new
        return value if changed is None else changed
    return _whole(value)


def _whole(value: Any) -> Any:
    """A whole float as an integer: 1.0 and 1 mean the same. Past 64 bits the other way round: 1e308 has 309 digits."""
    kind = type(value)
    if kind is float:
        return int(value) if value.is_integer() and -_MOST < value < _MOST else value
    if kind is int and not -_MOST < value < _MOST:
        try:
            number = float(value)
        except OverflowError:
            return value
        return number if number == value else value
    return value
