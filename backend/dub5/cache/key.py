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

from dub5.json_steps import Steps, fed, pieces

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
_DIGEST = 24
_MOST = 2**63


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
    parts = _head(scope, personality_revision, model_revision, tags)
    parts.append({name: _canonical(fields[name]) for name in _shaping(fields)})
    return hashlib.blake2b(_canonical_json.encode(parts), digest_size=_DIGEST).hexdigest()


def answer_key_in_steps(
    fields: Mapping[str, Any],
    *,
    scope: tuple[str, ...],
    personality_revision: str,
    model_revision: str,
    tags: Iterable[str] = (),
) -> Steps[str]:
    """The same key of a request that is large."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    head = _head(scope, personality_revision, model_revision, tags)
    digest.update(_canonical_json.encode(head)[:-1] + b",")
    shaping = {name: fields[name] for name in _shaping(fields)}
    yield from fed(pieces(shaping, names=sorted, scalar=_whole), digest.update)
    digest.update(b"]")
    return digest.hexdigest()


def _head(
    scope: tuple[str, ...], personality_revision: str, model_revision: str, tags: Iterable[str]
) -> list[Any]:
    return [KEY_VERSION, scope, personality_revision, model_revision, sorted(set(tags))]


def _shaping(fields: Mapping[str, Any]) -> list[str]:
    return [
        name for name, value in fields.items() if value is not None and name not in CANNOT_SHAPE_THE_ANSWER
    ]


def _canonical(value: Any) -> Any:
    """`value` with equal numbers written the same; itself where they are."""
    kind = type(value)
    if kind is str:
        return value
    if kind is dict or kind is list:
        changed: Any = None
        for name, item in value.items() if kind is dict else enumerate(value):
            new = _canonical(item)
            if new is not item:
                if changed is None:
                    changed = value.copy()
                changed[name] = new
        return value if changed is None else changed
    return _whole(value)


def _whole(value: Any) -> Any:
    """A whole float as an integer: 1.0 and 1 mean the same. Past 64 bits the other way round: 1e308 has 309 digits."""
    kind = type(value)
    if kind is float:
        return int(value) if value.is_integer() and -_MOST < value < _MOST else value
    if kind is int and not -_MOST < value < _MOST:
        try:
            number = float(value)
        except OverflowError:
            return value
        return number if number == value else value
    return value
