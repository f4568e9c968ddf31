"""`kill -9` of the replica that asks the provider, mid-answer, while 200 clients wait on the others."""

from __future__ import annotations

import asyncio
import signal
import time

from benchmarks.figures import Figure, milliseconds, progress
from testkit.client import client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas, signalled
from testkit.stand_in import provider

ROUNDS, FOLLOWERS = 5, 200


async def measure() -> list[Figure]:
    calls, failed, waits = [], 0, []
    for number in range(ROUNDS):
        progress(f"leader killed, round {number + 1} of {ROUNDS}")
        errors, asked, wait = await _round(f"killed {number}")
        calls.append(asked)
        waits.append(wait)
        failed += errors
    measured = (
        f"{failed} errors of {ROUNDS * FOLLOWERS}; {' / '.join(map(str, calls))} calls in {ROUNDS} rounds; "
        f"last answer {' / '.join(milliseconds(wait) for wait in waits)} after the kill (1000 ms of it the provider's)"
    )
    return [
        Figure(
            f"`kill -9` of the leading replica mid-answer, {FOLLOWERS} followers elsewhere that have sent nothing",
            "0 errors, <= 2 provider calls",
            measured,
            failed == 0 and max(calls) <= 2,
        )
    ]


async def _round(question: str) -> tuple[int, int, float]:
    """Errors among the followers, calls of the provider, seconds from the kill to the last answer."""
    async with provider() as asked, RedisServer() as redis, client() as asking:
        await asked.set(first_token=0.5, between=0.05, tokens=11)
        settings = configuration(asked.base_url, f"redis://127.0.0.1:{redis.port}")
        async with replicas(4, settings) as fleet:
            # The leader's own client streams, so that the leader asks for a stream, and frames are on their way.
            leading = asyncio.create_task(asking.ask(fleet[0].url, question, stream=True))
            await asyncio.sleep(0.1)
            following = [
                asyncio.create_task(asking.ask(fleet[1 + index % 3].url, question))
                for index in range(FOLLOWERS)
            ]
            await asyncio.sleep(0.65)  # some tokens have come, some have not
            killed = time.monotonic()
            signalled(fleet[0], signal.SIGKILL)
            outcomes = await asyncio.gather(*following)
            led = await leading
            if not led.failed_midway:
                raise RuntimeError(f"the leader was not killed in the middle of an answer: {led}")
            errors = sum(outcome.error is not None for outcome in outcomes)
            return errors, await asked.calls(question), max(outcome.ended for outcome in outcomes) - killed
