"""Large requests that people send, by name; seeded."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

MIB = 2**20
_CODE = 'def f(x: int) -> dict:\n    """Says "hello"."""\n    return {"a": [1, 2, x], "b": "c, d", "e": r"\\d+"}\n'


def bodies() -> Iterator[tuple[str, bytes]]:
    chance = random.Random(1)  # pictures that are the same each time
    picture = base64.b64encode(chance.randbytes(15 * MIB * 3 // 4 - 1000)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    pictured = _body(_user([{"type": "text", "text": "What is this?"}, image]))
    tokens = [[chance.randrange(100_000) for _ in range(500)] for _ in range(400)]
    emoji, hello = (_CODE * 20)[:1500] + "😀", "你好世界朋友"
    yield "a picture", pictured
    yield "a picture, slashes escaped", pictured.replace(b"/", b"\\/")
    yield "an agent's 4,000 messages", _body(*_agent(4000, 2300))
    yield "an agent's 20,000 messages", _body(*_agent(20_000, 350))
    yield "an agent's messages, emoji in each", _body(*[_user(emoji)] * 6000, ascii_only=False)
    yield "Chinese", _body(*[_user(hello * 300)] * 1900, ascii_only=False)
    yield "Chinese, escaped", _body(*[_user(hello * 150)] * 1900)
    yield "2,048 texts", _body(_user("x"), input=["A text to embed, of some length. " * 30] * 2048)
    yield "200,000 tokens", _body(_user("x"), input=tokens)
    yield "128 tools", _body(_user("x"), tools=[_tool(number) for number in range(128)])


def _body(*messages: Any, ascii_only: bool = True, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **fields}, ensure_ascii=ascii_only).encode()


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _agent(count: int, size: int) -> list[Any]:
    text = (_CODE * (size // len(_CODE) + 1))[:size]
    function = {"name": "write_file", "arguments": json.dumps({"path": "/a/b.py", "text": text})}
    call = {"id": "1", "type": "function", "function": function}
    turn = [
        _user(text),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": text},
        {"role": "assistant", "content": [{"type": "text", "text": text}]},
    ]
    return turn * (count // len(turn))


def _tool(number: int) -> dict[str, Any]:
    parameter = {"type": "string", "description": "The parameter that says what"}
    properties = {f"p{each}": parameter for each in range(8)}
    function = {
        "name": f"tool_{number}",
        "description": "Does a thing with " * 6,
        "parameters": {"type": "object", "properties": properties, "required": list(properties)},
    }
    return {"type": "function", "function": function}
