"""A question that was asked in Messages, for a provider that speaks Messages: as it came, to the letter. No I/O.

Thinking blocks and their signatures, marks for the prompt cache, documents, citations, the provider's own tools and
fields of which we do not know all go through. What is ours is put in: the provider's name of the model, and of a
personality its system prompt and examples before the caller's and the defaults that Messages has a word for. Of a
history only what the API would refuse is left out: thinking without a signature, which another provider said.
"""

from __future__ import annotations

from collections.abc import Iterator

from dub5.providers.anthropic_content import blocks, text
from dub5.providers.anthropic_only import BETA, PROTOCOL
from dub5.providers.anthropic_turns import INSTRUCTIONS, turns
from dub5.providers.claude_models import claude
from dub5.providers.protocol import Call, Json

_DEFAULTS = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "stop": "stop_sequences",
}
_SAMPLING = ("temperature", "top_p")
_COUNTED = frozenset(
    {
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "output_format",
        "cache_control",
    }
    | {"mcp_servers", "context_management", "speed"}
)
"""Fields of a request to count tokens."""


def speaks(call: Call) -> bool:
    """Whether `call` was asked in Messages."""
    return call.spelled is not None and call.spelled[0] == PROTOCOL


def native(call: Call, *, stream: bool) -> Json:
    """The body of a call that was asked in Messages."""
    assert call.spelled is not None  # noqa: S101  # see `speaks`
    given = {name: value for name, value in call.spelled[1].items() if value is not None}
    given |= {"model": call.model, "messages": [each for each in map(_message, given["messages"]) if each]}
    given.pop("stream", None)
    if call.stable:
        _put_before(given, call.body["messages"][: call.stable])
    given |= _defaults(call, given)
    if stream:
        given["stream"] = True
    return given


def counted(call: Call) -> Json:
    """The body of a request to count the tokens of a call's."""
    body = native(call, stream=False)
    return {name: value for name, value in body.items() if name in _COUNTED or name == "model"}


def betas(call: Call, configured: str) -> str:
    """The header `anthropic-beta`: what is configured, and what the caller asks for."""
    asked = call.body.get(BETA) if speaks(call) else None
    names = [name.strip() for name in configured.split(",") if name.strip()]
    return ",".join(dict.fromkeys([*names, *(asked or ())]))


def _message(message: Json) -> Json | None:
    content = message["content"]
    if message["role"] != "assistant" or isinstance(content, str):
        return message
    kept = [block for block in content if block["type"] != "thinking" or block.get("signature")]
    if len(kept) == len(content):
        return message
    return {**message, "content": kept} if kept else None


def _put_before(given: Json, opening: list[Json]) -> None:
    """A personality's messages; the end of its instructions is marked for the prompt cache, where nothing else is."""
    system = [
        block
        for message in opening
        if message.get("role") in INSTRUCTIONS
        for block in blocks(message.get("content"), "messages", frozenset({"text"}))
    ]
    own = given.get("system")
    if isinstance(own, str):
        own = [text(own)] if own.strip() else []
    if system:
        if not any("cache_control" in each for each in _markable(given)):
            system[-1]["cache_control"] = {"type": "ephemeral"}
        given["system"] = system + (own or [])
    examples = [message for message in opening if message.get("role") not in INSTRUCTIONS]
    if examples:
        given["messages"] = turns({"messages": examples}) + given["messages"]


def _markable(given: Json) -> Iterator[Json]:
    yield given
    yield from given.get("tools", ())
    if isinstance(given.get("system"), list):
        yield from given["system"]
    for message in given["messages"]:
        content = message["content"]
        for block in content if isinstance(content, list) else ():
            yield block
            inner = block.get("content")
            yield from inner if isinstance(inner, list) and block["type"] == "tool_result" else ()


def _defaults(call: Call, given: Json) -> Json:
    """Of a personality, where the caller left them open and the model takes them."""
    result: Json = {}
    for name in call.defaults & _DEFAULTS.keys():
        value = call.body.get(name)
        if value is not None and given.get(_DEFAULTS[name]) in (None, []):
            result[_DEFAULTS[name]] = [value] if name == "stop" and isinstance(value, str) else value
    thinking = given.get("thinking")
    thinks = isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")
    if thinks or not claude(call.model).sampling:
        for name in _SAMPLING:
            result.pop(name, None)
    if "temperature" in result:
        result["temperature"] = min(result["temperature"], 1)  # OpenAI's scale ends at 2
        result.pop("top_p", None)  # both are refused
    return result
