"""A fake of Anthropic's Messages API, as strict as the real one (`anthropic_rules`).

`http_server` says how scripts are written.

async with FakeAnthropic() as fake:
    provider = {"kind": "anthropic", "base_url": fake.base_url}
    # Unless told otherwise it checks the request and answers "You said: <the user's last message>".
    fake.reply = say("Hello", "world")             # streamed or whole, as the call asks
    fake.reply = use_tool("weather", {"city": "Oslo"})
    fake.reply = stream([*frames("Hel", "lo")[:4], DIE])   # any part of a proper stream, and then a fault
"""

from __future__ import annotations

import json
from typing import Any

from testkit.anthropic_rules import refusal
from testkit.http_server import Call, FakeServer, Part, Script, Wire, refuse, stream, whole

USAGE = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 1,
    "cache_read_input_tokens": 3,
    "output_tokens": 3,
}


_BETA = ("context_management", "mcp_servers", "speed", "fallbacks", "diagnostics")
"""Fields that a header `anthropic-beta` lets in."""


def message(content: list[dict[str, Any]], stop_reason: str | None = "end_turn") -> dict[str, Any]:
    """A whole answer."""
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": "claude-fake",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": USAGE,
    }


def event(kind: str, **fields: Any) -> bytes:
    """One server-sent event."""
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def block_frames(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[Part]:
    """The events of one block: its start, its deltas and its stop."""
    return [
        event("content_block_start", index=index, content_block=block),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def answer(*blocks: Part, stop_reason: str = "end_turn") -> list[Part]:
    """A proper stream around the events of its blocks."""
    head = {**message([], None), "usage": {**USAGE, "output_tokens": 1}}
    return [
        event("message_start", message=head),
        event("ping"),
        *blocks,
        event(
            "message_delta",
            delta={"stop_reason": stop_reason, "stop_sequence": None},
            usage={"output_tokens": 3},
        ),
        event("message_stop"),
    ]


def frames(*texts: str) -> list[Part]:
    """A proper stream of one block of text: start, ping, block start, each text, block stop, delta, stop."""
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return answer(*block_frames(0, {"type": "text", "text": ""}, *deltas))


def say(*texts: str) -> Script:
    """An answer of these texts, in the shape that the call asks for."""
    return _either(message([{"type": "text", "text": "".join(texts)}]), frames(*texts))


def use_tool(name: str, arguments: dict[str, Any], *, id: str = "toolu_fake") -> Script:  # noqa: A002  # their name
    """A use of a tool, in the shape that the call asks for; streamed, its input comes in two parts."""
    block = {"type": "tool_use", "id": id, "name": name}
    written = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    half = len(written) // 2
    deltas = [
        {"type": "input_json_delta", "partial_json": part} for part in ("", written[:half], written[half:])
    ]
    streamed = answer(*block_frames(0, {**block, "input": {}}, *deltas), stop_reason="tool_use")
    return _either(message([{**block, "input": arguments}], "tool_use"), streamed)


def _either(body: dict[str, Any], parts: list[Part]) -> Script:
    async def script(call: Call, wire: Wire) -> None:
        chosen = stream(parts) if call.body.get("stream") else whole(body)
        await chosen(call, wire)

    return script


class FakeAnthropic(FakeServer):
    """See the module. It counts a token for each letter of the last message; other paths get 404."""

    @property
    def base_url(self) -> str:
        return self.url

    async def default(self, call: Call, wire: Wire) -> None:
        counting = call.path == "/v1/messages/count_tokens"
        if call.path != "/v1/messages" and not counting:
            await refuse(404, "Not found")(call, wire)
            return
        complaint = complaint_about(call, counting=counting)
        if complaint is not None:
            await refuse(400, complaint)(call, wire)
            return
        if counting:
            await whole({"input_tokens": len(_last_text(call.body))})(call, wire)
            return
        await say("You said: ", _last_text(call.body))(call, wire)


_NOT_COUNTED = (
    "max_tokens",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "metadata",
    "service_tier",
)


def complaint_about(call: Call, *, counting: bool = False) -> str | None:
    """What the real API would refuse, None where it would not."""
    body = call.body
    if counting:
        odd = next((name for name in _NOT_COUNTED if name in body), None)
        if odd is not None:
            return f"{odd}: Extra inputs are not permitted"
        body = {**body, "max_tokens": 4096}
    if call.headers.get("anthropic-version") != "2023-06-01":
        return "anthropic-version: header is required"
    beta = _BETA if "anthropic-beta" in call.headers else ()
    return refusal({name: value for name, value in body.items() if name not in beta})


def _last_text(body: dict[str, Any]) -> str:
    blocks = body["messages"][-1]["content"]
    if isinstance(blocks, str):
        return blocks
    return "".join(block.get("text", "") for block in blocks)
