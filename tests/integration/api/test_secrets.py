"""A planted provider key and caller's key are looked for in everything that leaves the process, or is kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis
from redis.driver_info import DriverInfo

from dub5.admission.keys import parse_keys
from dub5.errors import ConfigError
from dub5.settings.loader import load
from testkit.http_server import FakeServer, raw, refuse, stream
from testkit.openai_server import FakeOpenAI, chunk, frame, say
from tests.harness import openai_provider, running

PROVIDER_KEY = "sk-planted-4f9a8b7c6d5e"
CALLER_KEY = "dub5-caller-1a2b3c4d"
REDIS_PASSWORD = "redis-planted-9e8d7c6b"  # planted
ENVIRONMENT = {
    "PROVIDER_KEY": PROVIDER_KEY,
    "KEYS": f"{hashlib.sha256(CALLER_KEY.encode()).hexdigest()}: {{tenant: acme, roles: [admin]}}",
}

SAYS_KEY = f"Incorrect API key provided: {PROVIDER_KEY}. You sent Authorization: Bearer {PROVIDER_KEY}"
REPLIES = [
    say("Hello"),
    say("Hello"),
    refuse(401, SAYS_KEY),
    refuse(400, f"Bad request by {PROVIDER_KEY}", param=PROVIDER_KEY),
    refuse(500, SAYS_KEY),
    stream(
        [frame(chunk({"content": "Hel"})), b'data: {"error": {"message": "' + SAYS_KEY.encode() + b'"}}\n\n']
    ),
    stream([frame(chunk({"content": "Hel"}))]),
]


def config(fake: FakeOpenAI, redis: str) -> dict[str, Any]:
    return {
        **openai_provider(fake.base_url, api_key={"env": "PROVIDER_KEY"}),
        "auth": {"keys": {"env": "KEYS"}},
        "redis": {"url": redis},
    }


async def test_no_key_is_in_any_answer_log_metric_or_store(fake: FakeOpenAI, redis: str) -> None:
    seen: list[str] = []
    async with running(config(fake, redis), ENVIRONMENT) as server:
        headers = {"authorization": f"Bearer {CALLER_KEY}"}
        for number, reply in enumerate(REPLIES):
            fake.reply = reply
            response = await server.chat(str(number), headers=headers, stream=number in {1, 5, 6})
            seen += [response.text, str(response.headers)]
        for path in ("/v1/models", "/v1/personalities", "/v1/cache", "/"):
            seen.append((await server.client.get(path, headers=headers)).text)
        seen.append((await server.client.get("/v1/models", headers={"authorization": "Bearer wrong"})).text)
        body, _ = await server.replica.application.metrics.exposition("")
        seen.append(body.decode())
        seen.append(str(server.logs))
        seen.append(repr(server.replica.application.settings))
        seen.append(repr(server.replica.application))
        seen.append(msgspec.json.encode(server.replica.application.settings, enc_hook=float).decode())
    assert [call.headers["authorization"] for call in fake.calls] == [f"Bearer {PROVIDER_KEY}"] * len(REPLIES)
    async with Redis.from_url(redis, driver_info=DriverInfo(lib_version="1")) as client:
        for key in await client.keys():
            seen += [repr(key), repr(await client.dump(key))]
    for text in seen:
        assert PROVIDER_KEY not in text
        assert CALLER_KEY not in text
        assert not re.search(r"sk-planted|4f9a8b7c", text)


async def test_a_key_that_cannot_be_used_is_not_repeated_when_the_start_fails() -> None:
    environment = {
        **os.environ,
        "DUB5_PROVIDERS__X__KIND": "openai",
        "DUB5_PROVIDERS__X__API_KEY": PROVIDER_KEY,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dub5", "serve"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    said, _ = await process.communicate()
    assert process.returncode == 1
    assert b"secrets are never inline" in said
    assert PROVIDER_KEY.encode() not in said


async def test_no_key_is_in_what_a_process_that_is_told_to_say_everything_says(
    fake: FakeOpenAI, redis: str, tmp_path: Path
) -> None:
    """Debug lines, also those of the libraries, spans, metrics, `config check`; the whole of what a start prints."""
    file = tmp_path / "dub5.yaml"
    async with FakeServer() as collector:
        written = config(fake, redis) | {"telemetry": {"log_level": "debug", "tracing": True}}
        written["redis"] |= {"username": "default", "password": {"env": "REDIS_PASSWORD"}}
        written["server"] = {"port": 0, "operations_port": 0}
        await asyncio.to_thread(file.write_text, json.dumps(written))
        environment = ENVIRONMENT | {
            "REDIS_PASSWORD": REDIS_PASSWORD,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        code, said = await run(environment, "config", "check", str(file))
        assert (code, b": good." in said) == (0, True)
        process = await begin(environment, "serve", "--config", str(file))
        assert process.stdout is not None
        announced = (await process.stdout.readline()).decode()
        url, operations = re.findall(r"http://[0-9.:]+", announced)
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            headers = {"authorization": f"Bearer {CALLER_KEY}"}
            for number, reply in enumerate([*REPLIES, raw(SAYS_KEY.encode())]):
                fake.reply = reply
                body = {"model": "small", "messages": [{"role": "user", "content": str(number)}]}
                await client.post("/v1/chat/completions", json=body, headers=headers)
            await client.get(
                f"/v1/models?key={CALLER_KEY}", headers={"authorization": f"Bearer {CALLER_KEY}x"}
            )
            metrics = await client.get(f"{operations}/metrics")
        await bad_request(url, f"GET / HTTP/1.1\r\nauthorization : Bearer {CALLER_KEY}\r\n\r\n")
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
        assert process.returncode == 0
    assert "dub5_redis_up 1.0" in metrics.text
    spans = b"".join(call.raw for call in collector.calls)
    assert b"gen_ai.request.model" in spans
    assert b'"reason":"malformed"' in out
    for text in (said, announced.encode(), out, metrics.content, spans):
        assert not re.search(rb"planted|4f9a8b7c|1a2b3c4d|9e8d7c6b", text)


async def bad_request(url: str, text: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode())
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def begin(environment: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dub5", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | environment,
    )


async def run(environment: dict[str, str], *arguments: str) -> tuple[int | None, bytes]:
    process = await begin(environment, *arguments)
    said, _ = await process.communicate()
    return process.returncode, said


INLINE = {
    "as the key": f"providers: {{x: {{kind: openai, api_key: {PROVIDER_KEY}}}}}",
    "under a name that is none": f"providers: {{x: {{kind: openai, apikey: {PROVIDER_KEY}}}}}",
    "as the name of its source": f"providers: {{x: {{kind: openai, api_key: {{value: {PROVIDER_KEY}}}}}}}",
    "in a list": f"providers: {{x: {{kind: openai, api_key: [{PROVIDER_KEY}]}}}}",
    "as all keys": f"auth: {{keys: {PROVIDER_KEY}}}",
    "in Redis's URL": f"redis: {{url: 'redis://user:{PROVIDER_KEY}@localhost:6379/0'}}",
    "as Redis's password": f"redis: {{url: 'redis://localhost', password: {PROVIDER_KEY}}}",
    "in YAML that is none": f"providers: {{x: {{api_key: {PROVIDER_KEY}",
    "after a tab": f"providers:\n\tapi_key: {PROVIDER_KEY}",
}


@pytest.mark.parametrize("text", INLINE.values(), ids=INLINE.keys())
def test_a_secret_in_the_wrong_place_of_the_file_is_not_repeated(text: str, tmp_path: Path) -> None:
    file = tmp_path / "dub5.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert not re.search("planted|4f9a8b7c", str(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        f"{CALLER_KEY}: {{tenant: acme}}",
        f"{CALLER_KEY}: {{tenant: acme}}\n{CALLER_KEY}: {{tenant: acme}}",
        f"{CALLER_KEY}",
        f"[{CALLER_KEY}]",
        f"{{{CALLER_KEY}: {{tenant: acme}}",
        f"{'a' * 64}: {{tenant: acme, key: {CALLER_KEY}}}",
        f"{'a' * 64}: {CALLER_KEY}",
    ],
)
def test_a_key_in_the_clear_in_the_keys_file_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_keys(text)
    assert CALLER_KEY not in str(caught.value)
