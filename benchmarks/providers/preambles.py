"""A stream begins with nothing of an answer, and then the provider is overloaded. Is the second route asked?

STREAMS streams in all, over every pair of a preamble that providers send and an end that is none (answers.yaml). Each
asks a model whose first route begins so and ends so, and whose second route is well. A provider is asked only CALLS
times, so that no breaker opens and passes over what is to be tried; how many streams met the fault is counted at the
providers. Failed is what is not complete, or says anything else than the second route says.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from benchmarks.figures import Figure, progress
from benchmarks.providers.answers import DATA, Json, parts_of, stream
from benchmarks.providers.fake import Reply, events, fake
from testkit.client import Outcome, client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas

STREAMS, CALLS, AT_ONCE = 1000, 4, 10
WELL = events(
    *stream(
        [
            "<<role>>",
            {"delta": {"content": "from the "}},
            {"delta": {"content": "second"}},
            "<<stop>><<done>>",
        ]
    )
)
PAIRS = [
    (kind, preamble, end)
    for kind, preambles in DATA["preambles"].items()
    for preamble, end in itertools.product(preambles, DATA["ends"])
]


async def answer(name: str, _: Json) -> Reply:
    """The provider's side."""
    if name == "well":
        return WELL
    kind, preamble, end = PAIRS[int(name[1:].partition("-")[0])]
    begun = b"".join(stream(DATA["preambles"][kind][preamble]))
    ends = DATA["ends"][end]
    return events(begun, *parts_of(ends.get("stream", []), then=ends.get("then")))


async def measure() -> list[Figure]:
    each = -(-STREAMS // len(PAIRS))
    asked = [(at, number) for number in range(each) for at in range(len(PAIRS))]
    names = {f"p{at}-{number // CALLS}": PAIRS[at][0] for at, number in asked}
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
                progress(f"preambles: {next(done)} of {len(asked)} streams")
                return outcome

            outcomes = await asyncio.gather(*(one(at, number) for at, number in asked))
    met = sum(count for name, count in provider.calls.items() if name != "well")
    wrong = Counter(
        PAIRS[at]
        for (at, _), outcome in zip(asked, outcomes, strict=True)
        if outcome.error is not None or outcome.text != "from the second"
    )
    figures = []
    for kind, name in (("openai", "OpenAI"), ("anthropic", "Anthropic")):
        of = sum(PAIRS[at][0] == kind for at, _ in asked)
        mine = [
            f"{count} of {preamble}, then {end}"
            for (of_kind, preamble, end), count in wrong.items()
            if of_kind == kind
        ]
        failed = sum(count for (of_kind, *_), count in wrong.items() if of_kind == kind)
        seen = f": {'; '.join(mine[:8])}; {len(mine)} pairs" if mine else ""
        what = f"{name}-like preambles x ends, second route well"
        figures.append(Figure(what, "0 failed", f"{failed} failed of {of}{seen}", not mine))
    all_met = f"{met} of {len(asked)}"
    return [
        *figures,
        Figure("streams that met the fault on the first route", "all", all_met, met == len(asked)),
    ]
