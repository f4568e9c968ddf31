"""The OpenAI provider against a real server that does all that real servers do."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dub5.errors import (
    ConfigError,
    Dub5Error,
    InvalidRequest,
    ProviderError,
    ProviderTimeout,
    RequestTooLarge,
)
from dub5.providers import http
from dub5.providers.openai import OpenAIProvider
from dub5.providers.protocol import Call, Chunk, Json
from dub5.settings.model import Duration, OpenAISettings, Timeouts
from testkit.http_server import CLOSE, DIE, HANG, Part, Script, hang, raw, refuse, stream, whole
from testkit.openai_server import DONE, FakeOpenAI, call_tool, chunk, completion, frame, frames, say
from tests.harness import out_of_time
from tests.pulling import chunks_of, payload_of

KEY = "planted4Zx9Qw7"  # unlike any known kind of key: only the exact text gives it away
QUESTION: Json = {"messages": [{"role": "user", "content": "Hi"}]}
ROLE, HEL, LO, FINISH, USAGE = frames("Hel", "lo", done=False)
AT_ONCE = Duration(0.05)
SOON = Duration(30)


@contextlib.asynccontextmanager
async def provider_at(base_url: str, *, key: str = KEY, **settings: Any) -> AsyncIterator[OpenAIProvider]:
    provider = OpenAIProvider("acme", OpenAISettings(base_url=base_url, **settings), key=key)
    try:
        yield provider
    finally:
        await provider.aclose()


def call(body: Json = QUESTION, *, streamed: bool = False, **headers: str) -> Call:
    return Call(model="gpt-x", body=body, stream=streamed, headers=headers)


async def completed(fake: FakeOpenAI, body: Json = QUESTION, **settings: Any) -> Json:
    async with provider_at(fake.base_url, **settings) as provider:
        return (await provider.complete(call(body))).data


async def streamed(fake: FakeOpenAI, body: Json = QUESTION, **settings: Any) -> list[Json]:
    async with provider_at(fake.base_url, **settings) as provider:
        asked, found = call(body, streamed=True), list[Chunk]()

        def on_chunks(chunks: list[Chunk]) -> None:
            found.extend(chunks)
            asked.response.begun = True  # as `call` says of the first that has something of the answer

        await provider.stream(asked, on_chunks)
        return [payload_of(chunk).data for chunk in found]


def said(chunks: list[Json]) -> str:
    deltas = [choice["delta"] for each in chunks for choice in each["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def asked(fake: FakeOpenAI, *, whole_answer: bool, **settings: Any) -> Json | list[Json]:
    return await (completed if whole_answer else streamed)(fake, **settings)


async def first_of(provider: OpenAIProvider, *, whole_answer: bool) -> object:
    """The whole answer, or the first chunk of a stream."""
    if whole_answer:
        return await provider.complete(call())
    async with contextlib.aclosing(chunks_of(provider, call(streamed=True))) as chunks:
        return await anext(chunks)


both_ways = pytest.mark.parametrize("whole_answer", [True, False], ids=["whole", "streamed"])


# --- What goes well ---


async def test_a_whole_answer_comes_as_it_was_sent(fake: FakeOpenAI) -> None:
    answer = {**completion({"content": "Zoë 🎈"}), "unknown": {"to": ["us"]}}
    fake.reply = whole(answer)
    async with provider_at(fake.base_url) as provider:
        payload = await provider.complete(call())
    assert payload.data == answer
    assert payload.raw == json.dumps(answer, ensure_ascii=False).encode()


async def test_a_streams_chunks_come_as_they_were_sent(fake: FakeOpenAI) -> None:
    odd = {**chunk({"content": "Zoë 🎈", "mood": "fine"}), "unknown": 1}
    fake.reply = stream([frame(odd), FINISH, USAGE, DONE])
    async with provider_at(fake.base_url) as provider:
        payloads = [each async for each in chunks_of(provider, call(streamed=True))]
    assert payloads[0].data == odd
    assert payloads[0].raw == json.dumps(odd, ensure_ascii=False).encode()
    assert len(payloads) == 3


async def test_the_request_carries_key_model_headers_and_unknown_fields(fake: FakeOpenAI) -> None:
    body = {**QUESTION, "temperature": 0.5, "unknown": {"a": [1]}}
    async with provider_at(fake.base_url, headers={"openai-beta": "x"}) as provider:
        await provider.complete(call(body, traceparent="00-ab-cd-01"))
    (seen,) = fake.calls
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.body == {**body, "model": "gpt-x"}
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["openai-beta"] == "x"
    assert seen.headers["traceparent"] == "00-ab-cd-01"


async def test_without_a_key_there_is_no_authorization(fake: FakeOpenAI) -> None:
    await completed(fake, key="")
    assert "authorization" not in fake.calls[0].headers


async def test_a_stream_asks_for_usage_unless_told_not_to(fake: FakeOpenAI) -> None:
    assert (await streamed(fake))[-1]["usage"]
    await streamed(fake, stream_usage=False)
    first, second = (each.body for each in fake.calls)
    assert first == {**QUESTION, "model": "gpt-x", "stream": True, "stream_options": {"include_usage": True}}
    assert second == {**QUESTION, "model": "gpt-x", "stream": True}


async def test_a_tool_call_comes_through(fake: FakeOpenAI) -> None:
    fake.reply = call_tool("weather", '{"city": "Oslo"}')
    (tool_call,) = (await completed(fake))["choices"][0]["message"]["tool_calls"]
    assert tool_call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    calls = [
        part for each in await streamed(fake) for part in each["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert "".join(part["function"]["arguments"] for part in calls) == '{"city": "Oslo"}'


async def test_a_connection_is_used_again_after_a_stream(fake: FakeOpenAI) -> None:
    """`[DONE]` and the end of the body come apart: closing at the former would cost a handshake each time."""
    async with provider_at(fake.base_url) as provider:
        for _ in range(3):
            assert len([each async for each in chunks_of(provider, call(streamed=True))]) > 1
            await provider.complete(call())
    assert fake.connections == 1


async def test_a_server_that_forgets_to_close_is_not_waited_for(fake: FakeOpenAI) -> None:
    fake.reply = stream(frames("Hello"), end=False)
    assert said(await streamed(fake)) == "Hello"
    await fake.wait_cancelled()


PROPER = frames("Zoë 🎈")
PROPER_BYTES = b"".join(part for part in PROPER if isinstance(part, bytes))
ON_TWO_LINES = frame(chunk({"content": "Zoë 🎈"})).replace(b', "', b',\ndata: "')


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([bytes([byte]) for byte in PROPER_BYTES], id="byte by byte, inside of characters too"),
        pytest.param([PROPER_BYTES.replace(b"\n", b"\r\n")], id="CRLF"),
        pytest.param([b": hello\n\n", ROLE, b": waiting\n\n", *PROPER[1:], b": bye\n\n"], id="comments"),
        pytest.param(PROPER[:-1], id="no [DONE]"),
        pytest.param(PROPER[:3], id="no [DONE], no usage"),
        pytest.param([*PROPER[:2], DONE], id="no finish reason, but [DONE]"),
        pytest.param([*PROPER, b"data: nonsense after the end\n\n"], id="more after [DONE]"),
        pytest.param([ROLE, ON_TWO_LINES, FINISH, DONE], id="data on several lines"),
    ],
)
async def test_ways_to_write_a_stream(fake: FakeOpenAI, parts: list[Part]) -> None:
    fake.reply = stream(parts)
    assert said(await streamed(fake)) == "Zoë 🎈"


async def test_a_megabyte_in_one_frame(fake: FakeOpenAI) -> None:
    fake.reply = say("x" * 2**20)
    assert said(await streamed(fake)) == "x" * 2**20
    assert len((await completed(fake))["choices"][0]["message"]["content"]) == 2**20


@both_ways
async def test_compression_that_nobody_asked_for_is_undone(fake: FakeOpenAI, whole_answer: bool) -> None:
    gzipped = {"content-encoding": "gzip"}
    body = json.dumps(completion({"content": "Hello"})).encode()
    parts = b"".join(part for part in frames("Hello") if isinstance(part, bytes))
    fake.reply = (
        whole(None, raw=gzip.compress(body), headers=gzipped)
        if whole_answer
        else stream([gzip.compress(parts)], headers=gzipped)
    )
    assert "Hello" in str(await asked(fake, whole_answer=whole_answer))
    assert fake.calls[0].headers["accept-encoding"] == "identity"


# --- What goes wrong on the way ---


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([ROLE, HEL, DIE], "broke off"),
        ([ROLE, HEL, CLOSE], "broke off"),
        ([ROLE, HEL], "ended its stream before"),
        ([ROLE, HEL, b"data: {"], "ended its stream before"),
        ([], "ended its stream before"),
        ([DONE], "ended its stream before"),
        ([b": nothing but comments\n\n"], "ended its stream before"),
        ([DIE], "broke off"),
        ([ROLE, b"data: {\n\n", HANG], "malformed JSON"),
        ([ROLE, b"data: [1]\n\n", HANG], "malformed JSON"),
        ([b"data: \xff\xfe\n\n", HANG], "malformed JSON"),
        ([b"data: " + b"[" * 10**5 + b"\n\n", HANG], "malformed JSON"),
        ([b"data: " + b"x" * 9 * 2**20, HANG], "too large"),
        ([frame(chunk({"content": "x" * 7 * 2**20})) for _ in range(5)], "too large"),
        ([ROLE, frame({"choices": "x"}), HANG], "without proper `choices`"),
        ([frame({"choices": [None]}), HANG], "without proper `choices`"),
        ([frame({"choices": [{"index": []}]}), HANG], "without proper `choices`"),
        ([frame({"choices": [{"delta": "x"}]}), HANG], "without proper `choices`"),
        ([frame({"choices": [{"delta": {"tool_calls": [{"index": "x"}]}}]}), HANG], "without proper `choices`"),
        ([ROLE, frame({"error": {"message": "Overloaded."}}), HANG], r"reported an error: Overloaded\.$"),
        ([frame({"error": "Overloaded"}), HANG], r"reported an error: Overloaded\.$"),
        ([frame({**chunk({}, "error"), "error": {"message": "Gone"}}), HANG], "reported an error: Gone"),
    ],
)  # fmt: skip
async def test_a_stream_that_goes_wrong(fake: FakeOpenAI, parts: list[Part], message: str) -> None:
    fake.reply = stream(parts)
    with pytest.raises(ProviderError, match=message) as caught:
        await streamed(fake)
    assert caught.value.provider == "acme"
    assert not isinstance(caught.value, ProviderTimeout)


@both_ways
async def test_an_answer_of_events_that_ends_without_a_choice(fake: FakeOpenAI, whole_answer: bool) -> None:
    ask = completed if whole_answer else streamed
    fake.reply = stream([ROLE, HEL, FINISH, USAGE, DONE])
    assert await ask(fake, {**QUESTION, "n": 2}), "some servers give one, whatever is asked"
    fake.reply = stream([ROLE, HEL, FINISH])
    assert await ask(fake)
    with pytest.raises(ProviderError, match="fewer choices") as caught:
        await ask(fake, {**QUESTION, "n": 2})
    assert caught.value.scope == "request"  # of a server that never gives several, no outage


async def test_chunks_before_the_fault_have_come(fake: FakeOpenAI) -> None:
    fake.reply = stream([ROLE, HEL, LO, DIE])
    seen: list[Json] = []

    async def read() -> None:
        async with provider_at(fake.base_url) as provider:
            async for each in chunks_of(provider, call(streamed=True)):
                seen.append(each.data)  # noqa: PERF401  # a comprehension would lose them

    with pytest.raises(ProviderError):
        await read()
    assert said(seen) == "Hello"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (whole(None, raw=b"{"), "malformed JSON"),
        (whole(None, raw=b"<html>"), "malformed JSON"),
        (whole(None, raw=b""), "malformed JSON"),
        (whole([]), "malformed JSON"),
        (whole({}), "without proper `choices`"),
        (whole({"choices": [{"message": None}]}), "without proper `choices`"),
        (whole({"error": {"message": "Overloaded"}}), "reported an error: Overloaded"),
        (whole(None, raw=b"no gzip", headers={"content-encoding": "gzip"}), "compression"),
        (raw(b""), "broke off"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "sent what is not HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{"), "broke off"),
        (raw(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), "sent what is not HTTP"),
    ],
)  # fmt: skip
async def test_a_whole_answer_that_goes_wrong(fake: FakeOpenAI, script: Script, message: str) -> None:
    fake.reply = script
    with pytest.raises(ProviderError, match=message):
        await completed(fake)


async def test_an_answer_without_end_is_refused(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 1000)
    fake.reply = stream([b"x" * 600, b"x" * 600, HANG])
    with pytest.raises(ProviderError, match="too large"):
        await completed(fake)


@both_ways
async def test_nobody_is_there(whole_answer: bool) -> None:
    async with provider_at(f"http://127.0.0.1:{unused_port()}/v1") as provider:
        with pytest.raises(ProviderError, match="cannot be reached") as caught:
            await first_of(provider, whole_answer=whole_answer)
    assert not isinstance(caught.value, ProviderTimeout)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- Refusals ---


@both_ways
@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (refuse(400, "Bad n.", param="n"), InvalidRequest, r"^Bad n\.$"),
        (refuse(422, "Bad m."), InvalidRequest, "^Bad m"),
        (whole({"message": "Bad o."}, status=400), InvalidRequest, "^Bad o"),
        (whole({"error": "Bad p."}, status=400), InvalidRequest, "^Bad p"),
        (whole({"error": 7}, status=400), InvalidRequest, "refused the request"),
        (whole(None, raw=b"{nonsense", status=400), InvalidRequest, "refused the request"),
        (whole(None, raw=b"Bad q.", status=400), InvalidRequest, "^Bad q"),
        (whole([1], status=400), InvalidRequest, "refused the request"),
        (refuse(400, "Your credit balance is too low."), ProviderError, "credit balance"),
        (refuse(413, "Too long."), RequestTooLarge, "Too long"),
        (refuse(404, "No such model."), ProviderError, r"answered with status 404: No such model\.$"),
        (refuse(429, "Slow down."), ProviderError, "^Slow down"),
        (refuse(500, "Oops"), ProviderError, "answered with status 500: Oops"),
        (whole(None, raw=b"<html>", status=503), ProviderError, r"answered with status 503\.$"),
        (whole(None, raw=b"", status=302, headers={"location": "/"}), ProviderError, "status 302"),
        (refuse(401, f"Incorrect API key provided: {KEY}"), ProviderError, "refused the service's credentials"),
        (refuse(403, f"Not for {KEY}"), ProviderError, "refused the service's credentials"),
    ],
)  # fmt: skip
async def test_refusals(
    fake: FakeOpenAI, script: Script, kind: type[Dub5Error], message: str, whole_answer: bool
) -> None:
    fake.reply = script
    with pytest.raises(kind, match=message) as caught:
        await asked(fake, whole_answer=whole_answer)
    assert type(caught.value) is kind
    assert KEY not in str(caught.value)


async def test_the_providers_word_for_the_field_is_kept(fake: FakeOpenAI) -> None:
    fake.reply = refuse(400, "Bad n.", param="n")
    with pytest.raises(InvalidRequest) as caught:
        await completed(fake)
    assert caught.value.param == "n"


async def test_the_body_of_a_refusal_is_read_no_further_than_it_is_wanted(fake: FakeOpenAI) -> None:
    async def endless(_: Any, wire: Any) -> None:
        await wire.head(500, {"content-type": "text/plain"})
        while not wire.left.is_set():
            await wire.send(b"x" * 2**16)

    fake.reply = endless
    with pytest.raises(ProviderError, match="answered with status 500"):
        await completed(fake)
    await fake.wait_cancelled()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 86_400.0),
        ("-1", None),
        ("9" * 30, 86_400.0),
    ],
)
async def test_retry_after(fake: FakeOpenAI, written: str, seconds: float | None) -> None:
    fake.reply = refuse(429, "Slow down", headers={"retry-after": written})
    with pytest.raises(ProviderError) as caught:
        await completed(fake)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (f"It was {KEY}, wasn't it?", "It was [redacted], wasn't it?"),
        ("Key sk-pro-****9f2 is over its limit", "[redacted] is over its limit"),
        ("Authorization: Bearer abc123def456", "Authorization: [redacted]"),
        ("x-api-key: 0123456789abcdef", "[redacted]"),
        ("api_key='0123456789abcdef'", "[redacted]'"),
        ("The key parameters are missing", "The key parameters are missing"),
        ("x" * 5000, "x" * 1000),
    ],
)
@pytest.mark.parametrize("place", ["status 400", "status 500", "in the stream"])
async def test_no_key_gets_into_a_message(fake: FakeOpenAI, words: str, shown: str, place: str) -> None:
    error = frame({"error": {"message": words}})
    status = int(place[-3:]) if place.startswith("status") else None
    fake.reply = refuse(status, words) if status else stream([ROLE, error])
    with pytest.raises(Dub5Error) as caught:
        await streamed(fake)
    assert caught.value.message.removesuffix(".").endswith(shown)


@pytest.mark.parametrize("key", ["clé", "two\nlines"])
def test_a_key_that_no_header_can_hold_is_refused_at_once(key: str) -> None:
    with pytest.raises(ConfigError, match=r"providers\.acme") as caught:
        OpenAIProvider("acme", OpenAISettings(), key=key)
    assert key not in str(caught.value)


# --- Time ---


@both_ways
async def test_a_connection_that_is_not_accepted(whole_answer: bool) -> None:
    """A full backlog: the kernel leaves further handshakes without an answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        timeouts = Timeouts(connect=AT_ONCE)
        async with provider_at(f"http://127.0.0.1:{address[1]}/v1", timeouts=timeouts) as provider:
            with pytest.raises(ProviderTimeout, match="too long to accept a connection"):
                await (
                    provider.complete(call())
                    if whole_answer
                    else anext(chunks_of(provider, call(streamed=True)))
                )


@pytest.mark.parametrize(
    ("script", "timeouts", "message"),
    [
        (hang(), {"first_token": SOON}, "send its first token"),
        (stream([HANG]), {"first_token": SOON}, "send its first token"),
        (stream([b": soon\n\n"] * 3, end=False), {"first_token": SOON}, "send its first token"),
        (stream([ROLE, HEL, HANG]), {"total": SOON}, "finish its answer"),
        (hang(), {"total": SOON}, "finish its answer"),
    ],
)
async def test_a_stream_that_takes_too_long(
    fake: FakeOpenAI, script: Script, timeouts: dict[str, Duration], message: str
) -> None:
    fake.reply = script
    with pytest.raises(ProviderTimeout, match=f"The provider acme took too long to {message}"):
        await out_of_time(streamed(fake, timeouts=Timeouts(**timeouts)), fake)
    await fake.wait_cancelled()


async def test_a_stream_that_stops_for_too_long(fake: FakeOpenAI) -> None:
    fake.reply = stream([ROLE, HEL, HANG])
    with pytest.raises(ProviderTimeout, match="The provider acme took too long to send its next token"):
        await streamed(fake, timeouts=Timeouts(between_tokens=AT_ONCE))
    await fake.wait_cancelled()


async def test_comments_are_a_sign_of_life_and_put_off_no_more_than_the_first_token(fake: FakeOpenAI) -> None:
    async def only_comments(call: Any, wire: Any) -> None:
        await wire.head(200, {"content-type": "text/event-stream"})
        while not wire.left.is_set():
            await wire.send(b": patience\n\n")

    fake.reply = only_comments
    limits = Timeouts(first_token=Duration(5), total=Duration(0.2))
    with pytest.raises(ProviderTimeout, match="finish its answer"):
        await streamed(fake, timeouts=limits)


@pytest.mark.parametrize("status", [201, 203])
async def test_an_answer_may_have_another_status_of_success(fake: FakeOpenAI, status: int) -> None:
    fake.reply = whole(completion(message={"role": "assistant", "content": "hello"}), status=status)
    assert (await completed(fake))["choices"][0]["message"]["content"] == "hello"


async def test_a_whole_answer_that_takes_too_long(fake: FakeOpenAI) -> None:
    fake.reply = hang()
    with pytest.raises(ProviderTimeout, match="finish its answer"):
        await out_of_time(completed(fake, timeouts=Timeouts(total=SOON)), fake)
    await fake.wait_cancelled()


async def test_a_refusal_that_hangs_is_a_timeout(fake: FakeOpenAI) -> None:
    fake.reply = raw_head_then_hang
    limits = Timeouts(first_token=Duration(5), total=Duration(0.2))
    with pytest.raises(ProviderTimeout, match="finish its answer"):
        await streamed(fake, timeouts=limits)


async def raw_head_then_hang(call: Any, wire: Any) -> None:
    await wire.head(500, {"content-length": "10"})
    await wire.left.wait()


# --- The caller leaves ---


async def test_closing_the_stream_closes_the_providers_connection(fake: FakeOpenAI) -> None:
    fake.reply = stream([ROLE, HEL, HANG])
    async with provider_at(fake.base_url) as provider:
        chunks = chunks_of(provider, call(streamed=True))
        await anext(chunks)
        assert fake.open_calls == 1
        await chunks.aclose()
        assert (await fake.wait_cancelled()).cancelled.is_set()


@pytest.mark.parametrize("script", [hang(), stream([ROLE, HANG])], ids=["no answer", "half an answer"])
@both_ways
async def test_cancelling_the_call_closes_the_providers_connection(
    fake: FakeOpenAI, script: Script, whole_answer: bool
) -> None:
    fake.reply = script
    asking = asyncio.create_task(asked(fake, whole_answer=whole_answer))
    await fake.wait_called()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await fake.wait_cancelled()


async def test_a_call_that_was_given_up_leaves_the_pool_usable(fake: FakeOpenAI) -> None:
    fake.replies = [stream([ROLE, HANG])]
    async with provider_at(fake.base_url, max_connections=1) as provider:
        chunks = chunks_of(provider, call(streamed=True))
        await anext(chunks)
        await chunks.aclose()
        assert (await provider.complete(call())).data["choices"]
