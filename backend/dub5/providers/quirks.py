"""What a model's requests have to be like beside the common ones: fields that it refuses or knows by another name.

    quirks = Quirks(settings.quirks, BUILT_IN)
    body = quirks.applied(call)      # `call.body` as this model takes it; Unsupported where it cannot

The operator's table goes before ours, and in each the first pattern that matches. A hint is dropped, whoever gave it:
the answer is still one to the question. What would be missing from the answer (`logprobs`) or wrong in it (`stop`) is
refused where a caller asked for it, so that another route is asked; a default of a personality gives way. A value
that asks for nothing (`n: 1`, `logprobs: false`) is no request.

Sources of `BUILT_IN`: https://platform.openai.com/docs/guides/reasoning,
https://learn.microsoft.com/azure/ai-foundry/openai/how-to/reasoning, and reports of what is refused:
griptape-ai/griptape issue 1915 (o4-mini), decolua/9router issue 560 (gpt-5-mini, gpt-5.4), vercel/ai pull request 10940
(gpt-5.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache

import msgspec

from dub5.errors import Unsupported
from dub5.providers.protocol import Call, Json
from dub5.settings.model import Quirk

_HINTS = ["temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias"]
_reasoning = Quirk(
    drop=_HINTS,
    refuse=["logprobs", "top_logprobs", "stop"],
    rename={"max_tokens": "max_completion_tokens"},
)
_o_series = msgspec.structs.replace(_reasoning, drop=[*_HINTS, "parallel_tool_calls"])
_first_ones = msgspec.structs.replace(
    _o_series,
    refuse=[*_reasoning.refuse, "n", "tools"],
    roles={"system": "user", "developer": "user"},
)

BUILT_IN: Mapping[str, Quirk] = {
    "o1-mini*": _first_ones,
    "o1-preview*": _first_ones,
    **dict.fromkeys(("o1", "o1-*", "o3", "o3-*", "o4-*", "codex-mini*"), _o_series),
    "gpt-5-chat*": Quirk(),
    "gpt-5.[1-9]*": msgspec.structs.replace(_reasoning, unless={"reasoning_effort": "none"}),
    "gpt-5*": _reasoning,
}
"""OpenAI's reasoning models, by patterns of their names."""

_ASKS_FOR_NOTHING: Json = {
    "n": 1,
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": {},
    "stop": [],
    "tools": [],
}


class Quirks:
    """The quirks of one provider's models."""

    def __init__(self, own: Mapping[str, Quirk], built_in: Mapping[str, Quirk] = BUILT_IN) -> None:
        self._tables = (own, built_in)
        self.of = lru_cache(maxsize=256)(self._find)  # the quirk of a model, None where it has none

    def applied(self, call: Call) -> Json:
        """The body of `call` as its model takes it; Unsupported where the caller asks for what it cannot do."""
        quirk = self.of(call.model)
        return call.body if quirk is None else applied(quirk, call.body, call.defaults)

    def _find(self, model: str) -> Quirk | None:
        """The whole name, and without what is before a slash: `openai/gpt-5` is OpenAI's."""
        names = (model, model.lower().rpartition("/")[2])
        for table in self._tables:
            for pattern, quirk in table.items():
                if any(fnmatchcase(name, pattern) for name in names):
                    return quirk
        return None


def applied(quirk: Quirk, body: Json, defaults: frozenset[str] = frozenset()) -> Json:
    """`body` as a model with this quirk takes it; `defaults` names the fields that nobody asked for."""
    result = dict(body)
    if not any(body.get(name) == value for name, value in quirk.unless.items()):
        for name in quirk.refuse:
            value = result.pop(name, None)
            asked = value is not None and value != _ASKS_FOR_NOTHING.get(name)
            if asked and name not in defaults:
                raise Unsupported(f"`{name}`: this model cannot do that; leave it out.", param=name)
        for name in quirk.drop:
            result.pop(name, None)
    for name, other in quirk.rename.items():
        value = result.pop(name, None)
        if value is not None and result.get(other) is None:
            result[other] = value
    if quirk.roles:
        result["messages"] = [_renamed(message, quirk.roles) for message in body.get("messages", ())]
    return result


def _renamed(message: Json, roles: Mapping[str, str]) -> Json:
    role = message.get("role")
    return {**message, "role": roles[role]} if isinstance(role, str) and role in roles else message
