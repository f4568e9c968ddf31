"""Odd answers that real providers give, as bytes, each with what a tolerant reader reads in it. Pure data.

Where they come from: public reports about gateways and chat backends, and what those leave open. An answer whose `says`
is empty cannot be used; of one that breaks off, `says` is empty, too. `stored` is None where an answer may be kept or
not, as long as what comes out of the cache says the same.
"""

from __future__ import annotations

from benchmarks.providers.odd.answer import Odd
from benchmarks.providers.odd.anthropic import anthropic
from benchmarks.providers.odd.calls import tool_calls
from benchmarks.providers.odd.content import frames, texts
from benchmarks.providers.odd.framing import framing
from benchmarks.providers.odd.useless import useless


def _all() -> dict[str, Odd]:
    found: dict[str, Odd] = {}
    for each in (*framing(), *frames(), *texts(), *tool_calls(), *useless(), *anthropic()):
        if each.name in found:
            raise ValueError(f"{each.name} is there twice")
        found[each.name] = each
    return found


ODD = _all()
"""By name."""
