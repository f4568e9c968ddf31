"""A stream begins with nothing of an answer, and then the provider is overloaded. Is the second route asked?

STREAMS streams in all, over every pair of a preamble that providers send and an end that is none. Each asks a model
whose first route begins so and ends so, and whose second route is well. A provider is asked only CALLS times, so that
no breaker opens and passes over what is to be tried; how many streams met the fault is counted at the providers.
Failed is what is not complete, or says anything else than the second route says.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from benchmarks.figures import Figure, progress
from benchmarks.providers.fake import Json, Reply, Step, events, fake
from benchmarks.providers.odd.answer import Part
from benchmarks.providers.odd.anthropic import A_TEXT, START, a_event
from benchmarks.providers.odd.openai import DONE, ROLE, STOP, USAGE, bare, chunk, event, say
from testkit.client import Outcome, client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas

STREAMS, CALLS, AT_ONCE = 1000, 4, 10
PING = b": keep-alive\n\n"
AZURE = bare(choices=[], prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {}}])
OPENAI: dict[str, bytes] = {
    "role and empty content": ROLE,
    "role alone": event(chunk({"role": "assistant"})),
    "role and nulls": event(
        chunk({"role": "assistant", "content": None, "refusal": None, "tool_calls": None})
    ),
    "role twice": ROLE + event(chunk({"role": "assistant", "content": None})),
    "Azure's prompt_filter_results": AZURE,
    "Azure's, then role": AZURE + ROLE,
    "keep-alive comments": PING * 3,
    "comments, role, comments": PING + ROLE + PING,
    "usage of nothing": bare(choices=[], usage={**USAGE, "completion_tokens": 0, "total_tokens": 9}) + ROLE,
    "empty reasoning": ROLE + event(chunk({"reasoning_content": "", "reasoning": None})),
    "empty list of calls": ROLE + event(chunk({"tool_calls": []})),
    "an empty delta": ROLE + event(chunk({})) + event(chunk(None)),
}
ANTHROPIC: dict[str, bytes] = {
    "message_start": START,
    "message_start, pings": START + a_event("ping") * 2,
    "message_start, an empty text": START + a_event("content_block_start", index=0, content_block=A_TEXT),
    "message_start, an empty delta": START
    + a_event("content_block_start", index=0, content_block=A_TEXT)
    + a_event("content_block_delta", index=0, delta={"type": "text_delta", "text": ""}),
    "message_start, empty thinking": START
    + a_event(
        "content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}
    ),
    "ping before message_start": a_event("ping") + START,
    "message_start, comments": START + PING,
}
_OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}
ENDS: dict[str, tuple[Part, ...]] = {
    "an error frame": (event({"error": _OVERLOADED}),),
    "an error event": (b"event: error\n" + event({"type": "error", "error": _OVERLOADED}),),
    "a reset": (Step.RESET,),
    "a closed connection": (Step.CLOSE,),
    "the body's end": (),
    "garbage": (b"data: {nonsense\n\n",),
}
WELL = events(ROLE, say("from the "), say("second"), STOP + DONE)


def _pairs() -> list[tuple[str, str, str]]:
    return [
        (kind, preamble, end)
        for kind, preambles in (("openai", OPENAI), ("anthropic", ANTHROPIC))
        for preamble, end in itertools.product(preambles, ENDS)
    ]


async def answer(name: str, _: Json) -> Reply:
    """The provider's side."""
    if name == "well":
        return WELL
    kind, preamble, end = _pairs()[int(name[1:].partition("-")[0])]
    begun = (OPENAI if kind == "openai" else ANTHROPIC)[preamble]
    return events(begun, *ENDS[end])


async def measure() -> list[Figure]:
    pairs = _pairs()
    each = -(-STREAMS // len(pairs))
    asked = [(at, number) for number in range(each) for at in range(len(pairs))]
    names = {f"p{at}-{number // CALLS}": pairs[at][0] for at, number in asked}
    async with RedisServer() as redis, client(timeout=60) as asking, fake(answer) as provider:
        providers = {
            name: {
                "kind": kind,
                "base_url": f"{provider.url}/{name}{'/v1' if kind == 'openai' else ''}",
                "timeouts": {"connect": "5s", "first_token": "20s"},
            }
            for name, kind in names.items()
        }
        settings = configuration(
            provider.url,
            f"redis://127.0.0.1:{redis.port}",
            providers={**providers, "well": {"kind": "openai", "base_url": f"{provider.url}/well/v1"}},
            models={name: {"routes": [f"{name}/m", "well/m"]} for name in names},
        )
        async with replicas(1, settings) as [service]:
            at_once = asyncio.Semaphore(AT_ONCE)
            done = itertools.count(1)

            async def one(at: int, number: int) -> Outcome:
                async with at_once:
                    model = f"p{at}-{number // CALLS}"
                    outcome = await asking.ask(service.url, f"{at}, {number}", stream=True, model=model)
                progress(f"preambles: {next(done)} of {each * len(pairs)} streams")
                return outcome

            outcomes = await asyncio.gather(*(one(at, number) for at, number in asked))
    met = sum(count for name, count in provider.calls.items() if name != "well")
    wrong: Counter[str] = Counter()
    for (at, _), outcome in zip(asked, outcomes, strict=True):
        if outcome.error is not None or outcome.text != "from the second":
            kind, preamble, end = pairs[at]
            wrong[f"{kind}: {preamble}, then {end}"] += 1
    return [_figure(kind, asked, pairs, wrong) for kind in ("openai", "anthropic")] + [
        Figure(
            "streams that met the fault on the first route",
            "all",
            f"{met} of {len(asked)}",
            met == len(asked),
        )
    ]


def _figure(
    kind: str, asked: list[tuple[int, int]], pairs: list[tuple[str, str, str]], wrong: Counter[str]
) -> Figure:
    of = sum(pairs[at][0] == kind for at, _ in asked)
    mine = {what: count for what, count in wrong.items() if what.startswith(f"{kind}:")}
    seen = "; ".join(f"{count} of {what.removeprefix(f'{kind}: ')}" for what, count in list(mine.items())[:8])
    more = f"; and {len(mine) - 8} other pairs" if len(mine) > 8 else ""
    what = f"{'OpenAI' if kind == 'openai' else 'Anthropic'}-like preambles x ends, second route well"
    measured = f"{sum(mine.values())} failed of {of}" + (f": {seen}{more}" if mine else "")
    return Figure(what, "0 failed", measured, not mine)
