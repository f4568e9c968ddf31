"""Personalities: a system prompt, examples and sampling defaults under a name that is used like a model's.

What a personality puts before the caller's messages is composed once per revision and shared by all
requests; the caller's own system message comes after it. The revision is a hash of everything that shapes
the answer, and part of each cache key.

What is locked the caller cannot set under another name either. A limit on an answer is none where the caller may have
a hundred of them, so a locked limit locks what multiplies cost or length. And since providers know more fields than we
do, some of which do the same by other names, whoever locks any of these lets callers set known fields only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from dub5.chat.request import ChatRequest, Message
from dub5.errors import ConfigError, InvalidRequest
from dub5.providers.protocol import Json
from dub5.settings.model import PersonalitySettings

_LONGEST_NAME = 100

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""Two names of one limit: a caller who sets either means to replace a default of the other."""

_EITHER = {**_LIMITS, "temperature": "top_p", "top_p": "temperature"}
"""What replaces a default beside its own name. Providers ask for one of the last two, and some refuse both."""

_TOOLS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")

_TOGETHER = (
    ("max_tokens", "max_completion_tokens"),
    ("n", "best_of"),
    ("reasoning_effort", "thinking"),
    ("modalities", "audio"),
    ("logprobs", "top_logprobs"),
    _TOOLS,
)
"""Fields that are locked together: names of one thing, or nothing without each other."""

_MULTIPLIERS = frozenset(
    {"n", "best_of", "reasoning_effort", "thinking", "service_tier", "prediction", "modalities", "audio"}
    | {"web_search_options", "logprobs", "top_logprobs"}
)
"""What makes answers longer or dearer than their limit says."""

_COSTLY = _MULTIPLIERS | _LIMITS.keys()

_KNOWN = _COSTLY.union(
    _TOOLS,
    ("model", "messages", "stream", "stream_options", "response_format", "stop", "verbosity", "logit_bias"),
    ("temperature", "top_p", "top_k", "min_p", "seed"),
    ("presence_penalty", "frequency_penalty", "repetition_penalty"),
    ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
)
"""Those, and what costs nothing more."""

_AS_IF_UNSET: Json = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "parallel_tool_calls": (True,),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
}
"""What clients may write into a locked field that has no default, since it means the same as leaving it out."""

_OWN_TOOLS = ("function", "custom")
"""Kinds of tools that the caller runs; the provider runs and charges for any other."""


class Personality:
    """A configured personality, ready to be applied to requests. `model` names one of ours."""

    def __init__(self, name: str, settings: PersonalitySettings, *, model: str) -> None:
        self.name = name
        self.description = settings.description
        self.model = model
        self.cache_class = settings.cache_class
        self._locked = _locked(settings.locked)
        self._only_known = not self._locked.isdisjoint(_COSTLY)
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
        if self._locked:
            self._refuse_locked(asked)
        defaults = {
            name: value
            for name, value in self._sampling.items()
            if asked.get(name) is None and (name in self._locked or asked.get(_EITHER.get(name, "")) is None)
        }
        return {**asked, **defaults}

    def _refuse_locked(self, asked: Json) -> None:
        for name in self._locked:
            value = asked.get(name)
            if value is not None and not self._is_as_set(name, value):
                raise self._refusal(name)
        if self._only_known:
            for name, value in asked.items():
                if value is not None and name not in _KNOWN:
                    raise self._refusal(name)
        if "web_search_options" in self._locked:
            for tool in asked.get("tools") or ():
                if tool.get("type", "function") not in _OWN_TOOLS:
                    raise self._refusal("tools")

    def _is_as_set(self, name: str, value: Any) -> bool:
        default = self._sampling.get(name)
        same = (default,) if default is not None else _AS_IF_UNSET.get(name, ())
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in same)

    def _refusal(self, name: str) -> InvalidRequest:
        shown = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"
        return InvalidRequest(
            f"The personality `{self.name}` does not let callers set `{shown}`.", param=shown
        )

    def defaults(self, request: ChatRequest) -> frozenset[str]:
        """The fields that the caller left to this personality."""
        return frozenset(name for name in self._sampling if request.body.get(name) is None)

    def messages(self, request: ChatRequest) -> list[Json]:
        """What the provider gets: the personality first, then all that the caller wrote."""
        return self._opening + request.messages


def _locked(names: Iterable[str]) -> frozenset[str]:
    """What these names lock in all."""
    locked = set(names)
    if not locked.isdisjoint(_LIMITS):
        locked |= _MULTIPLIERS
    if "tools" in locked:
        locked.add("web_search_options")  # a tool of the provider's by another name
    for together in _TOGETHER:
        if not locked.isdisjoint(together):
            locked.update(together)
    return frozenset(locked)


def compile_all(settings: dict[str, PersonalitySettings], default_model: str) -> dict[str, Personality]:
    """ConfigError where one has messages that would be refused if a caller sent them."""
    for name, each in settings.items():
        _check_messages(f"personalities.{name}.messages", each.messages)
    return {
        name: Personality(name, each, model=each.model or default_model) for name, each in settings.items()
    }


def _check_messages(where: str, messages: list[Json]) -> None:
    try:
        msgspec.convert(messages, list[Message])
    except msgspec.ValidationError as error:
        text, _, place = str(error).rpartition(" - at `$")
        raise ConfigError(f"{where}{place.rstrip('`')}: {text}") from None
