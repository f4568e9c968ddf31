"""The peers that can run here; what is left out is said once, with the reason."""

from __future__ import annotations

import sys
from collections.abc import Awaitable

from benchmarks.gateways.contestants import Contestant, Missing, litellm, portkey

_told: set[str] = set()


async def available(provider: str, pace: str = "") -> list[Contestant]:
    """Portkey and LiteLLM, each asking the provider at the given pace."""
    found = []
    for name, making in (("Portkey", portkey(provider, pace)), ("LiteLLM", litellm(provider, pace))):
        contestant = await _or_none(name, making)
        if contestant is not None:
            found.append(contestant)
    return found


async def _or_none(name: str, making: Awaitable[Contestant]) -> Contestant | None:
    try:
        return await making
    except Missing as reason:
        left_out(name, str(reason))
        return None


def left_out(name: str, reason: str) -> None:
    if name not in _told:
        _told.add(name)
        print(f"Left out: {name}. {reason}", file=sys.stderr, flush=True)
