"""A request, resolved: what answers it, under which key its answer is kept, and what is asked of a provider.

The key says which requests ask the same question. Everything in a request may shape its answer, unknown fields too
(they reach the provider), except for a short list of fields that cannot. Two requests that mean the same give the same
key in every process; the order of keys, `1` against `1.0`, an absent field against `null` and the spelling of JSON
escapes do not matter, nor does the protocol in which it was asked, but for fields of Messages that a chat may hold and
that do not go to every provider then as they do in the other (`thinking`). A text that is to be continued is another
question than the same words in a chat. Whose answer it may be, the scope, is
part of what is hashed, so two tenants never share a key.

Chat Completions, Responses and Messages have several words for one thing, and clients write down defaults or leave them
out. Of what means the same one spelling is kept, so that such questions have one answer:

- A content of one plain text part is that text.
- `developer` in the messages at the beginning is `system`.
- `max_completion_tokens` is `max_tokens`; a single stop sequence is a list of one.
- A field that asks for nothing (`n: 1`, `tools: []`, `tool_choice: "auto"`, …), and a null member of a message, is
  absent.
- A tool's arguments, which are JSON in a text, are what that JSON says.
- Marks for a provider's prompt cache are about cost.

What a provider might understand in another way stays as it is: `temperature: 1` is not the default everywhere.
Only the key is made of this: a provider is asked what the caller wrote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

import msgspec

from dub5.admission.keys import Caller
from dub5.cache.freshness import Directives
from dub5.cache.store import CacheLookup
from dub5.chat.catalog import Target
from dub5.chat.request import ChatRequest
from dub5.json_steps import Steps, TooCostly, decode_within, fed, pieces
from dub5.providers.anthropic_only import MEANT_OTHERWISE, PROTOCOL
from dub5.providers.openai_completions import PROTOCOL as TEXT
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
_ASKS_FOR_NOTHING: Json = {
    "n": 1,
    "best_of": 1,
    "echo": False,
    "stop": [],
    "tools": [],
    "functions": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "logprobs": False,
    "top_logprobs": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "service_tier": "auto",
}
_NO_PART = frozenset({"messages", "max_completion_tokens", "cache_control"})
_PLAIN = frozenset({"user", "assistant", "system"})
_INSTRUCTIONS = frozenset({"developer", "system"})
_BATCH = 200
"""Messages, or tools, that are looked at in one step."""


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


class KeyParts(TypedDict):
    """What the key of an answer is made of besides the question's own fields.

    `protocol` is that in which a request was asked, where it may mean another thing in a chat.
    """

    scope: tuple[str, ...]
    personality_revision: str
    model_revision: str
    tags: Iterable[str]
    protocol: tuple[str, ...]


def key_parts(request: ChatRequest, target: Target, caller: Caller, tags: tuple[str, ...]) -> KeyParts:
    """Of one request."""
    share, personality = target.cache_class.share, target.personality
    protocol: tuple[str, ...] = ()
    if request.spelled is not None:
        spelled = request.spelled[0]
        if spelled == TEXT or (spelled == PROTOCOL and not MEANT_OTHERWISE.isdisjoint(request.body)):
            protocol = (spelled,)
    return {
        "scope": scope_of(share, tenant=caller.tenant, key_id=caller.identity, user=request.user),
        "personality_revision": personality.revision if personality is not None else "",
        "model_revision": target.model.revision,
        "tags": tags,
        "protocol": protocol,
    }


def answer_key(
    fields: Mapping[str, Any],
    *,
    scope: tuple[str, ...],
    personality_revision: str,
    model_revision: str,
    tags: Iterable[str] = (),
    protocol: tuple[str, ...] = (),
) -> str:
    """48 hexadecimal digits: BLAKE2b-192 over canonical JSON.

    `fields` is the caller's request with the personality's sampling defaults filled in; what the personality
    says is covered by its revision.
    """
    parts = [KEY_VERSION, scope, personality_revision, model_revision, sorted(set(tags)), *protocol]
    shaping = _outside(fields, CANNOT_SHAPE_THE_ANSWER)
    messages = fields.get("messages")
    if type(messages) is list:
        shaping["messages"] = said = [_message(each) for each in messages]
        if said and type(said[0]) is dict and said[0].get("role") in _INSTRUCTIONS:
            _name_instructions(said)
    elif messages is not None:
        shaping["messages"] = messages
    parts.append({name: _same_numbers(value) for name, value in shaping.items()})
    return hashlib.blake2b(_canonical_json.encode(parts), digest_size=_DIGEST).hexdigest()


def answer_key_in_steps(
    fields: Mapping[str, Any],
    *,
    scope: tuple[str, ...],
    personality_revision: str,
    model_revision: str,
    tags: Iterable[str] = (),
    protocol: tuple[str, ...] = (),
) -> Steps[str]:
    """The same key of a request that is large."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    head = [KEY_VERSION, scope, personality_revision, model_revision, sorted(set(tags)), *protocol]
    digest.update(_canonical_json.encode(head)[:-1] + b",")
    shaping = yield from canonical_in_steps(fields, CANNOT_SHAPE_THE_ANSWER)
    yield from fed(pieces(shaping, names=sorted, scalar=_whole), digest.update)
    digest.update(b"]")
    return digest.hexdigest()


def canonical_in_steps(fields: Mapping[str, Any], ignored: frozenset[str]) -> Steps[Json]:
    """The fields of a large request that shape its answer, none of `ignored`."""
    result = _outside({**fields, "tools": None}, ignored)
    messages, tools = fields.get("messages"), fields.get("tools")
    if type(messages) is list:
        said = result["messages"] = []
        for start in range(0, len(messages), _BATCH):
            said += [_message(each) for each in messages[start : start + _BATCH]]
            yield
        _name_instructions(said)
    elif messages is not None:
        result["messages"] = messages
    if type(tools) is list and tools:
        listed = result["tools"] = []
        for start in range(0, len(tools), _BATCH):
            listed += map(_tool, tools[start : start + _BATCH])
            yield
    elif tools is not None and tools != []:
        result["tools"] = tools
    return result


def _outside(fields: Mapping[str, Any], ignored: frozenset[str]) -> Json:
    """All but the messages."""
    result: Json = {}
    for name, value in fields.items():
        if value is None or name in ignored or name in _NO_PART:
            continue
        if name in _ASKS_FOR_NOTHING and _same(value, _ASKS_FOR_NOTHING[name]):
            continue
        result[name] = value
    limit = fields.get("max_completion_tokens")
    if limit is not None:
        other = result.setdefault("max_tokens", limit)
        if other != limit:  # who knows which of them holds
            result["max_completion_tokens"] = limit
    if type(result.get("stop")) is str:
        result["stop"] = [result["stop"]]
    tools = result.get("tools")
    if type(tools) is list:
        result["tools"] = [_tool(each) for each in tools]
    return result


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _name_instructions(messages: list[Any]) -> None:
    for index, message in enumerate(messages):
        role = message.get("role") if type(message) is dict else None
        if role == "developer":
            messages[index] = {**message, "role": "system"}
        elif role != "system":
            return


def _message(message: Any) -> Any:
    if type(message) is not dict:
        return message
    if len(message) == 2 and type(message.get("content")) is str and message.get("role") in _PLAIN:
        return message
    result = {name: value for name, value in message.items() if value is not None}
    content, calls = result.get("content"), result.get("tool_calls")
    if type(content) is list:
        result["content"] = _content(content)
    if calls == []:
        del result["tool_calls"]
    elif type(calls) is list:
        result["tool_calls"] = [_call(each) for each in calls]
    return result


def _content(parts: list[Any]) -> Any:
    result = [_part(part) if type(part) is dict else part for part in parts]
    if len(result) == 1 and type(result[0]) is dict:
        only = result[0]
        if len(only) == 2 and only.get("type") == "text" and type(only.get("text")) is str:
            return only["text"]
    return result


def _part(part: Json) -> Json:
    result = _unmarked(part)
    image = result.get("image_url")
    if type(image) is dict and image.get("detail") in ("auto", None):
        result["image_url"] = {name: value for name, value in image.items() if name != "detail"}
    return result


def _unmarked(value: Json) -> Json:
    return {name: item for name, item in value.items() if item is not None and name != "cache_control"}


def _tool(tool: Any) -> Any:
    if type(tool) is not dict:
        return tool
    result = _unmarked(tool)
    function = result.get("function")
    if type(function) is dict:
        function = result["function"] = _unmarked(function)
        if function.get("strict") is False:
            del function["strict"]
    return result


def _call(call: Any) -> Any:
    function = call.get("function") if type(call) is dict else None
    if type(function) is not dict or type(function.get("arguments")) is not str:
        return call
    written = function["arguments"]
    try:
        meant = _canonical_json.encode(_same_numbers(decode_within(written.encode()))).decode()
    except (TooCostly, ValueError, RecursionError):  # msgspec's and Unicode's errors are ValueErrors
        return call
    return {**call, "function": {**function, "arguments": meant}}


def _same_numbers(value: Any) -> Any:
    """`value` with equal numbers written the same; itself where they are."""
    kind = type(value)
    if kind is str:
        return value
    if kind is dict or kind is list:
        changed: Any = None
        for name, item in value.items() if kind is dict else enumerate(value):
            new = _same_numbers(item)
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
