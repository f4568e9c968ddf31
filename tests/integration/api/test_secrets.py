"""A planted provider key and caller's key are looked for in everything that leaves the process, or is kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from typing import Any

from redis.asyncio import Redis
from redis.driver_info import DriverInfo

from tests.fakes.openai_server import FakeOpenAI, chunk, frame, refuse, say, stream
from tests.harness import openai_provider, running

PROVIDER_KEY = "sk-planted-4f9a8b7c6d5e"
CALLER_KEY = "dub5-caller-1a2b3c4d"
ENVIRONMENT = {
    "PROVIDER_KEY": PROVIDER_KEY,
    "KEYS": f"{hashlib.sha256(CALLER_KEY.encode()).hexdigest()}: {{tenant: acme, roles: [admin]}}",
}

SAYS_KEY = f"Incorrect API key provided: {PROVIDER_KEY}. You sent Authorization: Bearer {PROVIDER_KEY}"
REPLIES = [
    say("Hello"),
    say("Hello"),
    refuse(401, SAYS_KEY),
    refuse(400, SAYS_KEY),
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
