"""Errors that a provider's HTTP answer or a connection's end becomes: scope, status, code, and whose fault it is."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from dub5.errors import (
    CallerError,
    Dub5Error,
    InvalidRequest,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    RequestTooLarge,
)
from dub5.providers import http
from dub5.providers.anthropic import AnthropicProvider
from dub5.providers.http import DIRECTLY, Access
from dub5.providers.openai import OpenAIProvider
from dub5.providers.protocol import Call, Json, Payload
from dub5.providers.upstream import Response, Upstream
from dub5.settings.addresses import Proxy
from dub5.settings.model import AnthropicSettings, Duration, OpenAISettings, Timeouts
from testkit.anthropic_server import FakeAnthropic, event
from testkit.http_server import DIE, HANG, Script, Wire, refuse, stream, whole
from testkit.http_server import Call as Received
from testkit.openai_server import FakeOpenAI, chunk, frame
from tests.pulling import chunks_of

KEY = "planted4Zx9Qw7"
QUESTION: Json = {"messages": [{"role": "user", "content": "Hi"}]}


PROXY = Access(proxy=Proxy(URL("http://proxy.example:3128")))


async def error_of(
    base_url: str, *, streamed: bool = False, access: Access = DIRECTLY, **settings: Any
) -> Dub5Error:
    provider = OpenAIProvider("acme", OpenAISettings(base_url=base_url, **settings), key=KEY, access=access)
    call = Call(model="gpt-x", body=QUESTION, stream=streamed)
    try:
        with pytest.raises(Dub5Error) as caught:
            await answer_of(provider, call)
    finally:
        await provider.aclose()
    return caught.value


async def answer_of(provider: OpenAIProvider, call: Call) -> list[Payload]:
    return (
        [each async for each in chunks_of(provider, call)] if call.stream else [await provider.complete(call)]
    )


def openai_error(words: str, **more: Any) -> Json:
    return {"error": {"message": words, "type": "invalid_request_error", "param": None, "code": None, **more}}


def said(status: int, body: Any, **headers: str) -> Script:
    return whole(
        body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


async def test_a_refusal_of_the_request_keeps_all_that_was_said(fake: FakeOpenAI) -> None:
    fake.reply = said(400, openai_error("Too long.", param="messages", code="context_length_exceeded"))
    error = await error_of(fake.base_url)
    assert isinstance(error, InvalidRequest)
    assert error.body()["error"] == {
        "message": "Too long.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }


@pytest.mark.parametrize(
    ("status", "body", "kind", "expected"),
    [
        (
            422,
            {"detail": [{"loc": ["body", "n"], "msg": "too many"}]},
            InvalidRequest,
            (422, "invalid_request_error", "n"),
        ),
        (
            400,
            [{"error": {"code": 400, "message": "No", "status": "INVALID_ARGUMENT"}}],
            InvalidRequest,
            (400, "invalid_request_error", None),
        ),
        (413, openai_error("Too large", code="too_large"), RequestTooLarge, (413, "too_large", None)),
        (413, {}, RequestTooLarge, (413, "request_too_large", None)),
        (400, {"error": "no tools"}, InvalidRequest, (400, "invalid_request_error", None)),
    ],
)
async def test_refusals_of_the_request(
    fake: FakeOpenAI, status: int, body: Any, kind: type[CallerError], expected: tuple[int, str, str | None]
) -> None:
    fake.reply = said(status, body)
    error = await error_of(fake.base_url)
    assert type(error) is kind
    assert (error.status, error.code, error.param) == expected
    assert error.should_retry is None


Row = tuple[int, Any, dict[str, Any]]
OURS: dict[str, Any] = {
    "status": 502,
    "code": "provider_error",
    "type": "provider_error",
    "should_retry": False,
}
AGAIN: dict[str, Any] = {
    "status": 502,
    "code": "provider_error",
    "type": "provider_error",
    "should_retry": None,
}
ROWS: dict[str, Row] = {
    "wrong key": (401, openai_error("Incorrect API key"), {**OURS, "scope": "provider"}),
    "no permission": (403, openai_error("You have insufficient permissions"), {**OURS, "scope": "request"}),
    "no credit": (402, openai_error("Insufficient credits"), {**OURS, "scope": "model"}),
    "no credit at Anthropic": (400, openai_error("Your credit balance is too low"), {**OURS, "scope": "model"}),
    "unknown model": (404, openai_error("m", code="model_not_found"), {**OURS, "scope": "request"}),
    "wrong place": (404, {"detail": "Not Found"}, {**OURS, "scope": "request"}),
    "wrong method": (405, {"detail": "Method Not Allowed"}, {**OURS, "scope": "model"}),
    "cannot see": (
        404,
        {"error": {"message": "No endpoints found that support image input", "code": 404}},
        {"status": 404, "code": "provider_error", "should_retry": False, "scope": "request"},
    ),
    "flagged": (
        403,
        {"error": {"message": "Your input was flagged", "code": 403}},
        {"status": 403, "code": "provider_error", "should_retry": False, "scope": "request"},
    ),
    "conflict": (
        409,
        openai_error("Busy with it", code="conflict"),
        {"status": 409, "code": "conflict", "type": "invalid_request_error", "should_retry": False, "scope": "request"},
    ),
    "failed dependency": (
        424,
        openai_error("MCP server away", code="mcp_error"),
        {"status": 424, "code": "mcp_error", "should_retry": None, "scope": "request"},
    ),
    "rate": (
        429,
        openai_error("Slow", type="tokens", code="rate_limit_exceeded"),
        {"status": 429, "code": "rate_limit_exceeded", "type": "tokens", "should_retry": None, "busy": True},
    ),
    "rate, no more said": (
        429,
        "Slow",
        {"status": 429, "code": "rate_limit_exceeded", "type": "rate_limit_error", "busy": True},
    ),
    "larger than a minute's tokens": (
        413,
        openai_error("Limit 6000, Requested 9000", type="tokens", code="rate_limit_exceeded"),
        {"status": 413, "code": "rate_limit_exceeded", "should_retry": False, "busy": False, "scope": "request"},
    ),
    "larger than a minute's tokens, 429": (
        429,
        {"error": {"message": "Limit 6000, Requested 9000"}},
        {"status": 429, "code": "rate_limit_exceeded", "should_retry": False, "busy": False, "scope": "request"},
    ),
    "a page of nginx": (
        400,
        "<html><head><title>400 Bad Request</title></head></html>",
        {"message": "400 Bad Request", "status": 400, "code": "invalid_request_error", "type": "invalid_request_error"},
    ),
    "too large for nginx": (
        413,
        "<html><head><title>413 Request Entity Too Large</title></head></html>",
        {"status": 413, "code": "request_too_large", "should_retry": False, "scope": "request"},
    ),
    "a gateway's page": (
        502,
        "<html><head><title>502 Bad Gateway</title></head></html>",
        {**AGAIN, "message": "The provider acme answered with status 502: 502 Bad Gateway.", "transient": True},
    ),
    "no such function": (404, {"title": "Not Found", "detail": "Function 'a': Not found for account 'b'"}, OURS),
    "no money": (
        429,
        {"error": {"code": "1113", "message": "Insufficient balance or no resource package."}},
        {"status": 429, "code": "insufficient_quota", "should_retry": False, "retry_after": None, "scope": "model"},
    ),
    "quota": (
        429,
        openai_error("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"),
        {"status": 429, "code": "insufficient_quota", "should_retry": False, "busy": False, "retry_after": None},
    ),
    "defect": (500, openai_error("Oops", code="server_error"), {**AGAIN, "transient": True, "scope": "server"}),
    "overload": (529, {"type": "error", "error": {"type": "overloaded_error"}}, {**AGAIN, "transient": True}),
    "timeout": (504, "late", {**AGAIN, "transient": False}),
    "redirect": (302, "", AGAIN),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("status", "body", "expected"), ROWS.values(), ids=ROWS)
async def test_a_status_becomes_an_error(
    fake: FakeOpenAI, status: int, body: Any, expected: dict[str, Any], streamed: bool
) -> None:
    fake.reply = said(status, body)
    error = await error_of(fake.base_url, streamed=streamed)
    assert type(error) is ProviderError
    assert {name: getattr(error, name) for name in expected} == expected


async def test_the_log_names_the_code_but_not_the_words(fake: FakeOpenAI) -> None:
    fake.reply = said(429, openai_error("You asked: secret plans", code="rate_limit_exceeded"))
    error = await error_of(fake.base_url)
    assert isinstance(error, ProviderError)
    assert error.plain == "The provider acme answered with status 429 (rate_limit_exceeded)."


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry_after": "7"}, {}, 7.0),
        ({"retry_after": "0.5"}, {}, 0.5),
        ({"retry_after_ms": "1500", "retry_after": "2"}, {}, 1.5),
        ({"retry_after": "Thu, 26 Nov 2026 00:00:07 GMT", "date": "Thu, 26 Nov 2026 00:00:00 GMT"}, {}, 7.0),
        ({}, [{"error": {"message": "m", "details": [{"retryDelay": "7s"}]}}], 7.0),
        ({"retry_after": "1m5s"}, {}, 65.0),
        ({}, openai_error("Please try again in 1m5s."), 65.0),
        ({"retry_after": "7"}, openai_error("Please try again in 1m5s."), 7.0),
        ({"x_ratelimit_reset_requests": "7s", "x_ratelimit_remaining_requests": "0"}, {}, 7.0),
        ({"x_ratelimit_reset_requests": "7s", "x_ratelimit_remaining_requests": "9"}, {}, None),
        ({}, {}, None),
    ],
)
async def test_when_to_come_again(
    fake: FakeOpenAI, headers: dict[str, str], body: Any, seconds: float | None
) -> None:
    fake.reply = said(429, body, **headers)
    assert (await error_of(fake.base_url)).retry_after == seconds


@pytest.mark.parametrize("part", [b'{"error": {"message": "cut', b""])
@pytest.mark.parametrize("end", [DIE, HANG], ids=repr)
async def test_a_status_counts_though_its_body_breaks_off(
    fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, part: bytes, end: Any
) -> None:
    monkeypatch.setattr(http, "_REFUSAL_TIME", 0.1)

    async def script(_: Received, wire: Wire) -> None:
        await wire.head(429, {"content-length": "1000", "retry-after": "7"})
        await wire.send(part)
        if end is DIE:
            wire.die()
        else:
            await wire.left.wait()

    fake.reply = script
    error = await error_of(fake.base_url)
    assert (error.status, error.retry_after) == (429, 7.0)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "gzip"])
async def test_a_status_counts_though_its_body_cannot_be_unpacked(fake: FakeOpenAI, coding: str) -> None:
    packed = {"content-encoding": coding, "retry-after": "7"}
    fake.reply = whole(None, raw=b"\x8b\x01\x80", status=429, headers=packed)
    error = await error_of(fake.base_url)
    assert (error.status, error.retry_after) == (429, 7.0)


async def test_a_page_without_end_is_not_read_for_ever(fake: FakeOpenAI) -> None:
    async def script(_: Received, wire: Wire) -> None:
        await wire.head(503, {"content-type": "text/html"})
        while not wire.left.is_set():
            await wire.send(b"<p>" * 10_000)

    fake.reply = script
    assert (await error_of(fake.base_url)).status == 502
    await fake.wait_cancelled()


@pytest.mark.parametrize("place", ["message", "param", "code", "type"])
@pytest.mark.parametrize("status", [400, 404, 409, 422, 429, 500])
async def test_nothing_of_the_operators_is_told_anywhere(fake: FakeOpenAI, status: int, place: str) -> None:
    for secret in (KEY, "org-Abc123", "req_0a1b2c", "boss@acme.example"):
        fake.reply = said(status, openai_error("m", **{place: secret}))
        error = await error_of(fake.base_url)
        assert isinstance(error, CallerError | ProviderError)
        assert secret not in json.dumps(error.body())
        assert secret not in getattr(error, "plain", "")


async def test_the_providers_own_address_is_not_told(fake: FakeOpenAI) -> None:
    fake.reply = refuse(500, f"{fake.base_url}/chat/completions failed at {fake.url.removeprefix('http://')}")
    assert "127.0.0.1" not in (await error_of(fake.base_url)).message


@pytest.mark.parametrize(("written", "kept"), [("req_0a1b2c", "req_0a1b2c"), (f"id-{KEY}", None)])
async def test_the_id_of_a_call_in_the_log_holds_no_key(
    fake: FakeOpenAI, written: str, kept: str | None
) -> None:
    fake.reply = refuse(500, "Oops", headers={"x-request-id": written})
    provider = OpenAIProvider("acme", OpenAISettings(base_url=fake.base_url), key=KEY)
    call = Call(model="gpt-x", body=QUESTION, stream=False)
    with pytest.raises(ProviderError):
        await provider.complete(call)
    await provider.aclose()
    assert call.response.request_id == kept


# --- Within an answer ---

REPORTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "only words": ("Oops", {"status": 502, "code": "provider_error", "scope": "request"}),
    "their own code": ({"message": "m", "code": "strange"}, {"status": 502, "code": "strange", "scope": "request"}),
    "too long": (
        {"message": "m", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"},
        {"status": 400, "code": "context_length_exceeded", "param": "messages", "should_retry": False},
    ),
    "rate": (
        {"message": "m", "type": "rate_limit_error"},
        {"status": 429, "code": "rate_limit_exceeded", "scope": "model", "busy": True},
    ),
    "rate, by number": ({"message": "m", "code": 429}, {"status": 429, "code": "rate_limit_exceeded", "busy": True}),
    "no place at Mistral": (
        {"message": "m", "type": "service_tier_capacity_exceeded", "code": "3505"},
        {"status": 429, "type": "service_tier_capacity_exceeded", "busy": True},
    ),
    "no money at Zhipu": (
        {"message": "m", "code": "1113"},
        {"status": 429, "code": "insufficient_quota", "should_retry": False},
    ),
    "quota": (
        {"message": "m", "code": "insufficient_quota"},
        {"status": 429, "code": "insufficient_quota", "should_retry": False, "busy": False},
    ),
    "overload": ({"message": "m", "type": "overloaded_error"}, {"status": 502, "scope": "server", "transient": True}),
    "defect": (
        {"message": "m", "type": "server_error", "code": "server_error"},
        {"status": 502, "code": "server_error", "scope": "server"},
    ),
    "by number": ({"message": "m", "code": 502}, {"status": 502, "code": "provider_error", "scope": "server"}),
    "key": ({"message": "m", "type": "authentication_error"}, {**OURS, "scope": "provider"}),
    "unknown model": ({"message": "m", "code": "model_not_found"}, {**OURS, "scope": "request"}),
}  # fmt: skip


@pytest.mark.parametrize("how", ["first event", "later event", "a field of its own", "whole"])
@pytest.mark.parametrize(("reported", "expected"), REPORTS.values(), ids=REPORTS)
async def test_an_error_within_an_answer(
    fake: FakeOpenAI, reported: Any, expected: dict[str, Any], how: str
) -> None:
    begun = [] if how == "first event" else [frame(chunk({"content": "Hel"}))]
    told = frame({"error": reported})
    if how == "a field of its own":  # llama.cpp's, and then the end of a good stream
        told = b"error: %b\n\ndata: [DONE]\n\n" % json.dumps(reported).encode()
    fake.reply = whole({"error": reported}) if how == "whole" else stream([*begun, told, HANG])
    error = await error_of(fake.base_url, streamed=how != "whole")
    assert isinstance(error, ProviderError)
    assert {name: getattr(error, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", (502, "provider_error", "server")),
        ("rate_limit_error", (429, "rate_limit_exceeded", "model")),
        ("invalid_request_error", (400, "invalid_request_error", "request")),
        ("api_error", (502, "provider_error", "server")),
        ("something_else", (502, "provider_error", "request")),
    ],
)
async def test_an_error_within_anthropics_stream(kind: str, expected: tuple[int, str, str]) -> None:
    async with FakeAnthropic() as fake:
        fake.reply = stream([event("error", error={"type": kind, "message": "m"}), HANG])
        provider = AnthropicProvider("claude", AnthropicSettings(base_url=fake.base_url), key=KEY)
        with pytest.raises(ProviderError) as caught:
            await anext(chunks_of(provider, Call(model="c", body=QUESTION, stream=True)))
        await provider.aclose()
    assert (caught.value.status, caught.value.code, caught.value.scope) == expected


# --- Connections ---


async def test_nobody_there_is_about_the_provider() -> None:
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        error = await error_of(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
    assert isinstance(error, ProviderError)
    assert (error.scope, error.transient, error.status) == ("provider", True, 502)


async def test_a_name_that_nobody_knows_is_about_the_provider() -> None:
    error = await error_of("http://nobody.invalid/v1")
    assert isinstance(error, ProviderError)
    assert (error.scope, error.message) == ("provider", "The provider acme cannot be reached.")


async def test_a_broken_off_answer_is_about_the_model_and_a_malformed_one_about_the_request(
    fake: FakeOpenAI,
) -> None:
    fake.reply = stream([frame(chunk({"content": "Hel"})), DIE])
    broken = await error_of(fake.base_url, streamed=True)
    fake.reply = stream([b"data: {\n\n"])
    malformed = await error_of(fake.base_url, streamed=True)
    assert isinstance(broken, ProviderError)
    assert isinstance(malformed, ProviderError)
    assert broken.scope == "model"


async def test_a_time_out_is_about_the_server(fake: FakeOpenAI) -> None:
    fake.reply = stream([HANG])
    error = await error_of(fake.base_url, timeouts=Timeouts(total=Duration(0.05)))
    assert isinstance(error, ProviderTimeout)
    assert error.scope == "server"


def connector_error(number: int, host: str = "10.0.0.1") -> aiohttp.ClientConnectorError:
    key = ConnectionKey(host, 80, False, True, None, None, None)
    return aiohttp.ClientConnectorError(key, OSError(number, "x"))


def dns_error(problem: OSError) -> aiohttp.ClientConnectorDNSError:
    key = ConnectionKey("acme.example", 80, False, True, None, None, None)
    return aiohttp.ClientConnectorDNSError(key, problem)


SHORTAGES: dict[str, BaseException] = {
    "descriptors": connector_error(errno.EMFILE),
    "descriptors of all": connector_error(errno.ENFILE),
    "memory": connector_error(errno.ENOMEM),
    "buffers": connector_error(errno.ENOBUFS),
    "ports": connector_error(errno.EADDRNOTAVAIL),
    "descriptors to look up a name": dns_error(OSError(errno.EMFILE, "x")),
    "memory to look up a name": dns_error(socket.gaierror(socket.EAI_MEMORY, "x")),
    "memory in Python": MemoryError(),
    "descriptors, straight": OSError(errno.EMFILE, "x"),
    "ports, straight": OSError(errno.EADDRNOTAVAIL, "x"),
    "memory to look up a name, straight": socket.gaierror(socket.EAI_MEMORY, "x"),
    "threads": RuntimeError("can't start new thread"),
    "buffers to send": aiohttp.ClientOSError(errno.ENOBUFS, "x"),
}


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Access:
    """The operating system's refusals cannot be made without those of everything else in this process.

    Returns the way on which this one is met: aiohttp's are met behind a proxy.
    """

    async def fail(*_: object, **__: object) -> None:
        raise error

    if isinstance(error, aiohttp.ClientError):
        monkeypatch.setattr(aiohttp.ClientSession, "post", fail)
        return PROXY
    monkeypatch.setattr(Upstream, "_resolved", fail)
    return DIRECTLY


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES)
async def test_our_own_shortage_is_nobodys_failure(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, streamed: bool
) -> None:
    way = failing(monkeypatch, error)
    told = await error_of("http://acme.example/v1", streamed=streamed, access=way)
    assert type(told) is Overloaded
    assert "This replica has run out of" in told.message
    assert told.retry_after == 1


@pytest.mark.parametrize(
    "error",
    [
        connector_error(errno.ECONNREFUSED),
        connector_error(errno.EADDRNOTAVAIL, "::1"),
        dns_error(socket.gaierror(socket.EAI_NONAME, "x")),
        OSError(errno.ECONNREFUSED, "x"),
        OSError(errno.EADDRNOTAVAIL, "x"),
        socket.gaierror(socket.EAI_NONAME, "x"),
    ],
)
async def test_what_is_no_shortage_of_ours(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    way = failing(monkeypatch, error)
    told = await error_of("http://[::1]/v1", access=way)
    assert isinstance(told, ProviderError)
    assert told.scope == "provider"


async def test_a_resolver_without_descriptors_says_that_the_name_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown = socket.gaierror(socket.EAI_AGAIN, "x")
    ways = [failing(monkeypatch, error) for error in (dns_error(unknown), unknown)]

    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "x")

    monkeypatch.setattr("dub5.providers.http_errors.socket.socket", none_left)
    for way in ways:
        assert type(await error_of("http://acme.example/v1", access=way)) is Overloaded


async def test_buffers_that_run_out_while_sending_are_our_own_shortage(
    fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Response.ask

    async def without_room(response: Response, head: bytes, body: bytes) -> None:
        asyncio.get_running_loop().call_soon(response.connection_lost, OSError(errno.ENOBUFS, "x"))
        await ask(response, head, body)

    monkeypatch.setattr(Response, "ask", without_room)
    assert type(await error_of(fake.base_url)) is Overloaded
