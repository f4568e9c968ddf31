"""OpenAI's Chat Completions body as a body for Anthropic's Messages API. Pure functions, no I/O.

What we let through must not come back as a 400 of the provider: a request is put into words that the API takes, or
this route says that it cannot (`Unsupported`) and another is asked.

- System and developer messages become `system`, wherever they stood; alone they are the user's message. What becomes
  of the others is in `anthropic_turns`, of their parts in `anthropic_content`, of tools in `anthropic_tools`.
- `response_format`: a `json_schema` becomes `output_config.format`, which the provider enforces. What that cannot say,
  and `json_object`, which it does not know, is asked for by a sentence at the end of `system`; a schema that is
  `strict` and cannot be enforced is Unsupported.
- `user` or `safety_identifier` becomes `metadata.user_id`: its hash where it may name a person or is too long.
  OpenAI's own `metadata` is not for the provider.
- `n` above 1, `logprobs`, spoken answers and what else the answer would lack are Unsupported.
- Hints whose loss leaves an answer to the question (penalties, `seed`, `reasoning_effort`, blank stop sequences,
  fields that this API does not know, …) are left out, as Anthropic's own OpenAI-compatible endpoint does, so that one
  model may have routes to both. So are those that the model does not take: `temperature` beside thinking, `top_p`
  beside `temperature`, both on the newest models.
- `thinking` comes in a form that the model takes, with a budget below the limit; it gives way to a tool that must be
  called, and where the history lacks what was thought before.
- Marks for the prompt cache are the caller's, at most four and long ones first; ours only where there are none.

Sources: https://platform.claude.com/docs/en/api/messages, …/api/openai-sdk, …/build-with-claude/structured-outputs,
…/build-with-claude/thinking, …/build-with-claude/prompt-caching
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import msgspec

from dub5.providers import json_schemas
from dub5.providers.anthropic_content import blocks, cannot, each, mark, text, typed
from dub5.providers.anthropic_tools import is_forced, tools
from dub5.providers.anthropic_turns import INSTRUCTIONS, end, thought_over, tools_used, turns
from dub5.providers.claude_models import Claude, claude
from dub5.providers.protocol import Json

_TEXT_ONLY = ["text"]

_THEIR_OWN = ("container", "inference_geo")
_BETA = ("mcp_servers", "context_management", "speed", "fallbacks", "diagnostics")
"""Fields that are only known to the API beside a header `anthropic-beta`."""

_THINKING = {
    "enabled": ("enabled", "adaptive"),
    "adaptive": ("adaptive", "enabled"),
    "disabled": ("disabled", "between_tools"),
    "between_tools": ("between_tools", "disabled"),
}
"""Types of thinking, and what comes closest to each in a model that does not take it."""

_LEAST_BUDGET, _USUAL_BUDGET = 1024, 4096
_LEAST_TOP_P = 0.95
_MOST_MARKS = 4
_LONGEST_USER = 256
_MOST_DATA = 30 * 10**6
"""Bytes of base64 in one request, which may have 32 MB in all."""

_JSON_ONLY = (
    "Answer with one valid JSON object and nothing else: no fence around it, no words before or after it."
)


def request(
    body: Json, *, model: str, max_tokens: int, stream: bool, stable: int = 0, beta: bool = False
) -> Json:
    """A Messages body for a Chat Completions body; `max_tokens` where it sets no limit of its own.

    The end of the first `stable` messages is marked for the provider's prompt cache. With `beta` fields of the API's
    betas go through.

    Unsupported where the body asks for what this API cannot do, or has another form than ours; `param` names the field.
    """
    given = {name: value for name, value in body.items() if value is not None}
    takes = claude(model)
    _refuse_impossible(given)
    spoken = turns(given)
    system = _system(given)
    if not spoken:
        spoken, system = _instructions_alone(system)
    listed = tools(given, takes, tools_used(spoken))
    shape, sentence = _output_format(given, takes)
    if sentence:
        system.append((-1, text(sentence)))
    thinking, limit = _thinking(given, takes, spoken, listed, max_tokens)
    end(spoken, prefill=takes.prefill and not shape and not _thinks(thinking))
    _refuse_too_many_pictures(spoken, takes)

    result: Json = {"model": model, "max_tokens": limit}
    result |= {name: given[name] for name in _THEIR_OWN + (_BETA if beta else ()) if name in given}
    result |= mark(given)
    if system:
        result["system"] = [block for _, block in system]
    result["messages"] = spoken
    result |= _sampling(given, takes, _thinks(thinking)) | _stop(given) | listed | _metadata(given)
    if thinking:
        result["thinking"] = thinking
    result |= _output_config(given, takes, shape, thinking)
    _within_limits(result)
    _mark(result, [block for index, block in system if 0 <= index < stable])
    if stream:
        result["stream"] = True
    return result


def _refuse_impossible(given: Json) -> None:
    asked = {
        "n": given.get("n", 1) != 1,
        "logprobs": bool(given.get("logprobs")),
        "top_logprobs": bool(given.get("top_logprobs")),
        "modalities": given.get("modalities", _TEXT_ONLY) not in (_TEXT_ONLY, []),
        "audio": "audio" in given,
        "web_search_options": "web_search_options" in given,
    }
    for name, impossible in asked.items():
        if impossible:
            raise cannot(name, "the provider of this model cannot do that; leave it out")


def _refuse_too_many_pictures(spoken: list[Json], takes: Claude) -> None:
    """https://platform.claude.com/docs/en/build-with-claude/vision, …/api/errors (sizes of requests)"""
    pictures, size = 0, 0
    for turn in spoken:
        for block in turn["content"]:
            for one in block.get("content", ()) if block["type"] == "tool_result" else (block,):
                pictures += one["type"] == "image"
                size += len(one.get("source", {}).get("data", "")) if one["type"] != "search_result" else 0
    if pictures > takes.pictures or size > _MOST_DATA:
        raise cannot("messages", "more pictures or documents than the provider of this model takes")


# --- Instructions ---


def _system(given: Json) -> list[tuple[int, Json]]:
    """Text blocks of all system and developer messages, in their order, each with the index of its message."""
    return [
        (index, block)
        for index, (where, message) in enumerate(each(given, "messages"))
        if message.get("role") in INSTRUCTIONS
        for block in blocks(message.get("content"), f"{where}.content", frozenset({"text"}))
    ]


def _instructions_alone(system: list[tuple[int, Json]]) -> tuple[list[Json], list[tuple[int, Json]]]:
    """Where nobody but the system says anything, that is what the model is asked."""
    if not system:
        raise cannot("messages", "the provider of this model needs a message that is not blank")
    return [{"role": "user", "content": [block for _, block in system]}], []


# --- The shape of the answer ---


def _output_format(given: Json, takes: Claude) -> tuple[Json | None, str]:
    """The schema that the provider enforces, or the sentence that asks for it."""
    asked = given.get("response_format", {})
    own = given.get("output_config")
    if not asked and isinstance(own, dict) and isinstance(own.get("format"), dict):
        asked = {"type": "json_schema", "json_schema": own["format"]}
    match asked.get("type") if isinstance(asked, dict) else None:
        case None | "text":
            return None, ""
        case "json_object":
            return None, _JSON_ONLY
        case "json_schema":
            at = "response_format.json_schema"
            wrapper = typed(asked.get("json_schema"), dict, at, "an object")
            return _schema(wrapper, f"{at}.schema", takes)
    raise cannot("response_format.type", "the provider of this model does not know it")


def _schema(wrapper: Json, where: str, takes: Claude) -> tuple[Json | None, str]:
    written = typed(wrapper.get("schema"), dict, where, "an object")
    exact = json_schemas.strict(written, json_schemas.Budget()) if takes.schemas else None
    if exact is not None and _fits([exact]):
        return exact, ""
    if wrapper.get("strict") is True:
        raise cannot(where, "the provider of this model cannot enforce this schema")
    try:
        json_schemas.Budget().describe(written)
    except json_schemas.SpentError:
        raise cannot(where, "too large to be described to the provider of this model") from None
    schema = msgspec.json.encode(written).decode()
    return None, f"{_JSON_ONLY} It must match this JSON Schema: {schema}"


def _fits(schemas: list[Json]) -> bool:
    optional, unions = map(sum, zip(*map(json_schemas.complexity, schemas), strict=True))
    return optional <= json_schemas.MOST_OPTIONAL and unions <= json_schemas.MOST_UNIONS


def _output_config(given: Json, takes: Claude, shape: Json | None, thinking: Json | None) -> Json:
    own = given.get("output_config")
    effort = own.get("effort") if isinstance(own, dict) else None
    result: Json = {}
    if effort in takes.efforts:
        off = thinking is not None and thinking["type"] == "disabled"
        result["effort"] = "high" if off and effort in ("xhigh", "max") else effort
    if shape is not None:
        result["format"] = {"type": "json_schema", "schema": shape}
    return {"output_config": result} if result else {}


def _within_limits(result: Json) -> None:
    """Enforce tools' schemas only as far as the API does for one request; citations go with no schema at all."""
    exact = [tool for tool in result.get("tools", ()) if tool.get("strict")]
    shape = result.get("output_config", {}).get("format")
    if exact:
        schemas = [tool["input_schema"] for tool in exact] + ([shape["schema"]] if shape else [])
        if len(exact) > json_schemas.MOST_TOOLS or not _fits(schemas):
            for tool in exact:
                del tool["strict"]
    if shape:
        for turn in result["messages"]:
            for block in turn["content"]:
                block.pop("citations", None)


# --- Thinking, and how much ---


def _thinking(
    given: Json, takes: Claude, spoken: list[Json], listed: Json, default: int
) -> tuple[Json | None, int]:
    """`thinking` in a form that the model takes, None where it goes without, and `max_tokens` to it."""
    thinking = _asked_to_think(given, takes)
    forced = is_forced(listed.get("tool_choice"))
    if _thinks(thinking) and (forced or (_budget(thinking) and not thought_over(spoken))):
        thinking = None
    asked = given.get("max_completion_tokens", given.get("max_tokens"))
    limit = _budget(thinking) + default if asked is None else typed(asked, int, "max_tokens", "an integer")
    limit = limit if takes.most is None else min(limit, takes.most)
    if thinking is not None and _budget(thinking) >= limit:
        thinking = {**thinking, "budget_tokens": limit - 1} if limit > _LEAST_BUDGET else None
    return thinking, limit


def _asked_to_think(given: Json, takes: Claude) -> Json | None:
    asked = given.get("thinking")
    if not isinstance(asked, dict) or not isinstance(asked.get("type"), str):
        return None
    written = asked.get("budget_tokens")
    budget = written if isinstance(written, int) and not isinstance(written, bool) else None
    found = next((kind for kind in _THINKING.get(asked["type"], ()) if kind in takes.thinking), None)
    if found is None:
        return None
    result: Json = {"type": found}
    if found == "enabled":
        result["budget_tokens"] = _USUAL_BUDGET if budget is None else max(_LEAST_BUDGET, budget)
    if _thinks(result) and asked.get("display") in ("summarized", "omitted"):
        result["display"] = asked["display"]
    return result


def _thinks(thinking: Json | None) -> bool:
    return thinking is not None and thinking["type"] in ("enabled", "adaptive")


def _budget(thinking: Json | None) -> int:
    budget: int = (thinking or {}).get("budget_tokens", 0)
    return budget


# --- Sampling, stops, the user ---


def _sampling(given: Json, takes: Claude, thinks: bool) -> Json:
    result: Json = {}
    if "temperature" in given:
        temperature = typed(given["temperature"], (int, float), "temperature", "a number")
        result["temperature"] = min(max(temperature, 0), 1)  # OpenAI's scale ends at 2
    if "top_p" in given:
        result["top_p"] = typed(given["top_p"], (int, float), "top_p", "a number")
    top_k = given.get("top_k")
    if isinstance(top_k, int) and not isinstance(top_k, bool) and top_k > 0:  # elsewhere 0 and -1 turn it off
        result["top_k"] = top_k
    if not takes.sampling:
        return {}
    if thinks:
        return {"top_p": result["top_p"]} if result.get("top_p", 0) >= _LEAST_TOP_P else {}
    if "temperature" in result:  # both are refused since Opus 4.1, and never were of use
        result.pop("top_p", None)
    return result


def _stop(given: Json) -> Json:
    stop = given.get("stop", [])
    listed = [stop] if isinstance(stop, str) else typed(stop, list, "stop", "a string or a list of strings")
    sequences = [one for one in listed if isinstance(one, str) and one.strip()]
    return {"stop_sequences": sequences} if sequences else {}


def _metadata(given: Json) -> Json:
    named = (given.get("safety_identifier"), given.get("user"))
    user = next((name for name in named if isinstance(name, str) and name.strip()), None)
    if user is None:
        return {}
    personal = "@" in user or re.fullmatch(r"\+?[\d\s().-]+", user)
    if personal or len(user) > _LONGEST_USER:
        user = hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
    return {"metadata": {"user_id": user}}


# --- Marks for the prompt cache ---


def _mark(result: Json, stable: list[Json]) -> None:
    """The caller's marks, as many and in the order that the API takes; ours at the end of `stable` without any."""
    marked = [block for block in _marked(result) if "cache_control" in block]
    if not marked and stable:
        stable[-1]["cache_control"] = {"type": "ephemeral"}
    for block in marked[:-_MOST_MARKS]:
        del block["cache_control"]
    short = False
    for block in marked[-_MOST_MARKS:]:
        if short:
            block["cache_control"] = {"type": "ephemeral"}
        short = short or block["cache_control"].get("ttl") != "1h"


def _marked(result: Json) -> Iterator[Json]:
    """What may have a mark, in the order of the cached prefix."""
    yield from result.get("tools", ())
    yield from result.get("system", ())
    for turn in result["messages"]:
        for block in turn["content"]:
            if block["type"] == "tool_result":
                yield from block.get("content", ())
            yield block
    yield result
