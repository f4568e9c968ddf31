"""`dub5 cache stats | invalidate | warm` against a running service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from dub5.cli.cache import read_questions
from dub5.errors import ConfigError
from testkit.http_server import FakeServer, raw
from testkit.openai_server import FakeOpenAI
from tests.harness import Running


async def cache(server: Running | FakeServer, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dub5", "cache", *arguments, "--url", server.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ},
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    lines = [
        {"question": "Who are you?", "model": "small", "answer": "The assistant of Acme.", "tags": ["about"]},
        {"question": "Opening hours?", "model": "small"},
        {"request": {"model": "small", "messages": [{"role": "user", "content": "Opening hours?"}]}},
        {"question": "Too much", "model": "unknown"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


async def test_warming_asks_and_stores_and_says_how_it_went(
    server: Running, fake: FakeOpenAI, questions: Path
) -> None:
    code, _, said = await cache(server, "warm", str(questions), "--rate", "1000")
    how_it_went, why = said.splitlines()
    assert (code, how_it_went) == (1, "4 of 4, 1 were there already, 1 failed")
    assert why.startswith("dub5: the first of them that failed, number 4: 404: ")
    assert len(fake.calls) == 1
    written = await server.chat("Who are you?", headers={"x-dub5-cache-tags": "about"}, stream=True)
    assert written.headers["cache-status"].startswith("dub5; hit")
    assert "Acme" in written.text
    assert (await server.chat("Opening hours?")).headers["cache-status"].startswith("dub5; hit")
    assert len(fake.calls) == 1


async def test_invalidating_by_tag_and_the_figures(server: Running, questions: Path) -> None:
    await cache(server, "warm", str(questions), "--rate", "1000")
    code, out, _ = await cache(server, "invalidate", "--tag", "about", "--tag", "else")
    assert (code, out) == (0, "Purged: tag:about, tag:else\n")
    again = await server.chat("Who are you?", headers={"x-dub5-cache-tags": "about"})
    assert again.headers["cache-status"].startswith("dub5; fwd=uri-miss")
    code, out, _ = await cache(server, "stats")
    assert code == 0
    assert json.loads(out)["classes"]["default"]["lookups"]["miss"] == 2


async def test_what_the_service_refuses_is_said_in_one_line(server: Running) -> None:
    code, _, said = await cache(server, "invalidate")
    assert (code, said) == (1, "dub5: 400: Say one of tags, personality, model, class, tenant, all.\n")


@pytest.mark.parametrize("option", ["--tag", "--personality", "--model", "--class", "--tenant"])
async def test_a_name_that_is_empty_is_refused_and_purges_nothing(server: Running, option: str) -> None:
    """Such as of a variable that is not set: more would be forgotten than was meant."""
    await server.chat("x")
    other = ["--tag", "else"] if option == "--tenant" else ["--tenant", "default"]
    code, _, said = await cache(server, "invalidate", *other, option, "")
    assert code == 1
    assert f"`{option.removeprefix('--')}" in said
    assert (await server.chat("x")).headers["cache-status"].startswith("dub5; hit")


@pytest.mark.parametrize(
    ("status", "said"), [("200 OK", "200, but {} is no DUB5"), ("307 Elsewhere", "307: no reason given")]
)
async def test_a_server_that_is_another_has_done_nothing(questions: Path, status: str, said: str) -> None:
    page = f"HTTP/1.1 {status}\r\nlocation: /\r\ncontent-length: 3\r\n\r\n<p>".encode()
    async with FakeServer() as other:
        other.reply = raw(page)
        for command in (["stats"], ["invalidate", "--tag", "prices"]):
            assert await cache(other, *command) == (1, "", f"dub5: {said.format(other.url)}\n")
        if status != "200 OK":  # of a completion nothing is read
            code, _, warmed = await cache(other, "warm", str(questions), "--rate", "1000")
            assert (code, warmed.splitlines()[0]) == (1, "4 of 4, 0 were there already, 4 failed")


@pytest.mark.parametrize(
    ("answer", "param"),
    [
        ({}, "answer.choices"),
        ({"choices": []}, "answer.choices"),
        (5, "answer"),
        ("x" * 300_000, "answer"),
        ({"choices": ["x"]}, "answer.choices[0]"),
        ({"choices": [{"message": "s", "finish_reason": "stop"}]}, "answer.choices[0].message"),
    ],
)
async def test_a_written_answer_in_error_names_the_field(server: Running, answer: object, param: str) -> None:
    request = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
    response = await server.client.post("/v1/cache/answers", json={"request": request, "answer": answer})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_whole_completion_may_be_written_but_not_for_a_request_that_is_never_cached(
    server: Running,
) -> None:
    request = {"model": "small", "messages": [{"role": "user", "content": "x"}]}
    message = {"role": "assistant", "content": "Written"}
    answer = {"id": "w", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    stored = await server.client.post("/v1/cache/answers", json={"request": request, "answer": answer})
    assert stored.json() == {"stored": True}
    assert (await server.chat("x")).json() == answer
    never = await server.client.post(
        "/v1/cache/answers", json={"request": {**request, "n": 2}, "answer": "x"}
    )
    assert (never.status_code, never.json()["error"]["param"]) == (400, "request")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", "line 2: not JSON"),
        ("[]", "line 2: must be an object"),
        ('{"question": "x"}', "line 2: needs `request`"),
        ('{"question": "x", "model": "m", "anser": "y"}', "line 2: needs `request`"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"question": "x", "model": "m", "tags": "prices"}', "line 2: `tags`"),
        ('{"question": "x", "model": "m", "tags": null}', "line 2: `tags`"),
        ('{"question": "x", "model": "m", "tags": [1]}', "line 2: `tags`"),
        ('{"question": "x", "model": "m", "tags": ["größe"]}', "line 2: `tags`"),
    ],
)
def test_a_line_in_error_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "good", "model": "m"}\n' + line)
    with pytest.raises(ConfigError, match=complaint):
        read_questions(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_questions(tmp_path / "missing")


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    """JSON has other ends of lines as they are in its texts."""
    path = tmp_path / "questions.jsonl"
    text = "one\u2028two\u0085three\u2029four"
    line = json.dumps({"question": text, "model": "m"}, ensure_ascii=False)
    path.write_bytes(f"{line}\r\n{line}".encode())
    assert [each["request"]["messages"][0]["content"] for each in read_questions(path)] == [text, text]
