"""`dub5 serve` as a process: how it starts, refuses to start, and leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from testkit.service import Service, announced
from testkit.wire import request
from tests.integration.cache.support import until

BODY = {
    "model": "assistant",
    "messages": [{"role": "user", "content": "Tell me something long"}],
    "stream": True,
}
ENVIRONMENT = {"DUB5_SERVER__PORT": "0", "DUB5_SERVER__OPERATIONS_PORT": "0", "DUB5_DRAIN__LINGER": "300ms"}
SLOW = {"DUB5_PROVIDERS__DEMO__KIND": "simulated", "DUB5_PROVIDERS__DEMO__TOKENS_PER_SECOND": "25"}


async def dub5(*arguments: str, environment: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dub5", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )


@contextlib.asynccontextmanager
async def serving(*options: str, environment: dict[str, str] | None = None) -> AsyncIterator[Service]:
    process = await dub5("serve", *options, environment={**ENVIRONMENT, **(environment or {})})
    try:
        yield await announced(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read_stream(
    client: httpx.AsyncClient, begun: asyncio.Event | None = None, question: str = ""
) -> str:
    body = {**BODY, "messages": [{"role": "user", "content": f"Tell me {question}"}]}
    text = ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        async for part in response.aiter_text():
            text += part
            if begun is not None:
                begun.set()
    return text


@pytest.mark.parametrize("linger", ["0s", "300ms"])
async def test_what_had_begun_to_come_is_answered_after_the_listener_has_closed(linger: str) -> None:
    """Under a head that is known, which is not parsed before all of the body is there."""
    async with serving(environment={"DUB5_DRAIN__LINGER": linger}) as server:
        host, port = httpx.URL(server.url).host, httpx.URL(server.url).port
        asked = request("a question", model="demo")
        reader, writer = await asyncio.open_connection(host, port)
        for sent in (asked, asked, asked + asked[:-20]):  # of the last one it has read both, when it answers
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(host, port))
        writer.write(asked[-20:])
        assert b" 200 " in await reader.readline()
        writer.close()


async def refuses(host: str, port: int | None) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_sigterm_lets_every_stream_end_and_exits_with_zero() -> None:
    async with (
        serving(environment=SLOW) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        begun = [asyncio.Event() for _ in range(20)]
        streams = [
            asyncio.create_task(read_stream(client, event, f"story {number}"))
            for number, event in enumerate(begun)
        ]
        await asyncio.gather(*(event.wait() for event in begun))
        server.process.send_signal(signal.SIGTERM)
        texts = await asyncio.gather(*streams)
        assert all(text.endswith("data: [DONE]\n\n") for text in texts)
        assert await server.process.wait() == 0


async def test_while_it_lingers_it_is_unready_but_answers_and_says_close() -> None:
    async with serving(environment={"DUB5_DRAIN__LINGER": "30s"}) as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=60) as client,
            httpx.AsyncClient(base_url=server.operations_url) as operations,
        ):
            assert (await operations.get("/readyz")).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(60):
                while (await operations.get("/readyz")).status_code == 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            response = await client.get("/v1/models")
            assert (response.status_code, response.headers["connection"]) == (200, "close")
            server.process.send_signal(signal.SIGTERM)  # the second one ends it now
        assert await server.process.wait() == 0


async def test_a_second_signal_ends_it_under_a_live_stream() -> None:
    endless = {**SLOW, "DUB5_PROVIDERS__DEMO__TOKENS_PER_SECOND": "0.01"}
    async with (
        serving(environment=endless) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
    ):
        begun = asyncio.Event()
        stream = asyncio.create_task(read_stream(client, begun))
        await begun.wait()
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):  # the stream itself would take hours
            assert await server.process.wait() == 0
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)


async def test_a_second_signal_tells_who_is_still_sending() -> None:
    async with serving() as server:
        host, port = httpx.URL(server.url).host, httpx.URL(server.url).port
        asked = request("a question", model="demo")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(asked + asked[:-20])
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(host, port))
        server.process.send_signal(signal.SIGTERM)
        status, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b" 503 " in status
        assert json.loads(body)["error"]["code"] == "overloaded"
        writer.close()
        assert await server.process.wait() == 0
        assert server.process.stdout is not None
        lines = [json.loads(line) for line in (await server.process.stdout.read()).splitlines()]
        assert [line for line in lines if line["level"] == "error"] == []


async def test_each_request_is_one_json_line_without_prompt_or_key() -> None:
    async with serving() as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            body = {"model": "assistant", "messages": [{"role": "user", "content": "my-secret-prompt"}]}
            await client.post(
                "/v1/chat/completions?q=my-secret-query",
                json=body,
                headers={"authorization": "Bearer my-secret-key"},
            )
        server.process.send_signal(signal.SIGINT)
        out, err = await server.process.communicate()
    lines = [json.loads(line) for line in out.splitlines()]
    [line] = [line for line in lines if line["event"] == "request"]
    assert (line["route"], line["outcome"], line["personality"], line["model"]) == (
        "/v1/chat/completions",
        "ok",
        "assistant",
        "demo",
    )
    assert line["cache"] == "dub5; fwd=uri-miss; stored"
    assert b"my-secret" not in out + err


async def run(
    arguments: Sequence[str], environment: dict[str, str] | None = None
) -> tuple[int | None, str, str]:
    process = await dub5(*arguments, environment=environment)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_an_open_address_without_keys_is_refused_with_the_sentence_that_fixes_it() -> None:
    code, _, said = await run(["serve"], {"DUB5_SERVER__HOST": "0.0.0.0"})
    assert code == 1
    assert "refusing to listen on 0.0.0.0 without keys" in said
    assert "auth.anonymous: true" in said


async def test_a_taken_port_is_said_in_one_line() -> None:
    async with serving() as server:
        port = server.url.rpartition(":")[2]
        code, _, said = await run(["serve"], {**ENVIRONMENT, "DUB5_SERVER__PORT": port})
    assert code == 1
    assert said.startswith(f"dub5: cannot listen on 127.0.0.1:{port}: ")
    assert said.count("\n") == 1


def test_a_good_and_a_bad_configuration_are_told_apart(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("server: {port: 1}\n")
    bad.write_text("sever: {port: 1}\n")
    assert asyncio.run(run(["config", "check", str(good)]))[0] == 0
    code, _, said = asyncio.run(run(["config", "check", str(bad)]))
    assert (code, said) == (1, "dub5: sever: unknown key; did you mean `server`?\n")


async def test_the_schema_is_printed() -> None:
    code, out, _ = await run(["config", "schema"])
    assert code == 0
    assert "$schema" in json.loads(out)


@pytest.mark.parametrize("command", [[], ["serve"], ["config"], ["config", "check"], ["config", "schema"]])
async def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    code, out, _ = await run([*command, "--help"])
    assert code == 0
    assert not command or "example:\n  dub5" in out
