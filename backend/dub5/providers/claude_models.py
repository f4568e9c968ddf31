"""What each model of Claude takes, by its name: they differ in what they refuse with a 400.

The names are Anthropic's own, wherever they are served: `claude-opus-4-1@20250805`, `anthropic.claude-sonnet-5`,
`anthropic/claude-opus-5.5`. A newer model than those known here is taken for the newest of its kind; a name that is
not Claude's gets what every model takes.

Sources: https://platform.claude.com/docs/en/about-claude/models/overview, the migration guide of each model beside it,
https://platform.claude.com/docs/en/build-with-claude/thinking, …/effort, …/structured-outputs
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec


class Claude(msgspec.Struct, frozen=True):
    """`sampling`: whether it takes `temperature`, `top_p` and `top_k`.
    `thinking`: the types of `thinking` that it takes. `prefill`: the last message may be the assistant's.
    `forced`: a tool's call can be demanded. `schemas`: `output_config.format` and strict tools.
    `most`: the largest `max_tokens`, None where nobody knows. `efforts`: of `output_config.effort`. `pictures`: as many
    in one request.
    """

    sampling: bool = True
    thinking: frozenset[str] = frozenset({"enabled", "adaptive", "disabled"})
    prefill: bool = True
    forced: bool = True
    schemas: bool = True
    most: int | None = None
    efforts: tuple[str, ...] = ()
    pictures: int = 100


_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_BUDGET = frozenset({"enabled", "disabled"})
_newest = Claude(
    sampling=False,
    thinking=frozenset({"adaptive", "disabled"}),
    prefill=False,
    most=128_000,
    efforts=_EFFORTS,
    pictures=600,
)
_always_thinking = msgspec.structs.replace(_newest, thinking=frozenset({"adaptive"}))
_4_6 = Claude(thinking=_BUDGET | {"adaptive"}, prefill=False, most=128_000, efforts=("low", "medium", "high"))
_4_5 = Claude(thinking=_BUDGET, most=64_000)
_4 = Claude(thinking=_BUDGET, schemas=False, most=64_000)
_3 = Claude(thinking=frozenset({"disabled"}), schemas=False, most=4096)

_MODELS: tuple[tuple[str, Claude], ...] = (
    (
        r"(fable|mythos)-(5-[1-9]|[6-9])|opus-(5-[5-9]|[6-9])",
        msgspec.structs.replace(_always_thinking, forced=False),
    ),
    (r"(fable|mythos)-(\d+|preview)", _always_thinking),
    (
        r"sonnet-(5-[5-9]|[6-9])",
        msgspec.structs.replace(_newest, thinking=frozenset({"adaptive", "between_tools"}), forced=False),
    ),
    (r"(opus|sonnet|haiku)-[5-9]|opus-4-[7-9]", _newest),
    (r"opus-4-6", msgspec.structs.replace(_4_6, efforts=("low", "medium", "high", "max"))),
    (r"(sonnet|haiku)-4-[6-9]", _4_6),
    (r"opus-4-5", msgspec.structs.replace(_4_5, efforts=("low", "medium", "high"))),
    (r"(sonnet|haiku)-4-5", _4_5),
    (r"opus-4-1", msgspec.structs.replace(_4_5, most=32_000)),
    (r"opus-4", msgspec.structs.replace(_4, most=32_000)),
    (r"sonnet-4", _4),
    (r"3-7-sonnet", _4),
    (r"3-5-(sonnet|haiku)", msgspec.structs.replace(_3, most=8192)),
    (r"(3|2|instant)", _3),
)
_UNKNOWN = Claude(prefill=False, efforts=_EFFORTS)


@lru_cache(maxsize=256)
def claude(name: str) -> Claude:
    """What the model of that name takes."""
    written = name.lower().replace(".", "-").replace("_", "-")
    for pattern, model in _MODELS:
        if re.search(rf"claude-({pattern})(?!\d)", written):
            return model
    return _UNKNOWN
