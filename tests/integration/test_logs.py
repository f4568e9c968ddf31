"""One request followed through the log: across replicas, and to each call of a provider."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from dub5.telemetry.record import TraceContext
from testkit.anthropic_server import FakeAnthropic
from testkit.http_server import CLOSE, Call, Script, Wire, hang, refuse, stream, whole
from testkit.openai_server import FakeOpenAI, completion, frames
from tests.harness import Running, openai_provider, running
from tests.integration.cache.support import until
from tests.integration.test_process import serving
from tests.log_lines import decoded

TRACE_A, TRACE_B = "a" * 32, "b" * 32


def named(name: str, trace: str) -> dict[str, str]:
    """Headers of a request with ids of its own."""
    return {"x-request-id": name, "traceparent": f"00-{trace}-{'c' * 16}-01"}


def lines(replica: Running, event: str, **fields: Any) -> list[dict[str, Any]]:
    return [
        dict(line) for line in replica.logs if line["event"] == event and fields.items() <= dict(line).items()
    ]


def calls(replica: Running, **fields: Any) -> list[dict[str, Any]]:
    return lines(replica, "provider call", **fields)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_followers_id_leads_to_the_call_that_another_replica_made(
    fake: FakeOpenAI, redis: str, streamed: bool
) -> None:
    gate = asyncio.Event()

    async def slow(call: Call, wire: Wire) -> None:
        await gate.wait()
        headers = {"x-request-id": "req_of_provider"}
        script = (
            stream(frames("one"), headers=headers)
            if streamed
            else whole(completion({"content": "one"}), headers=headers)
        )
        await script(call, wire)

    fake.reply = slow
    shared = {**openai_provider(fake.base_url), "redis": {"url": redis}}
    async with running(shared) as a, running(shared) as b:  # in one process, so `b` hears the lines of both
        leads = asyncio.create_task(a.chat(headers=named("request-A", TRACE_A), stream=streamed))
        await fake.wait_called()
        follows = asyncio.create_task(b.chat(headers=named("request-B", TRACE_B), stream=streamed))
        await until(lambda: a.replica.application._flights.followers() == 2)
        joins = asyncio.create_task(b.chat(headers=named("request-C", TRACE_B), stream=streamed))
        await until(lambda: b.replica.application._flights.followers() == 2)
        gate.set()
        responses = await asyncio.gather(leads, follows, joins)
        assert [response.status_code for response in responses] == [200, 200, 200]
        await until(lambda: len(lines(b, "request")) == 3)
        for name in ("request-B", "request-C"):
            [of_follower] = lines(b, "request", request_id=name)
            assert of_follower["cache"] == "dub5; fwd=uri-miss; collapsed"
            assert of_follower["trace_id"] == TRACE_B
            leader = of_follower["leader_request_id"], of_follower["leader_trace_id"]
            assert leader == ("request-A", TRACE_A)
        [of_leader] = lines(b, "request", request_id="request-A")
        assert "leader_request_id" not in of_leader
        [call] = calls(b)
    assert (call["request_id"], call["trace_id"]) == ("request-A", TRACE_A)
    assert (call["provider_request_id"], call["outcome"], call["status"]) == ("req_of_provider", "ok", 200)


async def test_a_follower_of_a_call_that_fails_finds_it_too(fake: FakeOpenAI, redis: str) -> None:
    gate = asyncio.Event()

    async def fails(call: Call, wire: Wire) -> None:
        await gate.wait()
        await refuse(401, "No such key")(call, wire)

    fake.reply = fails
    shared = {**openai_provider(fake.base_url), "redis": {"url": redis}}
    async with running(shared) as a, running(shared) as b:
        leads = asyncio.create_task(a.chat(headers=named("request-A", TRACE_A)))
        await fake.wait_called()
        follows = asyncio.create_task(b.chat(headers=named("request-B", TRACE_B)))
        await until(lambda: a.replica.application._flights.followers() == 2)
        gate.set()
        assert [(await each).status_code for each in (leads, follows)] == [502, 502]
        await until(lambda: len(lines(b, "request")) == 2)
        [of_follower] = lines(b, "request", request_id="request-B")
        assert of_follower["leader_request_id"] == "request-A"
        [of_leader] = lines(b, "request", request_id="request-A")
        assert "leader_request_id" not in of_leader
        assert [call["status"] for call in calls(b, request_id="request-A")] == [401]


async def test_a_lone_leader_and_a_hit_name_no_other(fake: FakeOpenAI, redis: str) -> None:
    async with running({**openai_provider(fake.base_url), "redis": {"url": redis}}) as server:
        await server.chat()
        await server.chat()
        await until(lambda: len(lines(server, "request")) == 2)
        assert [line for line in lines(server, "request") if "leader_request_id" in line] == []
        assert len(calls(server)) == 1


async def test_who_takes_over_from_a_lost_leader_leads_itself(fake: FakeOpenAI, redis: str) -> None:
    async def first_never(call: Call, wire: Wire) -> None:
        if call.headers["x-request-id"] == "request-A":
            await hang()(call, wire)
        else:
            await whole(completion({"content": "taken over"}))(call, wire)

    fake.reply = first_never
    shared = {**openai_provider(fake.base_url), "redis": {"url": redis}}
    async with running(shared) as a, running(shared) as b:
        asking = asyncio.create_task(a.chat(headers=named("request-A", TRACE_A)))
        await fake.wait_called()
        follows = asyncio.create_task(b.chat(headers=named("request-B", TRACE_B)))
        await until(lambda: a.replica.application._flights.followers() == 2)
        a.replica.application.abandon()
        assert (await follows).status_code == 200
        await until(lambda: bool(lines(b, "request", request_id="request-B")))
        [line] = lines(b, "request", request_id="request-B")
        assert "leader_request_id" not in line
        assert calls(b, request_id="request-B", outcome="ok")
        await asyncio.gather(asking, return_exceptions=True)


async def test_the_provider_is_given_our_ids_and_its_own_is_logged(fake: FakeOpenAI, server: Running) -> None:
    fake.reply = whole(completion({"content": "hello"}), headers={"x-request-id": "req_123"})
    await server.chat(headers=named("request-A", TRACE_A))
    [call], [asked] = calls(server), fake.calls
    assert asked.headers["x-request-id"] == "request-A"
    passed_on = TraceContext.parse(asked.headers["traceparent"].encode())
    assert passed_on is not None
    assert (passed_on.trace_id, passed_on.parent_id) == (TRACE_A, call["span_id"])
    durations = call.pop("duration_ms")
    assert durations["total"] > 0
    assert call == {
        "event": "provider call",
        "log_level": "info",
        "request_id": "request-A",
        "trace_id": TRACE_A,
        "span_id": call["span_id"],
        "provider": "fake",
        "model": "small",
        "upstream_model": "gpt-small",
        "attempt": 1,
        "outcome": "ok",
        "status": 200,
        "provider_request_id": "req_123",
    }


async def test_anthropic_says_its_id_in_a_header_of_another_name() -> None:
    async with FakeAnthropic() as fake:
        written = {
            "providers": {"claude": {"kind": "anthropic", "base_url": fake.url}},
            "models": {"small": {"routes": ["claude/claude-x"]}},
        }
        fake.reply = refuse(529, "Overloaded", headers={"request-id": "req_claude"})
        async with running(written) as server:
            await server.chat()
            assert {call["provider_request_id"] for call in calls(server)} == {"req_claude"}


async def test_every_line_of_a_process_fits_the_schema(fake: FakeOpenAI, tmp_path: Path) -> None:
    """From its start to its end: requests, refusals, a provider that fails, a fallback, Redis away."""
    async with FakeOpenAI() as other:
        fake.replies = [refuse(500, "Out of order")]
        written = {
            "providers": {
                "one": {"kind": "openai", "base_url": fake.base_url},
                "two": {"kind": "openai", "base_url": other.base_url},
            },
            "models": {"small": {"routes": ["one/gpt-a", "two/gpt-b"]}},
            "redis": {"url": "redis://127.0.0.1:1"},
            "telemetry": {"log_level": "debug"},
        }
        await asyncio.to_thread((tmp_path / "dub5.json").write_text, json.dumps(written))
        async with serving("--config", str(tmp_path / "dub5.json")) as server:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                body = {"model": "small", "messages": [{"role": "user", "content": PROMPT}]}
                for fields in ({}, {}, {"stream": True}, {"model": "nobody"}, {"messages": 1}):
                    await client.post("/v1/chat/completions", json={**body, **fields})
                await client.get("/v1/models")
                await client.get("/nowhere")
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
            writer.write(b"this is no HTTP\r\n\r\n")
            await reader.read()
            writer.close()
            server.process.send_signal(signal.SIGTERM)
            out, _ = await server.process.communicate()
    found = decoded(out.splitlines())
    assert PROMPT not in out.decode()
    events = [line["event"] for line in found]
    assert (events[0], events[-1]) == ("started", "stopped")
    assert {"redis unavailable", "connection refused", "draining"} <= set(events)
    outcomes = {line["outcome"] for line in found if line["event"] == "request"}
    assert outcomes == {"ok", "client_error"}
    made = [(line["provider"], line["outcome"]) for line in found if line["event"] == "provider call"]
    assert made[:2] == [("one", "error"), ("two", "ok")]


PROMPT = "a prompt that is nobody's business"
TROUBLES: list[tuple[Script, dict[str, Any]]] = [
    (
        refuse(500, f"I choked on {PROMPT}", headers={"x-request-id": "req_bad"}),
        {
            "outcome": "error",
            "status": 500,
            "provider_request_id": "req_bad",
            "trouble": "The provider one answered with status 500.",
        },
    ),
    (refuse(429, "Slow down"), {"outcome": "limited", "status": 429}),
    (
        whole({"error": {"message": f"I choked on {PROMPT}"}}),
        {"outcome": "error", "status": 200, "trouble": "The provider one reported an error."},
    ),
    (stream([CLOSE]), {"outcome": "error", "status": 200}),
]


@pytest.mark.parametrize(("reply", "expected"), TROUBLES)
async def test_a_call_that_failed_is_a_warning_and_the_next_one_says_why_it_was_made(
    fake: FakeOpenAI, reply: Script, expected: dict[str, Any]
) -> None:
    async with FakeOpenAI() as other:
        fake.reply = reply
        written = {
            "providers": {
                "one": {"kind": "openai", "base_url": fake.base_url},
                "two": {"kind": "openai", "base_url": other.base_url},
            },
            "models": {"small": {"routes": ["one/gpt-a", "two/gpt-b"]}},
        }
        async with running(written) as server:
            assert (await server.chat(PROMPT, headers=named("request-A", TRACE_A))).status_code == 200
            first, second = calls(server, request_id="request-A")
            assert PROMPT not in str(server.logs)
    assert (first["log_level"], first["attempt"], first["provider"]) == ("warning", 1, "one")
    assert "attempt_reason" not in first
    assert expected.items() <= first.items()
    assert (second["log_level"], second["attempt"], second["provider"]) == ("info", 2, "two")
    assert (second["attempt_reason"], second["outcome"], second["status"]) == ("fallback", "ok", 200)


async def test_a_callers_own_mistake_is_no_warning(fake: FakeOpenAI, server: Running) -> None:
    fake.reply = refuse(400, f"Bad: {PROMPT}")
    assert (await server.chat(PROMPT)).status_code == 400
    [call] = calls(server)
    assert (call["log_level"], call["outcome"], call["status"]) == ("info", "refused", 400)
    assert PROMPT not in str(server.logs)


@pytest.mark.parametrize("odd", ["two words", "x" * 129, "caf\u00e9"])
async def test_an_id_that_does_not_fit_into_a_line_is_left_out(
    fake: FakeOpenAI, server: Running, odd: str
) -> None:
    fake.reply = whole(completion({"content": "hello"}), headers={"x-request-id": odd})
    await server.chat()
    [call] = calls(server)
    assert "provider_request_id" not in call


async def test_a_refresh_behind_a_hit_is_told_apart(fake: FakeOpenAI) -> None:
    stale = {"ttl": "1ms", "stale_while_revalidate": "1h"}
    async with running(
        {**openai_provider(fake.base_url), "cache": {"classes": {"default": stale}}}
    ) as server:
        await server.chat(headers=named("request-A", TRACE_A))
        hit = await server.chat(headers=named("request-B", TRACE_B))
        assert re.match("dub5; hit", hit.headers["cache-status"])
        await until(lambda: len(calls(server)) == 2)
        first, refresh = calls(server)
    assert "background" not in first
    assert (refresh["background"], refresh["request_id"]) == (True, "request-B")
