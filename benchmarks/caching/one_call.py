"""1,000 identical requests at once over four replicas, every other one streamed: how often is a provider asked?"""

from __future__ import annotations

import asyncio

from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.client import client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas
from testkit.stand_in import provider

REQUESTS, REPLICAS, ROUNDS = 1000, 4, 5


async def measure() -> list[Figure]:
    calls, failed, took = [], 0, []
    async with provider() as asked, RedisServer() as redis, client() as asking:
        await asked.set(first_token=0.3, between=0.05, tokens=20)
        settings = configuration(asked.base_url, f"redis://127.0.0.1:{redis.port}")
        async with replicas(REPLICAS, settings) as fleet:
            for number in range(ROUNDS):
                progress(f"identical requests, round {number + 1} of {ROUNDS}")
                question = f"identical {number}"
                outcomes = await asyncio.gather(
                    *(
                        asking.ask(fleet[index % REPLICAS].url, question, stream=index // REPLICAS % 2 == 0)
                        for index in range(REQUESTS)
                    )
                )
                calls.append(await asked.calls(question))
                failed += sum(outcome.error is not None for outcome in outcomes)
                took += [outcome.took for outcome in outcomes]
    measured = (
        f"{' / '.join(map(str, calls))} calls in {ROUNDS} rounds, {failed} failed; "
        f"answered after p50 {milliseconds(percentile(took, 50))}, p99 {milliseconds(percentile(took, 99))} "
        "(the provider takes 1250 ms)"
    )
    good = max(calls) == 1 and failed == 0
    return [
        Figure(
            "1,000 identical requests at once, 4 replicas, half streamed", "1 provider call", measured, good
        )
    ]
