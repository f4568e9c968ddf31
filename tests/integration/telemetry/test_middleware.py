"""The middleware under a real uvicorn, with clients that speak TCP and behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from litestar import Litestar, get
from litestar.params import FromPath

from dub5.telemetry.metrics import Metrics
from dub5.telemetry.record import Recorder, TelemetryMiddleware, record_of

from .conftest import Log, Serve, until

ROUTE = "/v1/chat/completions"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, head: str, *headers: str, body: str = "") -> None:
        lines = [f"{head} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *headers, "", body]
        self.writer.write("\r\n".join(lines).encode())
        await self.writer.drain()

    async def rest(self) -> str:
        """Everything until the server closes the connection."""
        return (await self.reader.read()).decode()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield client
    finally:
        await client.close()


async def ask(port: int, head: str, *headers: str, body: str = "") -> str:
    """The whole response to one request."""
    async with connected(port) as client:
        await client.send(head, "connection: close", *headers, body=body)
        return await client.rest()


def outcomes(metrics: Metrics) -> dict[str, float]:
    return {labels["outcome"]: count for labels, count in requests(metrics)}


def requests(metrics: Metrics) -> list[tuple[dict[str, str], float]]:
    families = metrics.registry.restricted_registry(["dub5_http_requests_total"]).collect()
    return [(sample.labels, sample.value) for family in families for sample in family.samples]


def header(response: str, name: str) -> str | None:
    found = re.search(rf"^{name}: (.*?)\r$", response, re.MULTILINE)
    return found[1] if found else None


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """A chat route, as far as telemetry sees one."""
    record = record_of(scope)
    record.route, record.tenant, record.model, record.personality = ROUTE, "acme", "small", "pirate"
    record.cache, record.prompt_tokens, record.completion_tokens = "dub5; hit; ttl=37", 3, 5
    record.timings["cache"], record.timings["auth"] = 0.002, 0.001
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello", "more_body": False})


async def test_a_request_is_counted_timed_and_logged_once(serve: Serve, log: Log) -> None:
    metrics = Metrics()
    async with serve(TelemetryMiddleware(answering, Recorder(metrics))) as port:
        response = await ask(
            port,
            f"POST {ROUTE}?key=hidden-in-query",
            "authorization: Bearer hidden-key",
            "x-request-id: req_1.a-B",
            f"traceparent: 00-{TRACE}-{PARENT}-01",
            body='{"content":"hidden prompt"}',
        )
    assert response.startswith("HTTP/1.1 200")
    assert response.endswith("\r\n\r\nhello")
    assert header(response, "x-request-id") == "req_1.a-B"
    assert header(response, "server-timing") == "auth;dur=1.000, cache;dur=2.000"
    labels = {"route": ROUTE, "method": "POST", "outcome": "ok"}
    assert requests(metrics) == [(labels, 1)]
    assert value(metrics, "dub5_http_request_duration_seconds_count", **labels) == 1
    assert value(metrics, "dub5_http_time_to_first_byte_seconds_count", **labels) == 1
    assert value(metrics, "dub5_network_bytes_total", direction="in") == 27
    assert value(metrics, "dub5_network_bytes_total", direction="out") == 5
    (line,) = await log.lines("request")
    durations = line.pop("duration_ms")
    assert set(durations) == {"total", "first_byte", "auth", "cache"}
    assert (durations["auth"], durations["cache"]) == (1.0, 2.0)
    assert line.pop("timestamp").endswith("Z")
    assert re.fullmatch(r"[0-9a-f]{16}", line.pop("span_id"))
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": "req_1.a-B",
        "trace_id": TRACE,
        "route": ROUTE,
        "method": "POST",
        "status": 200,
        "outcome": "ok",
        "tenant": "acme",
        "model": "small",
        "personality": "pirate",
        "stream": False,
        "cache": "dub5; hit; ttl=37",
        "prompt_tokens": 3,
        "completion_tokens": 5,
    }


@pytest.mark.parametrize("given", ["a b", "x" * 129, "<script>", "é", ""])
async def test_a_bad_request_id_is_replaced(serve: Serve, log: Log, given: str) -> None:
    async with serve(TelemetryMiddleware(answering, Recorder(Metrics()))) as port:
        response = await ask(port, f"POST {ROUTE}", f"x-request-id: {given}")
    made = header(response, "x-request-id")
    assert made is not None
    assert re.fullmatch("[0-9a-f]{32}", made)
    (line,) = await log.lines("request")
    assert line["request_id"] == made


async def test_the_longest_request_id_is_kept(serve: Serve) -> None:
    async with serve(TelemetryMiddleware(answering, Recorder(Metrics()))) as port:
        response = await ask(port, f"POST {ROUTE}", f"x-request-id: {'x' * 128}")
    assert header(response, "x-request-id") == "x" * 128


async def test_a_client_that_leaves_in_mid_stream_is_not_ok(serve: Serve, log: Log) -> None:
    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    metrics = Metrics()
    async with serve(TelemetryMiddleware(streaming, Recorder(metrics))) as port:
        async with connected(port) as client:
            await client.send(f"POST {ROUTE}")
            await client.reader.readuntil(b"first")
        await until(lambda: "client_disconnect" in outcomes(metrics))
    assert outcomes(metrics) == {"client_disconnect": 1}
    (line,) = await log.lines("request")
    assert (line["status"], line["outcome"]) == (200, "client_disconnect")


async def test_a_client_that_left_before_the_end_does_not_make_it_ok(serve: Serve) -> None:
    async def finishing_anyway(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"too late"})

    metrics = Metrics()
    async with serve(TelemetryMiddleware(finishing_anyway, Recorder(metrics))) as port:
        async with connected(port) as client:
            await client.send(f"POST {ROUTE}")
        await until(lambda: "client_disconnect" in outcomes(metrics))


async def test_a_client_that_leaves_after_the_end_was_served(serve: Serve) -> None:
    async def watching(scope: Any, receive: Any, send: Any) -> None:
        await answering(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"  # servers say so once the answer is out

    metrics = Metrics()
    async with serve(TelemetryMiddleware(watching, Recorder(metrics))) as port:
        await ask(port, f"POST {ROUTE}")
        await until(lambda: bool(requests(metrics)))
    assert outcomes(metrics) == {"ok": 1}


async def test_a_defect_before_the_head_is_answered_in_our_shape(serve: Serve, log: Log) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("a secret detail")

    metrics = Metrics()
    async with serve(TelemetryMiddleware(broken, Recorder(metrics))) as port:
        response = await ask(port, f"POST {ROUTE}", "x-request-id: req-7")
    assert response.startswith("HTTP/1.1 500")
    assert header(response, "x-request-id") == "req-7"
    body = msgspec.json.decode(response.partition("\r\n\r\n")[2])
    assert (body["error"]["type"], body["error"]["code"]) == ("server_error", "internal_error")
    assert "secret" not in response
    assert outcomes(metrics) == {"server_error": 1}
    (failed,) = await log.lines("request failed")
    assert failed["request_id"] == "req-7"
    assert "ValueError" in failed["exception"]
    (line,) = await log.lines("request")
    assert (line["status"], line["error_code"]) == (500, "internal_error")


async def test_a_defect_after_the_head_breaks_the_connection_off(serve: Serve, log: Log) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError

    metrics = Metrics()
    async with serve(TelemetryMiddleware(broken, Recorder(metrics))) as port, connected(port) as client:
        await client.send(f"POST {ROUTE}")
        response = await client.rest()
    assert response.endswith("4\r\nhalf\r\n")  # and no last chunk, so no client takes the half for the whole
    assert outcomes(metrics) == {"server_error": 1}
    (line,) = await log.lines("request")
    assert line["status"] == 200  # what the client was told
    assert len(await log.lines("request failed")) == 1


async def test_what_a_handler_knows_goes_before_its_status(serve: Serve) -> None:
    async def told_in_stream(scope: Any, receive: Any, send: Any) -> None:
        record_of(scope).outcome = "provider_error"
        await answering(scope, receive, send)

    metrics = Metrics()
    async with serve(TelemetryMiddleware(told_in_stream, Recorder(metrics))) as port:
        await ask(port, f"POST {ROUTE}")
    assert outcomes(metrics) == {"provider_error": 1}


async def test_an_answer_without_a_body_has_no_first_byte(serve: Serve) -> None:
    async def empty(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    metrics = Metrics()
    async with serve(TelemetryMiddleware(empty, Recorder(metrics))) as port:
        response = await ask(port, "DELETE /")
    assert header(response, "server-timing") is None
    labels = {"route": "other", "method": "DELETE", "outcome": "ok"}
    assert requests(metrics) == [(labels, 1)]
    assert value(metrics, "dub5_http_time_to_first_byte_seconds_count", **labels) is None


@get("/v1/models/{name:str}")
async def model(name: FromPath[str]) -> str:
    return name


async def test_a_flood_of_junk_makes_no_new_series(serve: Serve) -> None:
    metrics = Metrics()
    app = Litestar([model], openapi_config=None, logging_config=None)
    methods = ["GET", "PROPFIND", "MKCOL", "REPORT", "TRACE", "SUBSCRIBE"]
    async with serve(TelemetryMiddleware(app, Recorder(metrics))) as port, connected(port) as client:
        for number in range(120):
            await client.send(f"{methods[number % 6]} /junk/{number}/.env?x={number}")
            head = await client.reader.readuntil(b"\r\n\r\n")
            length = header(head.decode(), "content-length")
            assert length is not None
            await client.reader.readexactly(int(length))
        for number in range(3):
            await client.send(f"GET /v1/models/m{number}")
            await client.reader.readuntil(f"m{number}".encode())
    assert {(labels["route"], labels["method"]) for labels, _ in requests(metrics)} == {
        ("/v1/models/{name}", "GET"),
        ("other", "GET"),
        ("other", "other"),
    }
    assert sum(count for _, count in requests(metrics)) == 123


async def test_no_request_that_the_parser_refuses_reaches_the_metrics(serve: Serve) -> None:
    metrics = Metrics()
    async with serve(TelemetryMiddleware(answering, Recorder(metrics))) as port:
        response = await ask(port, "JUNK-METHOD /")
    assert response.startswith("HTTP/1.1 400")
    assert requests(metrics) == []
