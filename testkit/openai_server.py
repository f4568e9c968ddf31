"""A fake of OpenAI's Chat Completions, Completions and Embeddings APIs; `http_server` says how its scripts are written.

async with FakeOpenAI() as fake:
    provider = {"kind": "openai", "base_url": fake.base_url}
    # Unless told otherwise it answers "You said: <the user's last message>", streamed where asked so, and each text
    # that is to be embedded with `vector_of` it; a text is continued as `continuation` says.
    fake.reply = embed(index=False)                # as some compatible servers write it
    fake.reply = say("Hello", "world")             # streamed or whole, as the call asks
    fake.reply = call_tool("weather", '{"city": "Oslo"}')
    fake.reply = stream([*frames("Hel", "lo")[:2], DIE])   # any part of a proper stream, and then a fault
    fake.replies = [refuse(429, "Slow down", headers={"retry-after": "7"})]
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from typing import Any

from testkit.http_server import Call, FakeServer, Part, Script, Wire, refuse, stream, whole

DONE = b"data: [DONE]\n\n"

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}

_HEAD = {"id": "chatcmpl-fake", "created": 1_700_000_000, "model": "fake-model"}

_TEXT_HEAD = {"id": "cmpl-fake", "object": "text_completion", "created": 1_700_000_000, "model": "fake-model"}


def completion(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """A whole `chat.completion` with one choice."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **message},
        "finish_reason": finish_reason,
    }
    return {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """A `chat.completion.chunk` with one choice."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}


def frame(data: dict[str, Any]) -> bytes:
    """`data` as a server-sent event; letters beyond ASCII stay as they are."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def frames(*texts: str, usage: bool = True, done: bool = True) -> list[Part]:
    """A proper stream: role, one chunk for each text, finish reason, usage, `[DONE]`."""
    deltas = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": text}) for text in texts)]
    parts: list[Part] = [frame(data) for data in [*deltas, chunk({}, "stop")]]
    if usage:
        parts.append(frame({**chunk({}), "choices": [], "usage": USAGE}))
    return [*parts, DONE] if done else parts


def say(*texts: str) -> Script:
    """An answer of these texts, in the shape that the call asks for."""

    async def script(call: Call, wire: Wire) -> None:
        if call.body.get("stream"):
            usage = bool((call.body.get("stream_options") or {}).get("include_usage"))
            await stream(frames(*texts, usage=usage))(call, wire)
        else:
            await whole(completion({"content": "".join(texts)}))(call, wire)

    return script


def call_tool(name: str, arguments: str, *, id: str = "call_fake") -> Script:  # noqa: A002  # OpenAI's name
    """A call of a tool, in the shape that the call asks for; streamed, its arguments come in two parts."""
    function = {"name": name, "arguments": arguments}
    tool_call = {"id": id, "type": "function", "function": function}
    half = len(arguments) // 2
    deltas: list[dict[str, Any]] = [
        {
            "role": "assistant",
            "tool_calls": [{"index": 0, **tool_call, "function": {**function, "arguments": ""}}],
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": arguments[:half]}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": arguments[half:]}}]},
    ]
    streamed = [*(frame(chunk(delta)) for delta in deltas), frame(chunk({}, "tool_calls")), DONE]

    async def script(call: Call, wire: Wire) -> None:
        if call.body.get("stream"):
            await stream(streamed)(call, wire)
        else:
            await whole(completion({"tool_calls": [tool_call]}, "tool_calls"))(call, wire)

    return script


def continuation(prompt: str | list[int]) -> list[str]:
    """The tokens with which a text, or its tokens, go on."""
    return [" after", f" {prompt}"]


def go_on(finish_reason: str = "length") -> Script:
    """Each text is continued, `n` times, in the shape that the call asks for: streamed in turns, with logprobs.

    Its tokens are as many as may be, 16 where the call does not say.
    """

    async def script(call: Call, wire: Wire) -> None:
        asked = call.body["prompt"]
        prompts = asked if isinstance(asked, list) and not isinstance(asked[0], int) else [asked]
        limit = call.body.get("max_tokens", 16)
        usage = {"prompt_tokens": 9, "completion_tokens": limit, "total_tokens": 9 + limit}
        said = []
        for prompt in [each for each in prompts for _ in range(call.body.get("n") or 1)]:
            tokens = continuation(prompt)
            said.append([str(prompt), *tokens] if call.body.get("echo") else tokens)
        if not call.body.get("stream"):
            choices = [text_choice(call, index, tokens, finish_reason) for index, tokens in enumerate(said)]
            await whole({**_TEXT_HEAD, "choices": choices, "usage": usage})(call, wire)
            return
        turns = [
            text_choice(call, index, tokens[number : number + 1], None)
            for number in range(max(map(len, said)))
            for index, tokens in enumerate(said)
            if number < len(tokens)
        ]
        turns += [text_choice(call, index, [], finish_reason) for index in range(len(said))]
        parts: list[Part] = [frame({**_TEXT_HEAD, "choices": [choice]}) for choice in turns]
        if (call.body.get("stream_options") or {}).get("include_usage"):
            parts.append(frame({**_TEXT_HEAD, "choices": [], "usage": usage}))
        await stream([*parts, DONE])(call, wire)

    return script


def text_choice(call: Call, index: int, tokens: list[str], finish_reason: str | None) -> dict[str, Any]:
    """Of a text completion. One of the candidates for each token is a name that also fields have."""
    logprobs = None
    if call.body.get("logprobs") is not None and tokens:
        logprobs = {
            "tokens": tokens,
            "token_logprobs": [-0.5] * len(tokens),
            "top_logprobs": [{token: -0.5, "index": -0.25} for token in tokens],
            "text_offset": [0] * len(tokens),
        }
    return {"text": "".join(tokens), "index": index, "logprobs": logprobs, "finish_reason": finish_reason}


def vector_of(text: str | list[int], dimensions: int = 4) -> list[float]:
    """32-bit floats that tell texts apart."""
    seed = zlib.crc32(json.dumps(text).encode())
    return [struct.unpack("f", struct.pack("f", (seed % (7 + each)) / 3))[0] for each in range(dimensions)]


def embed(*, floats: bool = False, index: bool = True, tokens: int = 3) -> Script:
    """Vectors of the texts, each of which counts as so many tokens; `floats` even where base64 is asked for."""

    async def script(call: Call, wire: Wire) -> None:
        data = []
        for number, text in enumerate(call.body["input"]):
            vector: Any = vector_of(text, call.body.get("dimensions") or 4)
            if call.body.get("encoding_format") == "base64" and not floats:
                vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "embedding": vector, **({"index": number} if index else {})})
        used = tokens * len(data)
        usage = {"prompt_tokens": used, "total_tokens": used}
        body = {"object": "list", "data": data, "model": call.body["model"], "usage": usage}
        await whole(body)(call, wire)

    return script


class FakeOpenAI(FakeServer):
    """See the module. Paths other than /v1/chat/completions, /v1/completions and /v1/embeddings get 404."""

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    async def default(self, call: Call, wire: Wire) -> None:
        if call.path == "/v1/embeddings":
            await embed()(call, wire)
            return
        if call.path == "/v1/completions":
            await go_on()(call, wire)
            return
        if call.path != "/v1/chat/completions":
            await refuse(404, f"Unknown request URL: {call.method} {call.path}")(call, wire)
            return
        await say("You said: ", last_question(call.body))(call, wire)


def last_question(body: dict[str, Any]) -> str:
    """The text of the user's last message."""
    content = next(message["content"] for message in reversed(body["messages"]) if message["role"] == "user")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
