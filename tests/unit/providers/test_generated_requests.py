"""What becomes of generated requests: of a tenth of those of docs/reports/providers.md; `SIZE=10000` tries them all."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import msgspec
import pytest

from dub5.chat.request import parse
from dub5.errors import InvalidRequest, Unsupported
from dub5.providers.anthropic_request import request
from dub5.providers.protocol import Call
from dub5.providers.quirks import Quirks
from testkit.anthropic_rules import refusal
from tests.harness import size
from tests.providers.requests import Request, requests

Json = dict[str, Any]

COUNT = size(1000)
MOST_DECLINED = 0.05


class Outcome(NamedTuple):
    """`why` is the field of a request that was declined, or what the rules say to a body that is refused."""

    result: str
    why: str = ""


def outcome(asked: Request) -> Outcome:
    """`taken`, `declined` or `refused`. A request that we would refuse ourselves is a fault of the generator."""
    parsed = parse(msgspec.json.encode(asked.body)).body
    given = {name: parsed[name] for name in parsed if name not in ("model", "stream", "stream_options")}
    streamed = bool(asked.body.get("stream"))
    try:
        body = request(given, model=asked.model, max_tokens=4096, stream=streamed, stable=1)
    except Unsupported as error:
        return Outcome("declined", error.param or "?")
    except InvalidRequest as error:  # the caller would be told that no provider can
        return Outcome("refused", f"InvalidRequest: {error.message}")
    complaint = refusal(body)
    return Outcome("taken" if complaint is None else "refused", complaint or "")


def test_of_generated_requests_none_is_refused_and_few_are_declined() -> None:
    """By Claude's public rules. With -rP it shows the outcomes by what is odd about the requests."""
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    refused, declined = [], 0
    for asked in requests(seed=1, count=COUNT):
        found = outcome(asked)
        assert found.why != "?"
        field = re.sub(r"\[\d+\]", "", found.why)
        for kind in asked.kinds:
            by_kind[kind][f"{found.result} {field}".strip()] += 1
        refused += [(found.why, asked.kinds)] if found.result == "refused" else []
        declined += found.result == "declined"
    for kind, counted in sorted(by_kind.items()):
        print(f"| {kind} | {', '.join(f'{count} {what}' for what, count in counted.most_common())} |")  # noqa: T201  # the table of the report
    assert refused == []
    allowed = MOST_DECLINED if COUNT >= 10_000 else 1.5 * MOST_DECLINED  # of few; the bar is for 10,000
    assert declined <= allowed * COUNT


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
