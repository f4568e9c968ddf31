"""How a question that many ask is asked once: over replicas, for clients that follow, and where the leader dies."""

from __future__ import annotations

import asyncio
import signal
import time

from benchmarks.figures import Figure, milliseconds, percentile, progress
from testkit.service import signalled
from testkit.stage import Stage, stage

REQUESTS, REPLICAS, ROUNDS = 1000, 4, 5
FLIGHTS, LEAD = 300, 0.05
"""The follower asks LEAD seconds after the leader's client, well before the first token."""
FOLLOWERS = 200


async def one_call() -> list[Figure]:
    """1,000 identical requests at once over four replicas, every other one streamed: how often is a provider asked?"""
    calls, failed, took = [], 0, []
    async with stage(REPLICAS, pace={"first_token": 0.3, "between": 0.05, "tokens": 20}) as on:
        for number in range(ROUNDS):
            progress(f"identical requests, round {number + 1} of {ROUNDS}")
            question = f"identical {number}"
            asks = (
                on.asking.ask(on.urls[index % REPLICAS], question, stream=index // REPLICAS % 2 == 0)
                for index in range(REQUESTS)
            )
            outcomes = await asyncio.gather(*asks)
            calls.append(await on.asked.calls(question))
            failed += sum(outcome.error is not None for outcome in outcomes)
            took += [outcome.took for outcome in outcomes]
    measured = (
        f"{' / '.join(map(str, calls))} calls in {ROUNDS} rounds, {failed} failed; "
        f"answered after p50 {milliseconds(percentile(took, 50))}, p99 {milliseconds(percentile(took, 99))} "
        "(the provider takes 1250 ms)"
    )
    what = "1,000 identical requests at once, 4 replicas, half streamed"
    return [Figure(what, "1 provider call", measured, max(calls) == 1 and failed == 0)]


async def follower_delay() -> list[Figure]:
    """How long after the leader's client does a follower's client, on another replica, see its first token?"""
    delays = []
    async with stage(2, pace={"first_token": 0.15, "between": 0.02, "tokens": 5}) as on:
        for number in range(FLIGHTS + 5):
            progress(f"flight {number} of {FLIGHTS}")
            delay = await _delay(on, number)
            if number >= 5:  # the first ones open connections
                delays.append(delay)
        shared = await on.asked.calls()
    p50, p99 = percentile(delays, 50), percentile(delays, 99)
    measured = (
        f"p50 {milliseconds(p50)}, p99 {milliseconds(p99)}, worst {milliseconds(max(delays))}; "
        f"{FLIGHTS} flights, {shared} provider calls for {FLIGHTS + 5} questions"
    )
    what = "follower's first token after the leader's, other replica"
    return [Figure(what, "p99 <= 50 ms", measured, p99 <= 0.050 and shared == FLIGHTS + 5)]


async def _delay(on: Stage, number: int) -> float:
    """Seconds; both clients stream, and the one that leads changes with each question."""
    first, second = on.urls if number % 2 == 0 else on.urls[::-1]
    leading = asyncio.create_task(on.asking.ask(first, f"flight {number}", stream=True))
    await asyncio.sleep(LEAD)
    following = await on.asking.ask(second, f"flight {number}", stream=True)
    led = await leading
    if led.error or following.error or "collapsed" not in following.cache:
        raise RuntimeError(f"not a shared flight: {led.error} {following.error} {following.cache}")
    return following.first - led.first


async def leader_killed() -> list[Figure]:
    """`kill -9` of the replica that asks the provider, mid-answer, while 200 clients wait on the others."""
    calls, failed, waits = [], 0, []
    for number in range(ROUNDS):
        progress(f"leader killed, round {number + 1} of {ROUNDS}")
        errors, asked, wait = await _killed(f"killed {number}")
        calls.append(asked)
        waits.append(wait)
        failed += errors
    measured = (
        f"{failed} errors of {ROUNDS * FOLLOWERS}; {' / '.join(map(str, calls))} calls in {ROUNDS} rounds; "
        f"last answer {' / '.join(milliseconds(wait) for wait in waits)} after the kill (1000 ms of it the provider's)"
    )
    what = (
        f"`kill -9` of the leading replica mid-answer, {FOLLOWERS} followers elsewhere that have sent nothing"
    )
    return [Figure(what, "0 errors, <= 2 provider calls", measured, failed == 0 and max(calls) <= 2)]


async def _killed(question: str) -> tuple[int, int, float]:
    """Errors among the followers, calls of the provider, seconds from the kill to the last answer."""
    async with stage(4, pace={"first_token": 0.5, "between": 0.05, "tokens": 11}) as on:
        # The leader's own client streams, so that the leader asks for a stream, and frames are on their way.
        leading = asyncio.create_task(on.asking.ask(on.urls[0], question, stream=True))
        await asyncio.sleep(0.1)
        asks = (on.asking.ask(on.urls[1 + index % 3], question) for index in range(FOLLOWERS))
        following = [asyncio.create_task(ask) for ask in asks]
        await asyncio.sleep(0.65)  # some tokens have come, some have not
        killed = time.monotonic()
        signalled(on.fleet[0], signal.SIGKILL)
        outcomes = await asyncio.gather(*following)
        led = await leading
        if not led.failed_midway:
            raise RuntimeError(f"the leader was not killed in the middle of an answer: {led}")
        errors = sum(outcome.error is not None for outcome in outcomes)
        return errors, await on.asked.calls(question), max(outcome.ended for outcome in outcomes) - killed
