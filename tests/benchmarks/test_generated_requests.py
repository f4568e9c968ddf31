"""What becomes of generated requests, a tenth of those that benchmarks.providers tries."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.providers.claude import MOST_DECLINED, outcomes
from benchmarks.providers.generate import requests
from dub5.errors import Unsupported
from dub5.providers.protocol import Call
from dub5.providers.quirks import Quirks

Json = dict[str, Any]


def test_of_generated_requests_none_is_refused_and_few_are_declined() -> None:
    """The same over 10,000: benchmarks.providers.claude."""
    found = list(outcomes(seed=1, count=1000))
    assert [(each.why, each.request.kinds) for each in found if each.result == "refused"] == []
    declined = [each.why for each in found if each.result == "declined"]
    assert "?" not in declined
    assert len(declined) <= 1.5 * MOST_DECLINED * len(found)  # of so few; the bar is for 10,000


def complaint(model: str, body: Json) -> str | None:
    """What OpenAI's reasoning models refuse: https://platform.openai.com/docs/guides/reasoning"""
    plain = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False}
    refused = {"top_logprobs", "logit_bias", "stop", "max_tokens"}
    if model.startswith("o"):
        refused.add("parallel_tool_calls")
    odd = {name for name in plain if body.get(name, plain[name]) not in (plain[name], None)}
    return next(iter(odd | {name for name in refused if body.get(name) is not None}), None)


@pytest.mark.parametrize("model", ["o3", "o4-mini", "gpt-5", "gpt-5.2"])
def test_of_generated_requests_none_is_refused(model: str) -> None:
    mended = 0
    for asked in requests(seed=3, count=400):
        if asked.body.get("reasoning_effort") == "none":  # then gpt-5.2 takes them all
            continue
        try:
            body = Quirks({}).applied(Call(model=model, body=asked.body, stream=False))
        except Unsupported:
            continue
        assert complaint(model, body) is None
        mended += complaint(model, asked.body) is not None
    assert mended > 50
