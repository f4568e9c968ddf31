"""Does anybody get an answer that was made for somebody else?

Pairs of requests with the same prompt from two callers, at once or one after the other, on any replica, in any
shape. The provider writes into each answer for whom it was called: that stands in `metadata`, which is
forwarded but cannot shape an answer, so the prompts of a pair are equal to the last byte. In the class
`tenants` an answer may be shared inside a tenant, in the class `users` only with the same key and `user`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import tempfile
from pathlib import Path

import msgspec

from benchmarks.figures import Figure, progress
from testkit.client import Client, Outcome, client
from testkit.redis_server import RedisServer
from testkit.service import configuration, replicas
from testkit.stand_in import provider

PAIRS, REPLICAS, AT_ONCE, QUESTIONS, SEED = 10_000, 2, 24, 400, 1
TENANTS = ("acme", "acme.eu", "umbrella", "user")
KEYS = ("one", "two")
USERS = (None, "alice", "bob", "tenant", "acme", "Alice", "alice ", '["user","acme"]')


class Asker(msgspec.Struct, frozen=True):
    """Who asks; `name` is what the provider is told."""

    tenant: str
    key: str
    user: str | None

    @property
    def name(self) -> str:
        return json.dumps([self.tenant, self.key, self.user])

    @property
    def secret(self) -> str:
        return f"{self.tenant}-{self.key}"


def may_share(model: str, asker: Asker, maker: str) -> bool:
    tenant, *_ = json.loads(maker)
    return bool(tenant == asker.tenant) if model == "tenants" else maker == asker.name


def keys_file(folder: Path) -> Path:
    lines = [
        f"{hashlib.sha256(f'{tenant}-{key}'.encode()).hexdigest()}: {{tenant: {tenant}, roles: [chat]}}\n"
        for tenant in TENANTS
        for key in KEYS
    ]
    path = folder / "keys.yaml"
    path.write_text("".join(lines), encoding="utf-8")
    return path


class Tried(msgspec.Struct):
    """What came of all pairs."""

    leaks: int = 0
    failed: int = 0
    shared: int = 0
    hits: int = 0


class Pairs:
    def __init__(self, asking: Client, urls: list[str]) -> None:
        self.tried = Tried()
        self._chance = random.Random(SEED)
        self._asking = asking
        self._urls = urls
        self._left = PAIRS

    async def work(self) -> None:
        while self._left:
            self._left -= 1
            if self._left % 100 == 0:
                progress(f"{PAIRS - self._left} of {PAIRS} pairs")
            await self._pair()

    async def _pair(self) -> None:
        model = self._chance.choice(("tenants", "users"))
        question = f"question {self._chance.randrange(QUESTIONS)}"
        first, second = self._asker(), self._asker()
        if self._chance.random() < 0.5:
            await asyncio.gather(self._ask(model, question, first), self._ask(model, question, second))
        else:
            await self._ask(model, question, first)
            await self._ask(model, question, second)

    def _asker(self) -> Asker:
        choice = self._chance.choice
        return Asker(choice(TENANTS), choice(KEYS), choice(USERS))

    async def _ask(self, model: str, question: str, asker: Asker) -> None:
        self._note(
            model,
            asker,
            await self._asking.ask(
                self._chance.choice(self._urls),
                question,
                model=model,
                stream=self._chance.random() < 0.5,
                headers={"authorization": f"Bearer {asker.secret}"},
                metadata={"asker": asker.name},
                **({"user": asker.user} if asker.user is not None else {}),
            ),
        )

    def _note(self, model: str, asker: Asker, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.tried.failed += 1
            return
        self.tried.leaks += not may_share(model, asker, outcome.asker)
        self.tried.shared += outcome.asker != asker.name
        self.tried.hits += outcome.hit


async def measure() -> list[Figure]:
    async with provider() as asked, RedisServer() as redis, client() as asking:
        await asked.set(first_token=0.01, between=0.0, tokens=3)
        with tempfile.TemporaryDirectory() as folder:
            settings = configuration(
                asked.base_url,
                f"redis://127.0.0.1:{redis.port}",
                auth={"keys": {"file": str(keys_file(Path(folder)))}},
                cache={"classes": {"tenants": {"share": "tenant"}, "users": {"share": "user"}}},
                models={
                    name: {"routes": ["stand-in/benchmark"], "cache_class": name}
                    for name in ("tenants", "users")
                },
            )
            async with replicas(REPLICAS, settings) as fleet:
                pairs = Pairs(asking, [service.url for service in fleet])
                await asyncio.gather(*(pairs.work() for _ in range(AT_ONCE)))
        calls = await asked.calls()
    tried = pairs.tried
    measured = (
        f"{tried.leaks} leaks in {PAIRS:,} pairs ({tried.failed} failed requests); {tried.hits:,} hits, {calls:,} "
        f"provider calls, {tried.shared:,} answers shared as their class allows"
    )
    good = tried.leaks == 0 and tried.failed == 0 and tried.shared > 0
    return [
        Figure("cross-tenant and cross-user leaks in 10,000 generated request pairs", "0", measured, good)
    ]
