"""Personalities: a system prompt, examples and sampling defaults under a name that is used like a model's.

What a personality puts before the caller's messages is composed once per revision and shared by all
requests; the caller's own system message comes after it. The revision is a hash of everything that shapes
the answer, and part of each cache key.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from dub5.chat.request import ChatRequest
from dub5.errors import InvalidRequest
from dub5.settings import PersonalitySettings

Json = dict[str, Any]

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""Two names of one limit: a caller who sets either means to replace a default of the other."""

_EITHER = {**_LIMITS, "temperature": "top_p", "top_p": "temperature"}
"""What replaces a default beside its own name. Providers ask for one of the last two, and some refuse both."""


class Personality:
    """A configured personality, ready to be applied to requests. `model` names one of ours."""

    def __init__(self, name: str, settings: PersonalitySettings, *, model: str) -> None:
        self.name = name
        self.description = settings.description
        self.model = model
        self.cache_class = settings.cache_class
        self._locked = frozenset(settings.locked) | {
            _LIMITS[name] for name in settings.locked if name in _LIMITS
        }
        self._sampling = settings.sampling()
        system: list[Json] = [{"role": "system", "content": settings.system}] if settings.system else []
        self._opening = system + settings.messages
        shaping = [self._opening, self._sampling, sorted(self._locked)]
        encoded = msgspec.json.encode(shaping, order="deterministic")
        self.revision = hashlib.blake2b(encoded, digest_size=8).hexdigest()

    @property
    def stable(self) -> int:
        """How many messages at the beginning are the same in every request."""
        return len(self._opening)

    def fields(self, request: ChatRequest) -> Json:
        """The caller's fields over the defaults; InvalidRequest for one that is locked.

        A default gives way to the other word for the same choice, unless it is locked.
        """
        asked = request.body
        for name in self._locked:
            if asked.get(name) is not None and asked[name] != self._sampling.get(name):
                raise InvalidRequest(
                    f"The personality `{self.name}` does not let callers set `{name}`.", param=name
                )
        defaults = {
            name: value
            for name, value in self._sampling.items()
            if asked.get(name) is None and (name in self._locked or asked.get(_EITHER.get(name, "")) is None)
        }
        return {**asked, **defaults}

    def defaults(self, request: ChatRequest) -> frozenset[str]:
        """The fields that the caller left to this personality."""
        return frozenset(name for name in self._sampling if request.body.get(name) is None)

    def messages(self, request: ChatRequest) -> list[Json]:
        """What the provider gets: the personality first, then all that the caller wrote."""
        return self._opening + request.messages


def compile_all(settings: dict[str, PersonalitySettings], default_model: str) -> dict[str, Personality]:
    return {
        name: Personality(name, each, model=each.model or default_model) for name, each in settings.items()
    }
