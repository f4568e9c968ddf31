"""The Anthropic provider against a real server as strict as the real one, with the faults that are its own.

What is common to all HTTP providers (the pool, refusals, compression, …) is tested with OpenAI's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dub5.errors import Dub5Error, InvalidRequest, ProviderError, ProviderTimeout, Unsupported
from dub5.providers.anthropic import AnthropicProvider
from dub5.providers.chunks import assemble
from dub5.providers.protocol import Call, Chunk, Json
from dub5.settings.model import AnthropicSettings, Duration, Timeouts
from testkit.anthropic_server import FakeAnthropic, event, frames, use_tool
from testkit.http_server import CLOSE, DIE, HANG, Part, Script, hang, refuse, stream, whole
from tests.harness import out_of_time
from tests.pulling import chunks_of, payload_of

KEY = "sk-ant-planted-4Zx9Qw7"
QUESTION: Json = {"messages": [{"role": "user", "content": "Hi"}]}
PROPER = frames("Hel", "lo 🎈")
PROPER_BYTES = b"".join(part for part in PROPER if isinstance(part, bytes))
START, PING, BLOCK, HEL, LO, BLOCK_END, DELTA, STOP = PROPER
OVERLOADED = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
TIMELESS = {"created": 0}


@pytest.fixture
async def fake() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@contextlib.asynccontextmanager
async def provider_at(base_url: str, **settings: Any) -> AsyncIterator[AnthropicProvider]:
    provider = AnthropicProvider("claude", AnthropicSettings(base_url=base_url, **settings), key=KEY)
    try:
        yield provider
    finally:
        await provider.aclose()


def call(body: Json = QUESTION, *, streamed: bool = False, **headers: str) -> Call:
    return Call(model="claude-x", body=body, stream=streamed, headers=headers)


async def completed(fake: FakeAnthropic, body: Json = QUESTION, **settings: Any) -> Json:
    async with provider_at(fake.base_url, **settings) as provider:
        return (await provider.complete(call(body))).data


async def streamed(fake: FakeAnthropic, body: Json = QUESTION, **settings: Any) -> list[Json]:
    async with provider_at(fake.base_url, **settings) as provider:
        asked, found = call(body, streamed=True), list[Chunk]()

        def on_chunks(chunks: list[Chunk]) -> None:
            found.extend(chunks)
            asked.response.begun = True  # as `call` says of the first that has something of the answer

        await provider.stream(asked, on_chunks)
        return [payload_of(chunk).data for chunk in found]


async def test_a_question_is_translated_and_sent_with_key_and_version(fake: FakeAnthropic) -> None:
    async with provider_at(fake.base_url, max_tokens=77) as provider:
        await provider.complete(call(traceparent="00-ab-cd-01"))
    (seen,) = fake.calls
    assert (seen.method, seen.path) == ("POST", "/v1/messages")
    assert (seen.headers["x-api-key"], seen.headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert seen.headers["traceparent"] == "00-ab-cd-01"
    assert "authorization" not in seen.headers
    assert seen.body == {
        "model": "claude-x",
        "max_tokens": 77,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


async def test_without_a_key_none_is_sent(fake: FakeAnthropic) -> None:
    provider = AnthropicProvider("claude", AnthropicSettings(base_url=fake.base_url + "/"), key="")
    await provider.complete(call())
    await provider.aclose()
    assert "x-api-key" not in fake.calls[0].headers


@pytest.mark.parametrize("script", [None, use_tool("weather", {"city": "Zürich"}), use_tool("now", {})])
async def test_an_answer_is_the_same_whole_and_streamed(fake: FakeAnthropic, script: Script | None) -> None:
    if script is not None:
        fake.reply = script
    entire, joined = await completed(fake), assemble(await streamed(fake))
    assert {**joined, **TIMELESS} == {**entire, **TIMELESS}
    assert fake.calls[1].body == {**fake.calls[0].body, "stream": True}


async def test_all_that_openai_knows_is_fit_for_this_api(fake: FakeAnthropic) -> None:
    """The fake refuses fields that it does not know, a temperature over 1, roles that do not alternate, …"""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    tool_call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    body = {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hello", "name": "ann"},
            {"role": "user", "content": [{"type": "text", "text": "Rain?"}, image]},
            {"role": "assistant", "content": "", "tool_calls": [tool_call], "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
            {"role": "user", "content": "So?"},
        ],
        "tools": [tool],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "temperature": 1.9,
        "top_p": 0.5,
        "stop": "END",
        "n": 1,
        "logprobs": False,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "logit_bias": {},
        "seed": 1,
        "user": "ann",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "max_completion_tokens": 50,
    }
    assert "So?" in str(await completed(fake, body))


async def test_a_connection_is_used_again_after_a_stream(fake: FakeAnthropic) -> None:
    async with provider_at(fake.base_url) as provider:
        for _ in range(3):
            assert len([each async for each in chunks_of(provider, call(streamed=True))]) > 1
    assert fake.connections == 1


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([bytes([byte]) for byte in PROPER_BYTES], id="byte by byte, inside of characters too"),
        pytest.param([PROPER_BYTES.replace(b"\n", b"\r\n")], id="CRLF"),
        pytest.param([START, b": comment\n\n", *PROPER[1:]], id="comments"),
        pytest.param([*PROPER, b"data: nonsense\n\n"], id="more after the end"),
        pytest.param([START, BLOCK, HEL, LO, BLOCK_END, event("news", x=1), DELTA, STOP], id="unknown event"),
    ],
)
async def test_ways_to_write_a_stream(fake: FakeAnthropic, parts: list[Part]) -> None:
    fake.reply = stream(parts)
    message = assemble(await streamed(fake))["choices"][0]["message"]
    assert message["content"] == "Hello 🎈"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([START, BLOCK, HEL, DIE], "broke off"),
        ([START, BLOCK, HEL, CLOSE], "broke off"),
        ([START, BLOCK, HEL, LO, BLOCK_END, DELTA], "ended its stream before"),
        ([START, BLOCK, HEL, b'event: content_block_delta\ndata: {"type":'], "ended its stream before"),
        ([], "ended its stream before"),
        ([PING], "ended its stream before"),
        ([START, b"data: {\n\n", HANG], "malformed event"),
        ([b"data: \xff\n\n", HANG], "malformed event"),
        ([b"data: " + b"[" * 10**5 + b"\n\n", HANG], "malformed event"),
        ([START, b"data: {}\n\n", HANG], "malformed event"),
        ([HEL, HANG], "malformed event"),
        ([START, HEL, HANG], "malformed event"),
        ([event("message_start", message={"content": 7}), HANG], "malformed event"),
        ([START, OVERLOADED, HANG], r"reported an error: Overloaded\.$"),
        ([event("error", error={}), HANG], "reported an error"),
        ([event("error", error={"message": f"Bad {KEY}"}), HANG], r"reported an error: Bad \[redacted\]\.$"),
    ],
)  # fmt: skip
async def test_a_stream_that_goes_wrong(fake: FakeAnthropic, parts: list[Part], message: str) -> None:
    fake.reply = stream(parts)
    with pytest.raises(ProviderError, match=message) as caught:
        await streamed(fake)
    assert caught.value.provider == "claude"
    assert not isinstance(caught.value, ProviderTimeout)


@pytest.mark.parametrize("script", [whole({}), whole({"content": "x"}), whole({"content": [1]})])
async def test_what_is_not_a_message(fake: FakeAnthropic, script: Script) -> None:
    fake.reply = script
    with pytest.raises(ProviderError, match="what is not a message"):
        await completed(fake)


@pytest.mark.parametrize("ask", [completed, streamed])
@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (refuse(400, "messages.0: bad"), InvalidRequest, "messages.0: bad"),
        (refuse(400, "Your credit balance is too low to access the API."), ProviderError, "credit balance"),
        (refuse(401, f"invalid x-api-key {KEY}"), ProviderError, "refused the service's credentials"),
        (refuse(529, "Overloaded"), ProviderError, "answered with status 529: Overloaded"),
    ],
)
async def test_refusals(
    fake: FakeAnthropic, script: Script, kind: type[Dub5Error], message: str, ask: Any
) -> None:
    fake.reply = script
    with pytest.raises(kind, match=message) as caught:
        await ask(fake)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("ask", [completed, streamed])
async def test_what_cannot_be_translated_is_not_sent(fake: FakeAnthropic, ask: Any) -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    with pytest.raises(Unsupported) as caught:
        await ask(fake, {"messages": [{"role": "user", "content": [sound]}]})
    assert caught.value.param == "messages[0].content[0].type"
    assert fake.calls == []


@pytest.mark.parametrize(
    ("script", "timeouts", "message"),
    [
        (hang(), {"first_token": Duration(30)}, "send its first token"),
        (stream([START, BLOCK, HEL, HANG]), {"total": Duration(30)}, "finish its answer"),
    ],
)
async def test_a_stream_that_takes_too_long(
    fake: FakeAnthropic, script: Script, timeouts: dict[str, Duration], message: str
) -> None:
    fake.reply = script
    with pytest.raises(ProviderTimeout, match=message):
        await out_of_time(streamed(fake, timeouts=Timeouts(**timeouts)), fake)
    await fake.wait_cancelled()


async def test_a_stream_that_stops_for_too_long(fake: FakeAnthropic) -> None:
    fake.reply = stream([START, BLOCK, HEL, HANG])
    with pytest.raises(ProviderTimeout, match="send its next token"):
        await streamed(fake, timeouts=Timeouts(between_tokens=Duration(0.05)))
    await fake.wait_cancelled()


async def test_closing_the_stream_closes_the_providers_connection(fake: FakeAnthropic) -> None:
    fake.reply = stream([START, BLOCK, HEL, HANG])
    async with provider_at(fake.base_url) as provider:
        chunks = chunks_of(provider, call(streamed=True))
        await anext(chunks)
        await chunks.aclose()
        await fake.wait_cancelled()


async def test_cancelling_the_call_closes_the_providers_connection(fake: FakeAnthropic) -> None:
    fake.reply = hang()
    asking = asyncio.create_task(completed(fake))
    await fake.wait_called()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await fake.wait_cancelled()


async def test_letters_beyond_ascii_arrive_as_they_are(fake: FakeAnthropic) -> None:
    async with provider_at(fake.base_url) as provider:
        payload = await provider.complete(call({"messages": [{"role": "user", "content": "Zoë 🎈"}]}))
    assert "Zoë 🎈" in payload.raw.decode()
    assert json.loads(payload.raw) == payload.data
