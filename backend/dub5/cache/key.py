"""Which requests ask the same question: the key of an answer.

Everything in a request may shape its answer, unknown fields too (they reach the provider), except for a
short list of fields that cannot. Two requests that mean the same give the same key in every process; the
order of keys, `1` against `1.0`, an absent field against `null` and the spelling of JSON escapes do not
matter. Whose answer it may be, the scope, is part of what is hashed, so two tenants never share a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

KEY_VERSION = 1
"""Part of each key: raised when the meaning of a key changes, so that old answers are never found again."""

CANNOT_SHAPE_THE_ANSWER = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "metadata",
        "user",
        "store",
        "prompt_cache_key",
        "safety_identifier",
    }
)
"""`model` is there by its revision; `user` where the answer belongs to one user."""

Share = Literal["tenant", "user", "public"]
_canonical_json = msgspec.json.Encoder(order="deterministic")


def scope_of(share: Share, *, tenant: str, key_id: str, user: str | None) -> tuple[str, ...]:
    """Who may be given the answer."""
    if share == "public":
        return ("public",)
    if share == "tenant":
        return ("tenant", tenant)
    return ("user", tenant, key_id) if user is None else ("user", tenant, key_id, user)


def answer_key(
    fields: Mapping[str, Any],
    *,
    scope: tuple[str, ...],
    personality_revision: str,
    model_revision: str,
    tags: Iterable[str] = (),
) -> str:
    """48 hexadecimal digits: BLAKE2b-192 over canonical JSON.

    `fields` is the caller's request with the personality's sampling defaults filled in; what the personality
    says is covered by its revision.
    """
    shaping = {
        name: _canonical(value)
        for name, value in fields.items()
        if value is not None and name not in CANNOT_SHAPE_THE_ANSWER
    }
    parts = [KEY_VERSION, scope, personality_revision, model_revision, sorted(set(tags)), shaping]
    return hashlib.blake2b(_canonical_json.encode(parts), digest_size=24).hexdigest()


def _canonical(value: Any) -> Any:
    """`value` with whole floats as integers: 1.0 and 1 mean the same."""
    kind = type(value)
    if kind is dict:
        return {name: item if type(item) is str else _canonical(item) for name, item in value.items()}
    if kind is list:
        return [_canonical(item) for item in value]
    if kind is float and value.is_integer():
        return int(value)
    return value
