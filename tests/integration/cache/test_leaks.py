"""Does anybody get an answer that was made for somebody else?

Pairs of requests with the same prompt from two callers, at once or one after the other, on any replica, in any shape.
The provider writes into each answer for whom it was called: that stands in `metadata`, which is forwarded but cannot
shape an answer, so the prompts of a pair are equal to the last byte. In the class `tenants` an answer may be shared
inside a tenant, in the class `users` only with the same key and `user`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
from collections import Counter
from typing import Any

from testkit.http_server import Call, Wire
from testkit.openai_server import FakeOpenAI, say
from tests.harness import Running, openai_provider, running, size
from tests.tolerant_reader import read_events, read_whole

PAIRS, QUESTIONS, AT_ONCE = size(500), 40, 24
TENANTS = ("acme", "acme.eu", "umbrella", "user")
KEYS = ("one", "two")
USERS = (None, "alice", "bob", "tenant", "acme", "Alice", "alice ", '["user","acme"]')
"""Some made to look like another's scope."""
CLASSES = {"tenants": {"share": "tenant"}, "users": {"share": "user"}}


async def says_for_whom(call: Call, wire: Wire) -> None:
    await say(call.body["metadata"]["asker"])(call, wire)


def may_share(model: str, asker: list[Any], maker: list[Any]) -> bool:
    return asker[0] == maker[0] if model == "tenants" else asker == maker


async def test_no_answer_leaves_its_scope(fake: FakeOpenAI, redis: str) -> None:
    fake.reply = says_for_whom
    names = [f"{tenant}-{key}" for tenant, key in itertools.product(TENANTS, KEYS)]
    keys = {
        hashlib.sha256(name.encode()).hexdigest(): {"tenant": name.rpartition("-")[0], "roles": ["chat"]}
        for name in names
    }
    config = {
        **openai_provider(fake.base_url),
        "redis": {"url": redis},
        "auth": {"keys": {"env": "KEYS"}},
        "cache": {"classes": CLASSES},
        "models": {name: {"routes": ["fake/x"], "cache_class": name} for name in CLASSES},
    }
    rng, numbers, seen, leaks = random.Random(1), iter(range(PAIRS)), Counter[str](), []

    async def ask(fleet: tuple[Running, ...], model: str, question: str) -> None:
        asker = [rng.choice(TENANTS), rng.choice(KEYS), rng.choice(USERS)]
        fields: dict[str, Any] = {"metadata": {"asker": json.dumps(asker)}, "stream": rng.random() < 0.5}
        fields |= {"user": asker[2]} if asker[2] is not None else {}
        headers = {"authorization": f"Bearer {asker[0]}-{asker[1]}"}
        answer = await rng.choice(fleet).chat(question, headers=headers, model=model, **fields)
        assert answer.status_code == 200
        read = read_events(answer.content) if fields["stream"] else read_whole(answer.json())
        maker = json.loads(read[0]["content"])
        seen["shared"] += asker != maker
        if not may_share(model, asker, maker):
            leaks.append((model, asker, maker))

    async def work(fleet: tuple[Running, ...]) -> None:
        for _ in numbers:
            pair = [
                (fleet, model, question)
                for model, question in [(rng.choice(list(CLASSES)), f"{rng.randrange(QUESTIONS)}")] * 2
            ]
            if rng.random() < 0.5:
                await asyncio.gather(*(ask(*each) for each in pair))
            else:
                for each in pair:
                    await ask(*each)

    environment = {"KEYS": json.dumps(keys)}
    async with running(config, environment) as one, running(config, environment) as other:
        await asyncio.gather(*(work((one, other)) for _ in range(AT_ONCE)))
    assert leaks == []
    assert seen["shared"] > PAIRS / 10  # as their class allows: else nothing could have leaked
