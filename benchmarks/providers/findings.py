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
from benchmarks.providers.answers import DATA, HELLO, completion, part, said, stream
from benchmarks.providers.fake import Fake, Json, Reply, events, fake, whole
from benchmarks.providers.readers import Answer, Read, tolerant
from testkit.client import client
from testkit.service import configuration, replicas

STREAMS: dict[str, Json] = DATA["streams"]
REFUSALS: dict[str, list[Any]] = DATA["refusals"]
THINKS, LATER = 6.0, 100
"""Seconds of silence; of the Retry-After that is a date."""


class Seen:
    """What the provider was sent."""

    def __init__(self) -> None:
        self.bodies: list[Json] = []

    async def answer(self, _: str, body: Json) -> Reply:
        self.bodies.append(body)
        name = body["model"]
        if name == "s429date":
            date = email.utils.formatdate(time.time() + LATER, usegmt=True)
            return whole({"error": {"message": "slow down"}}, 429, retry_after=date)
        if name in REFUSALS:
            status, data, *headers = REFUSALS[name]
            return Reply((msgspec.json.encode(data),), status, *headers)
        if name == "slow":
            await asyncio.sleep(THINKS)
        if name == "message_start":
            return events(part("a start"), part("overloaded"))
        if body.get("stream"):
            return events(*stream(STREAMS.get(name, STREAMS["ok"])["stream"]))
        if "max_tokens" in body and "claude" in name:
            return Reply((part("a whole"),))
        return whole(completion({"role": "assistant", "content": "hello"}))


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
        address = f"{self.url}/v1/chat/completions"
        async with self.session.post(address, json=body, headers=headers) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            return Got(response.status, found, await response.read())

    async def sent(self, model: str, **more: Any) -> Json:
        """The body of the provider's call."""
        self.seen.bodies.clear()
        got = await self.ask(model, fresh=True, **more)
        return self.seen.bodies[-1] if self.seen.bodies else {"status": got.status, "error": got.error}


def settings(url: str, **sections: Any) -> dict[str, Any]:
    names = [*STREAMS, *REFUSALS, "s429date", "slow"]
    openai = {"kind": "openai", "base_url": f"{url}/any/v1"}
    claude = {"kind": "anthropic", "base_url": f"{url}/claude"}
    azure = {"kind": "openai", "base_url": f"{url}/openai/deployments/d?api-version=2024-10-21"}
    routes = {
        "busy": "shared/s429",
        "fine": "shared/ok",
        "gone": "other/s404",
        "well": "other/ok",
        "fb-role": "p-rolethenerror/rolethenerror good/ok",
        "fb-claude": "claude2/message_start good/ok",
        "fb-ctx": "p-ctx/ctx good/ok",
        "flip": "down/s500 claude/claude",
        "mix": "claude/claude good/ok",
        "claude": "claude/claude",
        "azure": "azure/ok",
        **{name: f"p-{name}/{name}" for name in names},
    }
    providers = dict.fromkeys([*(f"p-{name}" for name in names), "good", "shared", "other", "down"], openai)
    return configuration(
        url,
        None,
        **sections,
        providers={**providers, "claude": claude, "claude2": claude, "azure": azure},
        models={name: {"routes": each.split()} for name, each in routes.items()},
        personalities={"pirate": {"system": "You are a pirate.", "model": "claude", "temperature": 0.9}},
    )


async def measure() -> list[Figure]:
    seen = Seen()
    figures: list[Figure] = []
    async with client(timeout=60) as asking, fake(seen.answer) as provider:
        async with replicas(1, settings(provider.url)) as [service]:
            script = Script(asking.session, service.url, seen)
            for each in (replay, breaker, prefix, flip, errors, anthropic, rest):
                progress(f"findings: {each.__name__}")
                figures += await each(script, provider)
        figures += await silence(asking.session, provider.url)
    progress("findings: obeying Retry-After")
    return [*figures, await obeying()]


async def replay(script: Script, _: Fake) -> list[Figure]:
    figures = []
    for name, each in STREAMS.items():
        live, next_ = await script.ask(name, stream=True), await script.ask(name)
        cache = next_.headers.get("cache-status", "")
        if "says" not in each:
            bad = b'"error"' in live.body and b"[DONE]" not in live.body
            measured = f"live {'an error' if bad else live.body[-80:].decode()}, next {cache}"
            bar = "an error, and nothing is kept"
            figures.append(Figure(f"replay {name}", bar, measured, bad and "; hit" not in cache))
            continue
        says = said(each["says"])
        reads = [live.read(streamed=True), next_.read(streamed=False)]
        shown = [_seen(read, read.means(says)) for read in reads]
        calls = " ".join(f"{one.id} {one.name} {one.arguments}" for one in says[0].calls)
        measured = f"live {shown[0]}, next {shown[1]}, {cache}"
        good = all(read.means(says) for read in reads)
        figures.append(
            Figure(f"replay {name}", f"`{says[0].content or calls}`, live and next", measured, good)
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
    first = "breaker: after one 429 with Retry-After of `busy`, `fine` of the same provider"
    second = "breaker: half of the calls go to a model that is 404, half to a healthy one"
    return [
        Figure(first, "14 of 14 answered", f"busy {status}; fine {dict(fine)}", fine[200] == 14),
        Figure(second, "40 of 40 answered", str(dict(beside)), beside[200] == 40),
    ]


async def prefix(script: Script, _: Fake) -> list[Figure]:
    figures = []
    for name in ("fb-role", "fb-claude"):
        read = (await script.ask(name, stream=True)).read(streamed=True)
        right = read.means(HELLO)
        what = f"prefix {name}: overloaded behind the preamble"
        figures.append(Figure(what, "the second route's answer", _seen(read, right), right))
    return figures


async def flip(script: Script, _: Fake) -> list[Figure]:
    down, mix = await script.ask("flip", n=2), await script.ask("mix", n=2)
    first = "flip: `n: 2`, the first route 500, the second cannot"
    second = "mix: `n: 2`, the first route cannot, the second is well"
    return [
        Figure(first, "the outage: 502", f"{down.status} {down.error.get('message')}", down.status == 502),
        Figure(second, "200", f"{mix.status}", mix.status == 200),
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
        message, given = str(got.error.get("message")), got.error.get("code")
        right = got.status == status and words in message and code in {None, given}
        measured = f'{got.status} {given} "{message}"'
        figures.append(Figure(f"errors {name}", f'{status} {code or ""} "{words}"', measured, right))
    got = await script.ask("s429date")
    code, after = got.error.get("code"), int(got.headers.get("retry-after", 0))
    right = (got.status, code) == (429, "rate_limit_exceeded") and LATER - 5 <= after <= LATER + 1
    bar = f"429 rate_limit_exceeded, Retry-After {LATER}"
    return [*figures, Figure("errors s429date", bar, f"{got.status} {code}, Retry-After {after}", right)]


async def anthropic(script: Script, _: Fake) -> list[Figure]:
    texts = [
        {"type": "text", "text": str(number), "cache_control": {"type": "ephemeral"}} for number in range(4)
    ]
    both = await script.sent("pirate", top_p=1)
    marked = await script.sent("pirate", messages=[{"role": "user", "content": texts}])
    thinking = await script.sent("claude", thinking={"type": "enabled", "budget_tokens": 8000})
    turns = (("user", "a"), ("assistant", "\n"), ("user", "b"))
    blank = await script.sent("claude", messages=[{"role": role, "content": text} for role, text in turns])
    function = {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}
    untyped = await script.sent("claude", tools=[{"type": "function", "function": function}])
    given = {name: both.get(name) for name in ("top_p", "temperature")}
    marks = json.dumps(marked).count('"cache_control"')
    limit = thinking.get("max_tokens", 0)
    blanks = re.findall(r'"text": "\s*"', json.dumps(blank).replace("\\n", " "))
    schema = (untyped.get("tools") or [{}])[0].get("input_schema", {})
    alone = "top_p" in both and "temperature" not in both
    none = f"{len(blanks)} in {json.dumps(blank.get('messages'))}"
    typed = schema.get("type") == "object"
    return [
        Figure("anthropic: a client's top_p, a personality's temperature", "top_p alone", str(given), alone),
        Figure("anthropic: a client's four marks and ours", "at most 4", f"{marks}", 0 < marks <= 4),
        Figure(
            "anthropic: thinking with a budget of 8000, no max_tokens",
            "max_tokens above it",
            f"max_tokens {limit}",
            limit > 8000,
        ),
        Figure("anthropic: a blank text", "none", none, "messages" in blank and not blanks),
        Figure("anthropic: parameters without type", "type object", json.dumps(schema), typed),
    ]


async def rest(script: Script, provider: Fake) -> list[Figure]:
    provider.paths.clear()
    await script.ask("azure")
    path = provider.paths[-1] if provider.paths else "no call"
    right = "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    options = {"include_usage": True, "include_obfuscation": False}
    sent = (await script.sent("ok", stream=True, stream_options=options)).get("stream_options")
    what = "rest: stream_options sent on"
    return [
        Figure("rest: Azure's classic address", f"`{right}`", f"`{path}`", path == right),
        Figure(what, "include_obfuscation too", json.dumps(sent), sent == options),
    ]


async def silence(session: aiohttp.ClientSession, url: str) -> list[Figure]:
    """A heartbeat of a second, since a provider that thinks for half a minute would take as long."""
    async with replicas(1, settings(url, server={"heartbeat": "1s"})) as [service]:
        body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "q"}]}
        began = time.monotonic()
        async with session.post(f"{service.url}/v1/chat/completions", json=body) as response:
            first = await response.content.readany()
            took = time.monotonic() - began
            answer = Answer(first + await response.content.read(), streamed=True)
    return [
        Figure(
            f"rest: a provider that thinks for {THINKS:.0f} s, heartbeat 1 s: the first byte",
            f"before {THINKS / 2:.0f} s, then the answer",
            f"after {took:.1f} s: `{first[:20].decode()!r}`",
            took < THINKS / 2 and tolerant(answer).means(HELLO),
        )
    ]


async def obeying() -> Figure:
    """Who waits as long as Retry-After says is not refused again."""
    again, waits = 0, []
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
            waits.append(f"{got.error['message'].rpartition('in ')[2]} -> {after}")
            await asyncio.sleep(after)
            again += (await script.ask("demo")).status == 429
    return Figure(
        "clients: callers that wait as long as Retry-After says",
        "0 refused again",
        f"{again} of {len(waits)} ({', '.join(waits)})",
        bool(waits) and again == 0,
    )
