"""A chat completion as the Response object of OpenAI's Responses API. Pure functions, no I/O.

The answer's output is what the model thought (a reasoning item), what it says (a message) and the functions that it
calls, in this order. What was asked goes back with it, written once (`Asked`), since a stream repeats it three times.

Reasoning is in `summary` where the request asked for a summary, which is where its client looks for it, and else in
`content`. What a provider signed of it is in `encrypted_content`, where the request includes that.

Source: https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

import copy
import hashlib
import secrets
from typing import Any, Literal

import msgspec

from dub5.api.responses_request import ENCRYPTED, LOGPROBS, namespaced, sealed
from dub5.chat.answer import completion_tokens
from dub5.providers.protocol import Json, Payload

Status = Literal["in_progress", "completed", "incomplete", "failed"]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""How a choice ended, and why the answer is then not complete."""

_TIERS = frozenset({"auto", "default", "flex", "scale", "priority", "fast", "ultrafast"})
_MOST_TOKENS = 2**40

_encode = msgspec.json.Encoder().encode
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class Asked:
    """What the answer to one request takes from the request: where things go, and what is said back.

    `body` is one that `responses_request` has read. `ident` is the part that the ids of the answer and its items have
    in common: an item's id leads to its answer. `stored` is whether the answer can be asked for later.
    """

    def __init__(self, body: Json, *, stored: bool = False, ident: str | None = None) -> None:
        self.ident = secrets.token_hex(16) if ident is None else ident
        self.id = f"resp_{self.ident}"
        self.model: str = body["model"]
        reasoning, include = body.get("reasoning") or _NOTHING, body.get("include") or ()
        self.summary = bool(_summary(reasoning))
        self.encrypted = ENCRYPTED in include
        self.logprobs = LOGPROBS in include or bool(body.get("top_logprobs"))
        self.stored = stored
        self.signed: dict[int, str] = {}
        self.namespaced = namespaced(body.get("tools") or ())
        self._body = body if stored else _NOTHING  # only one that was to be stored may turn out not to be
        self.echo = _encode(_echo(body, reasoning, stored=stored))[1:]

    @property
    def keeps_signed(self) -> bool:
        return self.encrypted or self.stored

    def again(self, ident: str) -> Asked:
        """For another answer to the same request."""
        another = copy.copy(self)
        another.ident, another.id, another.signed = ident, f"resp_{ident}", {}
        return another

    def not_stored(self) -> None:
        """It could not be kept."""
        self.stored = False
        self.echo = _encode(_echo(self._body, self._body.get("reasoning") or _NOTHING, stored=False))[1:]

    def item_id(self, kind: str, position: int) -> str:
        return f"{_PREFIXES[kind]}_{self.ident}{position:04x}"


def place_of(item_id: str) -> tuple[str, int] | None:
    """The inverse of `Asked.item_id`: the answer's id, and the item's position in its output."""
    prefix, _, rest = item_id.partition("_")
    if prefix not in _PREFIXES.values() or len(rest) < 36 or not rest.isalnum():
        return None
    try:
        return f"resp_{rest[:32]}", int(rest[32:], 16)
    except ValueError:
        return None


class _Echo(msgspec.Struct):
    """What a Response says of its request, after what it says of the answer."""

    instructions: Any
    max_output_tokens: Any
    max_tool_calls: Any
    metadata: Any
    parallel_tool_calls: bool
    previous_response_id: Any
    prompt_cache_key: Any
    reasoning: Any
    safety_identifier: Any
    store: bool
    temperature: Any
    text: Any
    tool_choice: Any
    tools: Any
    top_logprobs: Any
    top_p: Any
    user: Any
    truncation: str = "disabled"
    background: bool = False


def _echo(body: Json, reasoning: Json, *, stored: bool) -> _Echo:
    get = body.get
    tools, text = get("tools"), get("text")
    return _Echo(
        get("instructions"),
        get("max_output_tokens"),
        get("max_tool_calls"),
        get("metadata") or _NOTHING,
        get("parallel_tool_calls") is not False,
        get("previous_response_id"),
        get("prompt_cache_key"),
        {"effort": reasoning.get("effort"), "summary": _summary(reasoning)},
        get("safety_identifier"),
        stored,
        get("temperature"),
        _text(text) if text else _PLAIN,
        get("tool_choice") or "auto",
        [_tool(tool) for tool in tools] if tools else [],
        get("top_logprobs") or 0,
        get("top_p"),
        get("user"),
    )


def _summary(reasoning: Json) -> Any:
    return reasoning.get("summary") or reasoning.get("generate_summary")


def _text(text: Json) -> Json:
    form = text.get("format") or {"type": "text"}
    return {"format": form, "verbosity": text.get("verbosity")}


_NOTHING: Json = {}
_PLAIN = _text(_NOTHING)


def _tool(tool: Json) -> Json:
    if tool["type"] == "namespace":
        return {**tool, "tools": [_tool(inner) for inner in tool["tools"]]}
    return {"parameters": None, **tool, "strict": bool(tool.get("strict"))}


def whole(asked: Asked, completion: Json, *, created: int, now: int) -> bytes:
    """The Response for a whole completion. `created` and `now` are seconds since the epoch: when the request came, and
    when it is answered."""
    output, reason = output_of(asked, completion)
    return response(
        asked,
        status="completed" if reason is None else "incomplete",
        created=created,
        completed=now,
        model=model_of(completion),
        output=output,
        usage=usage_of(completion),
        reason=reason,
        tier=tier_of(completion),
    )


def output_of(asked: Asked, completion: Json) -> tuple[list[Json], str | None]:
    """The items of a whole completion, and why it is not complete, None where it is."""
    choice = choice_of(completion)
    message = choice.get("message")
    output = _output(asked, message if isinstance(message, dict) else _NOTHING, completion, choice)
    reason = incomplete(choice.get("finish_reason"))
    if reason is not None:
        output[-1]["status"] = "incomplete"
    return output, reason


class _Answer(msgspec.Struct):
    id: str
    created_at: int
    completed_at: int | None
    status: Status
    error: Json | None
    incomplete_details: Json | None
    model: str
    service_tier: str | None
    output: list[Json]
    usage: Json | None
    object: str = "response"


def response(
    asked: Asked,
    *,
    status: Status,
    created: int,
    completed: int = 0,
    model: str | None = None,
    output: list[Json] | None = None,
    usage: Json | None = None,
    reason: str | None = None,
    error: Json | None = None,
    tier: str | None = None,
) -> bytes:
    """The Response object. `reason` is why it is incomplete."""
    answer = _Answer(
        asked.id,
        created,
        completed if status == "completed" else None,
        status,
        error,
        None if reason is None else {"reason": reason},
        model or asked.model,
        tier,
        output or [],
        usage,
    )
    try:
        raw = _encode(answer)
    except UnicodeEncodeError:
        raw = written(msgspec.structs.asdict(answer))
    return b"%b,%b" % (raw[:-1], asked.echo)


def written(data: Json) -> bytes:
    """JSON. What is left of halves of characters is replaced."""
    return Payload.of_whole(data).raw


# --- What is in a completion ---


def choice_of(completion: Json) -> Json:
    """The one choice of a completion."""
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def _output(asked: Asked, message: Json, completion: Json, choice: Json) -> list[Json]:
    output: list[Json] = []
    thought, blocks = thought_of(message), message.get("thinking_blocks")
    blocks = blocks if asked.keeps_signed and isinstance(blocks, list) else []
    if thought or blocks:
        output.append(reasoning(asked, 0, thought, blocks))
    parts = _parts(asked, message, choice)
    listed = _objects(message.get("tool_calls")) or [{"function": message.get("function_call")}]
    calls = [call for call in map(call_of, listed) if call is not None]
    if parts or not (output or calls):
        position = len(output)
        output.append(says(asked, position, parts or [_text_part(asked, "", message, choice)]))
    seed = completion.get("id")
    for index, call in enumerate(calls):
        output.append(calls_function(asked, len(output), call, call_id(call, seed, index)))
    return output


def _parts(asked: Asked, message: Json, choice: Json) -> list[Json]:
    parts = []
    text = text_of(message.get("content"))
    if text:
        parts.append(_text_part(asked, text, message, choice))
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        parts.append({"type": "refusal", "refusal": refusal})
    return parts


def _text_part(asked: Asked, text: str, message: Json, choice: Json) -> Json:
    return output_text(text, annotations_of(message), logprobs_of(choice) if asked.logprobs else [])


def reasoning(
    asked: Asked, position: int, thought: str, blocks: list[Any], status: Status = "completed"
) -> Json:
    """A reasoning item."""
    item: Json = {
        "id": asked.item_id("reasoning", position),
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": thought}] if thought and asked.summary else [],
    }
    if thought and not asked.summary:
        item["content"] = [{"type": "reasoning_text", "text": thought}]
    if blocks and asked.encrypted:
        item["encrypted_content"] = sealed(blocks)
    elif blocks:
        asked.signed[position] = sealed(blocks)
    item["status"] = status
    return item


def says(asked: Asked, position: int, parts: list[Json], status: Status = "completed") -> Json:
    """A message item."""
    return {
        "id": asked.item_id("message", position),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": parts,
    }


def output_text(text: str, annotations: list[Json], logprobs: list[Json]) -> Json:
    """The part of a message that is text."""
    return {
        "type": "output_text",
        "text": text,
        "annotations": annotations,
        "logprobs": [_exact(one) for one in logprobs],
    }


def calls_function(
    asked: Asked, position: int, call: Json, call_id: str, status: Status = "completed"
) -> Json:
    """An item that calls a function."""
    namespace, name = asked.namespaced.get(call["name"], (None, call["name"]))
    item = {
        "id": asked.item_id("function_call", position),
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": call["arguments"],
    }
    return item if namespace is None else {**item, "namespace": namespace}


def call_of(call: Json) -> Json | None:
    """Id, name and arguments; None where it calls no function."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    arguments = function.get("arguments")
    return {
        "id": call.get("id"),
        "name": function["name"],
        "arguments": arguments if isinstance(arguments, str) else "",
    }


def call_id(call: Json, seed: object, index: int) -> str:
    """The provider's own, or one that is the same each time the answer is given."""
    known = call.get("id")
    if isinstance(known, str) and known:
        return known
    digest = hashlib.blake2b(f"{seed}:{index}".encode("utf-8", "replace"), digest_size=12)
    return f"call_{digest.hexdigest()}"


def thought_of(message: Json) -> str:
    """What the model thought; two names are in use, and some servers say the same under both."""
    for name in ("reasoning_content", "reasoning"):
        value = message.get(name)
        if isinstance(value, str) and value:
            return value
    return thought_in(message.get("content"))


def text_of(content: object) -> str:
    """The text of a message, of its parts where it has several."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in _objects(content) if isinstance(part.get("text"), str))


def thought_in(content: object) -> str:
    """Parts of a content may be thoughts, with parts of their own."""
    if not isinstance(content, list):
        return ""
    return "".join(
        text_of(part.get("thinking")) for part in _objects(content) if part.get("type") == "thinking"
    )


def annotations_of(message: Json) -> list[Json]:
    """Citations of pages, which have their members one level deeper in a chat."""
    made = []
    for annotation in _objects(message.get("annotations")):
        cited = annotation.get("url_citation")
        if annotation.get("type") == "url_citation" and isinstance(cited, dict):
            try:
                made.append(
                    {"type": "url_citation", **msgspec.to_builtins(msgspec.convert(cited, _Citation))}
                )
            except ValueError:  # msgspec's and Unicode's errors are ValueErrors
                continue
    return made


class _Citation(msgspec.Struct):
    start_index: int
    end_index: int
    url: str
    title: str = ""


class _Likely(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Logprob(_Likely):
    top_logprobs: list[_Likely] = []


def logprobs_of(choice: Json) -> list[Json]:
    """Of a choice, or of a chunk's; none where they are not what they should be."""
    held = choice.get("logprobs")
    content = held.get("content") if isinstance(held, dict) else None
    try:
        made: list[Json] = msgspec.to_builtins(msgspec.convert(content or [], list[_Logprob]))
    except ValueError:
        return []
    return made


def plain(logprob: Json) -> Json:
    """As it is in events."""
    tops = [{"token": top["token"], "logprob": top["logprob"]} for top in logprob["top_logprobs"]]
    return {"token": logprob["token"], "logprob": logprob["logprob"], "top_logprobs": tops}


def _exact(logprob: Json) -> Json:
    """In the final text bytes are always there."""
    tops = [{**top, "bytes": top["bytes"] or []} for top in logprob["top_logprobs"]]
    return {**logprob, "bytes": logprob["bytes"] or [], "top_logprobs": tops}


def _objects(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def incomplete(finish_reason: object) -> str | None:
    """Why an answer is not complete that ended so; None where it is."""
    return _INCOMPLETE.get(finish_reason) if isinstance(finish_reason, str) else None


def model_of(data: Json) -> str | None:
    model = data.get("model")
    return model if isinstance(model, str) and model else None


def tier_of(data: Json) -> str | None:
    tier = data.get("service_tier")
    return tier if isinstance(tier, str) and tier in _TIERS else None


def usage_of(data: Json) -> Json | None:
    """The tokens of a completion or chunk in the words of Responses; None where nothing is said of them."""
    usage = data.get("usage")
    if not isinstance(usage, dict) or not usage:
        return None
    prompt, answer = _count(usage, "prompt_tokens"), completion_tokens(usage)
    of_prompt, of_answer = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": _count(of_prompt, "cached_tokens"),
            "cache_write_tokens": _count(of_prompt, "cache_write_tokens"),
        },
        "output_tokens": answer,
        "output_tokens_details": {"reasoning_tokens": _count(of_answer, "reasoning_tokens")},
        "total_tokens": _count(usage, "total_tokens") or prompt + answer,
    }


def _count(holder: object, name: str) -> int:
    """0 where it is not said, or is what cannot be."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0
