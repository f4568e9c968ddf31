"""Does anybody get an answer that was made for somebody else?

Pairs of requests with the same prompt from two callers, at once or one after the other, on any replica, in any
shape. The provider writes into each answer for whom it was called: that stands in `metadata`, which is
forwarded but cannot shape an answer, so the prompts of a pair are equal to the last byte. In the class
`tenants` an answer may be shared inside a tenant, in the class `users` only with the same key and `user`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from typing import NamedTuple

import msgspec

from benchmarks.figures import Figure, progress
from benchmarks.stage import Stage, stage
from benchmarks.tenants import of, tenants

PAIRS, REPLICAS, AT_ONCE, QUESTIONS, SEED = 10_000, 2, 24, 400, 1
TENANTS = ("acme", "acme.eu", "umbrella", "user")
KEYS = ("one", "two")
USERS = (None, "alice", "bob", "tenant", "acme", "Alice", "alice ", '["user","acme"]')


class Asker(NamedTuple):
    """Who asks; `name` is what the provider is told."""

    tenant: str
    key: str
    user: str | None

    @property
    def name(self) -> str:
        return json.dumps([self.tenant, self.key, self.user])


def may_share(model: str, asker: Asker, maker: str) -> bool:
    tenant, *_ = json.loads(maker)
    return bool(tenant == asker.tenant) if model == "tenants" else maker == asker.name


class Tried(msgspec.Struct):
    """What came of all pairs."""

    leaks: int = 0
    failed: int = 0
    shared: int = 0
    hits: int = 0


async def measure() -> list[Figure]:
    tried, rng, numbers = Tried(), random.Random(SEED), iter(range(PAIRS))

    async def ask(on: Stage, model: str, question: str) -> None:
        asker = Asker(rng.choice(TENANTS), rng.choice(KEYS), rng.choice(USERS))
        outcome = await on.asking.ask(
            rng.choice(on.urls),
            question,
            model=model,
            stream=rng.random() < 0.5,
            headers=of(f"{asker.tenant}-{asker.key}"),
            metadata={"asker": asker.name},
            **({"user": asker.user} if asker.user is not None else {}),
        )
        tried.failed += outcome.error is not None
        if outcome.error is None:
            tried.leaks += not may_share(model, asker, outcome.asker)
            tried.shared += outcome.asker != asker.name
            tried.hits += outcome.hit

    async def work(on: Stage) -> None:
        for number in numbers:
            if number % 100 == 0:
                progress(f"{number} of {PAIRS} pairs")
            model, question = rng.choice(("tenants", "users")), f"question {rng.randrange(QUESTIONS)}"
            if rng.random() < 0.5:
                await asyncio.gather(ask(on, model, question), ask(on, model, question))
            else:
                await ask(on, model, question)
                await ask(on, model, question)

    names = {f"{tenant}-{key}": tenant for tenant, key in itertools.product(TENANTS, KEYS)}
    models = {name: {"routes": ["stand-in/benchmark"], "cache_class": name} for name in ("tenants", "users")}
    classes = {"tenants": {"share": "tenant"}, "users": {"share": "user"}}
    pace = {"first_token": 0.01, "between": 0.0, "tokens": 3}
    with tenants(**names) as auth:
        async with stage(REPLICAS, pace=pace, auth=auth, cache={"classes": classes}, models=models) as on:
            await asyncio.gather(*(work(on) for _ in range(AT_ONCE)))
            calls = await on.asked.calls()
    measured = (
        f"{tried.leaks} leaks in {PAIRS:,} pairs ({tried.failed} failed requests); {tried.hits:,} hits, {calls:,} "
        f"provider calls, {tried.shared:,} answers shared as their class allows"
    )
    good = tried.leaks == 0 and tried.failed == 0 and tried.shared > 0
    return [
        Figure("cross-tenant and cross-user leaks in 10,000 generated request pairs", "0", measured, good)
    ]
