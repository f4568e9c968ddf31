"""The scripts of public reports that were tried: each value that was wrong, and whether it is right.

One replica before a provider that answers by its path; a second one with rate limits, for what obeying Retry-After
gives. What is asked is what the scripts asked; where they waited for a breaker, so does this.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import time
from collections import Counter
from typing import Any

import aiohttp
import msgspec

from benchmarks.figures import Figure, progress
from benchmarks.providers.fake import Fake, Json, Reply, Step, events, fake, whole
from benchmarks.providers.odd import ODD
from benchmarks.providers.odd.answer import Said, Tool
from benchmarks.providers.odd.anthropic import START, message
from benchmarks.providers.odd.openai import (
    CALLED,
    DONE,
    ROLE,
    STOP,
    USAGE,
    bare,
    call,
    calls,
    chunk,
    completion,
    event,
    say,
)
from benchmarks.providers.readers import Answer, Read, tolerant
from testkit.client import client
from testkit.service import configuration, replicas

_SAY = ROLE + say("hello") + STOP
_CLAUDE = message([{"type": "text", "text": "hello"}])
_CALLED = CALLED + DONE
_OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}
THINKS = 6.0
"""Seconds of silence."""


class Stream(msgspec.Struct, frozen=True):
    """What a provider streams, and what a tolerant client reads live, and the next one; None: an error."""

    parts: tuple[bytes | Step, ...]
    says: Said | None


def _tools(*each: tuple[str, str, str]) -> Said:
    return Said(calls=tuple(Tool(*one) for one in each), finish="tool_calls")


_ONE, _HELLO = _tools(("call_1", "f", '{"a":1}')), Said("hello")
_PIECES = ('{"a":', "1}")
STREAMS = {
    "ok": Stream((_SAY + DONE,), _HELLO),
    "qwen": Stream(
        (
            ROLE,
            calls(call(0, "call_1", "f", "")),
            *(calls(call(0, "", arguments=part)) for part in _PIECES),
            _CALLED,
        ),
        _ONE,
    ),
    "sameindex": Stream(
        (ROLE, calls(call(0, "call_1", "f", '{"a":1}')), calls(call(0, "call_2", "g", '{"b":2}')), _CALLED),
        _tools(("call_1", "f", '{"a":1}'), ("call_2", "g", '{"b":2}')),
    ),
    "noindex": Stream(
        (
            ROLE,
            calls(call(..., "call_1", "f", "")),
            *(calls(call(arguments=part)) for part in _PIECES),
            _CALLED,
        ),
        _ONE,
    ),
    "nullindex": Stream((ROLE, calls(call(None, "call_1", "f", '{"a":1}')), _CALLED), _ONE),
    "bom": Stream(
        (b"\xef\xbb\xbf" + event(chunk({"role": "assistant", "content": "hello"})), STOP + DONE),
        _HELLO,
    ),
    "choicesnull": Stream((_SAY, bare(choices=None, usage=USAGE), DONE), _HELLO),
    "surrogate": Stream(ODD["an emoji cut in two escapes"].stream or (), Said("a\U0001f600")),
    "rolethenerror": Stream((ROLE, event({"error": _OVERLOADED})), None),
    "finishempty": Stream((say("hel", ""), say("lo, I was cut", "")), None),
}
STATUS = {
    "s429": (429, {"error": {"message": "slow down"}}, {"retry-after": "7"}),
    "s404": (404, {"error": {"message": "No endpoints found that support image input"}}, {}),
    "s500": (500, {"error": {"message": "boom"}}, {}),
    "ctx": (
        400,
        {
            "error": {
                "message": "too long",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
        {},
    ),
    "listed": (
        400,
        [{"error": {"code": 400, "message": "Gemini says no", "status": "INVALID_ARGUMENT"}}],
        {},
    ),
    "detail": (422, {"detail": [{"loc": ["body", "x"], "msg": "field required"}]}, {}),
}
_LATER = 100
"""Seconds of the Retry-After that is a date."""


class Seen:
    """What the provider was sent."""

    def __init__(self) -> None:
        self.bodies: list[Json] = []

    async def answer(self, _: str, body: Json) -> Reply:
        self.bodies.append(body)
        name = body["model"]
        if name == "s429date":
            date = email.utils.formatdate(time.time() + _LATER, usegmt=True)
            return Reply((b'{"error": {"message": "slow down"}}',), 429, {"retry-after": date})
        if name in STATUS:
            status, data, headers = STATUS[name]
            return Reply((msgspec.json.encode(data),), status, headers)
        if name == "slow":
            await asyncio.sleep(THINKS)
        if name == "message_start":
            return events(START, b"event: error\n" + event({"type": "error", "error": _OVERLOADED}))
        if body.get("stream"):
            return events(*STREAMS[name if name in STREAMS else "ok"].parts)
        claude = "max_tokens" in body and "claude" in name
        return whole(_CLAUDE if claude else completion({"role": "assistant", "content": "hello"}))


class Got(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> Json:
        found: Json = json.loads(self.body).get("error") or {}
        return found

    def read(self, *, streamed: bool) -> Read:
        return tolerant(Answer(self.body, streamed))


class Script:
    """One replica, and what it is asked."""

    def __init__(self, session: aiohttp.ClientSession, url: str, seen: Seen) -> None:
        self.session, self.url, self.seen = session, url, seen

    async def ask(self, model: str, *, stream: bool = False, fresh: bool = False, **more: Any) -> Got:
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "q"}], **more}
        headers = {"cache-control": "no-cache"} if fresh else {}
        async with self.session.post(
            f"{self.url}/v1/chat/completions", json=body, headers=headers
        ) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            return Got(response.status, found, await response.read())

    async def sent(self, model: str, **more: Any) -> Json:
        """The body of the provider's call."""
        self.seen.bodies.clear()
        got = await self.ask(model, fresh=True, **more)
        return self.seen.bodies[-1] if self.seen.bodies else {"status": got.status, "error": got.error}


def settings(url: str, **sections: Any) -> dict[str, Any]:
    names = [*STREAMS, *STATUS, "s429date", "slow"]

    def openai(path: str = "", **more: Any) -> Json:
        return {"kind": "openai", "base_url": f"{url}/{path or 'any'}/v1", **more}

    claude = {"kind": "anthropic", "base_url": f"{url}/claude"}
    azure = f"{url}/openai/deployments/d?api-version=2024-10-21"
    return configuration(
        url,
        None,
        **sections,
        providers={
            **{f"p-{name}": openai() for name in names},
            **{name: openai() for name in ("good", "shared", "other", "down")},
            **dict.fromkeys(("claude", "claude2"), claude),
            "azure": {"kind": "openai", "base_url": azure},
        },
        models={
            **{name: {"routes": [f"p-{name}/{name}"]} for name in names},
            "busy": {"routes": ["shared/s429"]},
            "fine": {"routes": ["shared/ok"]},
            "gone": {"routes": ["other/s404"]},
            "well": {"routes": ["other/ok"]},
            "fb-role": {"routes": ["p-rolethenerror/rolethenerror", "good/ok"]},
            "fb-claude": {"routes": ["claude2/message_start", "good/ok"]},
            "fb-ctx": {"routes": ["p-ctx/ctx", "good/ok"]},
            "flip": {"routes": ["down/s500", "claude/claude"]},
            "mix": {"routes": ["claude/claude", "good/ok"]},
            "claude": {"routes": ["claude/claude"]},
            "azure": {"routes": ["azure/ok"]},
        },
        personalities={"pirate": {"system": "You are a pirate.", "model": "claude", "temperature": 0.9}},
    )


async def measure() -> list[Figure]:
    seen = Seen()
    figures: list[Figure] = []
    async with client(timeout=60) as asking, fake(seen.answer) as provider:
        async with replicas(1, settings(provider.url)) as [service]:
            script = Script(asking.session, service.url, seen)
            for part in (replay, breaker, prefix, flip, errors, anthropic, rest):
                progress(f"findings: {part.__name__}")
                figures += await part(script, provider)
        figures += await silence(asking.session, provider.url)
    progress("findings: obeying Retry-After")
    return [*figures, await obeying()]


async def replay(script: Script, _: Fake) -> list[Figure]:
    figures = []
    for name, stream in STREAMS.items():
        live, next_ = await script.ask(name, stream=True), await script.ask(name)
        if stream.says is None:
            bad = b'"error"' in live.body and b"[DONE]" not in live.body
            figures.append(
                Figure(
                    f"replay {name}",
                    "an error, and nothing is kept",
                    f"live {'an error' if bad else live.body[-80:].decode()}, next {next_.headers.get('cache-status')}",
                    bad and "; hit" not in next_.headers.get("cache-status", ""),
                )
            )
            continue
        reads = [live.read(streamed=True), next_.read(streamed=False)]
        right = [read.means([stream.says]) for read in reads]
        cache = next_.headers.get("cache-status")
        what = stream.says.content or " ".join(
            f"{one.id} {one.name} {one.arguments}" for one in stream.says.calls
        )
        figures.append(
            Figure(
                f"replay {name}",
                f"`{what}`, live and next",
                f"live {_seen(reads[0], right[0])}, next {_seen(reads[1], right[1])}, {cache}",
                all(right),
            )
        )
    return figures


def _seen(read: Read, right: bool) -> str:
    return "right" if right else f"`{read.error or read.choices}`"


async def breaker(script: Script, _: Fake, *, pause: float = 0.25) -> list[Figure]:
    """`pause` seconds between two questions: all of them in the breaker's window, and some of its pauses."""
    status = (await script.ask("busy")).status
    fine = Counter([(await script.ask("fine", fresh=True)).status for _ in range(14)])
    beside: Counter[int] = Counter()
    for _number in range(40):
        await script.ask("gone", fresh=True)
        beside[(await script.ask("well", fresh=True)).status] += 1
        await asyncio.sleep(pause)
    return [
        Figure(
            "breaker: after one 429 with Retry-After of `busy`, `fine` of the same provider",
            "14 of 14 answered",
            f"busy {status}; fine {dict(fine)}",
            fine[200] == 14,
        ),
        Figure(
            "breaker: half of the calls go to a model that is 404, half to a healthy one",
            "40 of 40 answered",
            str(dict(beside)),
            beside[200] == 40,
        ),
    ]


async def prefix(script: Script, _: Fake) -> list[Figure]:
    figures = []
    for name in ("fb-role", "fb-claude"):
        read = (await script.ask(name, stream=True)).read(streamed=True)
        right = read.means([_HELLO])
        figures.append(
            Figure(
                f"prefix {name}: overloaded behind the preamble",
                "the second route's answer",
                _seen(read, right),
                right,
            )
        )
    return figures


async def flip(script: Script, _: Fake) -> list[Figure]:
    down, mix = await script.ask("flip", n=2), await script.ask("mix", n=2)
    return [
        Figure(
            "flip: `n: 2`, the first route 500, the second cannot",
            "the outage: 502",
            f"{down.status} {down.error.get('message')}",
            down.status == 502,
        ),
        Figure(
            "mix: `n: 2`, the first route cannot, the second is well",
            "200",
            f"{mix.status}",
            mix.status == 200,
        ),
    ]


async def errors(script: Script, _: Fake) -> list[Figure]:
    figures = []
    for name, status, code, words in (
        ("ctx", 400, "context_length_exceeded", "too long"),
        ("fb-ctx", 400, "context_length_exceeded", "too long"),
        ("listed", 400, None, "Gemini says no"),
        ("detail", 422, None, "field required"),
    ):
        got = await script.ask(name)
        error = got.error
        right = (
            got.status == status and words in str(error.get("message")) and code in {None, error.get("code")}
        )
        figures.append(
            Figure(
                f"errors {name}",
                f'{status} {code or ""} "{words}"',
                f'{got.status} {error.get("code")} "{error.get("message")}"',
                right,
            )
        )
    got = await script.ask("s429date")
    after = int(got.headers.get("retry-after", 0))
    right = (got.status, got.error.get("code")) == (
        429,
        "rate_limit_exceeded",
    ) and _LATER - 5 <= after <= _LATER + 1
    figures.append(
        Figure(
            "errors s429date",
            f"429 rate_limit_exceeded, Retry-After {_LATER}",
            f"{got.status} {got.error.get('code')}, Retry-After {after}",
            right,
        )
    )
    return figures


async def anthropic(script: Script, _: Fake) -> list[Figure]:
    mark = {"cache_control": {"type": "ephemeral"}}
    both = await script.sent("pirate", top_p=1)
    marked = await script.sent(
        "pirate",
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": str(number), **mark} for number in range(4)],
            }
        ],
    )
    thinking = await script.sent("claude", thinking={"type": "enabled", "budget_tokens": 8000})
    blank = await script.sent(
        "claude",
        messages=[
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "\n"},
            {"role": "user", "content": "b"},
        ],
    )
    untyped = await script.sent(
        "claude",
        tools=[
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}},
            }
        ],
    )
    marks = json.dumps(marked).count('"cache_control"')
    limit = thinking.get("max_tokens", 0)
    blanks = re.findall(r'"text": "\s*"', json.dumps(blank).replace("\\n", " "))
    schema = (untyped.get("tools") or [{}])[0].get("input_schema", {})
    return [
        Figure(
            "anthropic: a client's top_p, a personality's temperature",
            "top_p alone",
            str({name: both.get(name) for name in ("top_p", "temperature")}),
            "top_p" in both and "temperature" not in both,
        ),
        Figure("anthropic: a client's four marks and ours", "at most 4", f"{marks}", 0 < marks <= 4),
        Figure(
            "anthropic: thinking with a budget of 8000, no max_tokens",
            "max_tokens above it",
            f"max_tokens {limit}",
            limit > 8000,
        ),
        Figure(
            "anthropic: a blank text",
            "none",
            f"{len(blanks)} in {json.dumps(blank.get('messages'))}",
            "messages" in blank and not blanks,
        ),
        Figure(
            "anthropic: parameters without type",
            "type object",
            json.dumps(schema),
            schema.get("type") == "object",
        ),
    ]


async def rest(script: Script, provider: Fake) -> list[Figure]:
    provider.paths.clear()
    await script.ask("azure")
    path = provider.paths[-1] if provider.paths else "no call"
    right = "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    sent = (
        await script.sent(
            "ok", stream=True, stream_options={"include_usage": True, "include_obfuscation": False}
        )
    ).get("stream_options")
    return [
        Figure("rest: Azure's classic address", f"`{right}`", f"`{path}`", path == right),
        Figure(
            "rest: stream_options sent on",
            "include_obfuscation too",
            json.dumps(sent),
            sent == {"include_usage": True, "include_obfuscation": False},
        ),
    ]


async def silence(session: aiohttp.ClientSession, url: str) -> list[Figure]:
    """A heartbeat of a second, since a provider that thinks for half a minute would take as long."""
    what = f"rest: a provider that thinks for {THINKS:.0f} s, heartbeat 1 s: the first byte"
    try:
        async with replicas(1, settings(url, server={"heartbeat": "1s"})) as [service]:
            body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "q"}]}
            began = time.monotonic()
            async with session.post(f"{service.url}/v1/chat/completions", json=body) as response:
                first = await response.content.readany()
                took = time.monotonic() - began
                answer = Answer(first + await response.content.read(), streamed=True)
            right = took < THINKS / 2 and tolerant(answer).means([_HELLO])
            return [
                Figure(
                    what,
                    f"before {THINKS / 2:.0f} s, then the answer",
                    f"after {took:.1f} s: `{first[:20].decode()!r}`",
                    right,
                )
            ]
    except RuntimeError as refused:
        return [Figure(what, "before 3 s", str(refused)[:150].replace("\n", " "), False)]


async def obeying() -> Figure:
    """Who waits as long as Retry-After says is not refused again."""
    again, told = 0, []
    settings = {"limits": {"default": {"requests_per_minute": 20}}}
    async with client() as asking, replicas(1, settings) as [service]:
        script = Script(asking.session, service.url, Seen())
        for _ in range(4):
            while (await script.ask("demo")).status == 200:
                pass
            await asyncio.sleep(0.37)
            got = await script.ask("demo")
            if got.status != 429:
                continue
            after = int(got.headers["retry-after"])
            told.append(f"{got.error['message'].rpartition('in ')[2]} -> {after}")
            await asyncio.sleep(after)
            again += (await script.ask("demo")).status == 429
    return Figure(
        "clients: callers that wait as long as Retry-After says",
        "0 refused again",
        f"{again} of {len(told)} ({', '.join(told)})",
        bool(told) and again == 0,
    )
