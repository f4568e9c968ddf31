"""Writes what is decided: the policy document that replicas read, and purges.

The document is the operator's alone. It is compared with what Redis has each time, so that a flushed Redis, or a
document that somebody else wrote, is put right at the next look.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dub5.contract import (
    POLICY_CHANNEL,
    POLICY_KEY,
    PURGE_CHANNEL,
    PURGE_KEYS,
    PURGE_SCRIPT,
    PURGED_AT_ONCE,
    ClassPolicy,
    PolicyDocument,
    Undecodable,
)
from dub5_operator.documents import read_document
from dub5_operator.metrics import Noted, ignored

_decoder = msgspec.json.Decoder(PolicyDocument)


class Publisher:
    """`redis` is an asyncio client; its errors are passed on. `clock` gives seconds since the epoch."""

    def __init__(self, redis: Any, clock: Callable[[], float], undecodable: Noted = ignored) -> None:
        self._redis = redis
        self._clock = clock
        self._undecodable = undecodable
        self._classes: dict[str, ClassPolicy] | None = None  # not known before the first reading
        self._lock = asyncio.Lock()

    async def in_force(self, class_name: str) -> ClassPolicy | None:
        """What is published for a class."""
        async with self._lock:
            if self._classes is None:
                self._classes = dict(await self._read() or {})
        return self._classes.get(class_name)

    async def publish(self, class_name: str, policy: ClassPolicy | None) -> None:
        """Put a class's lifetimes in force; None: those of its configuration."""
        async with self._lock:
            found = await self._read()
            if self._classes is None:
                self._classes = dict(found or {})
            if policy is None:
                self._classes.pop(class_name, None)
            else:
                self._classes[class_name] = policy
            if found != self._classes:
                document = PolicyDocument(issued=self._clock(), classes=self._classes)
                await self._redis.set(POLICY_KEY, msgspec.json.encode(document))
                await self._redis.publish(POLICY_CHANNEL, b"")

    async def purge(self, names: Sequence[str]) -> int:
        """Make every replica forget, within a second; gives the last stamp."""
        stamp, remaining = 0, iter(names)
        while some := list(itertools.islice(remaining, PURGED_AT_ONCE)):
            arguments = (*PURGE_KEYS, stamp, secrets.token_hex(4), *some)
            told, _ = await self._redis.eval(PURGE_SCRIPT, len(PURGE_KEYS), *arguments)
            stamp = int(told)
        await self._redis.publish(PURGE_CHANNEL, str(stamp))
        return stamp

    async def _read(self) -> dict[str, ClassPolicy] | None:
        """What is published. None where that cannot be read: replicas ignore it as well, and it is written anew."""
        try:
            found = await read_document(self._redis, POLICY_KEY, _decoder, self._undecodable, "policy")
        except Undecodable:
            return None
        return found.classes if found is not None else {}
