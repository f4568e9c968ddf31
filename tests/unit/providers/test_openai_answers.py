"""What comes of a provider's bytes where they are one answer too few, one too many, or odd in part."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from dub5.providers.http import events_in
from dub5.providers.odd_answers import Unusable
from dub5.providers.openai import Frames, answer
from dub5.providers.protocol import Json


def completion(text: str, *, index: int = 0, **more: object) -> Json:
    message = {"role": "assistant", "content": text}
    return {"id": "c", "choices": [{"index": index, "message": message, "finish_reason": "stop"}], **more}


def lines(*completions: Json) -> bytes:
    return b"\n".join(json.dumps(each).encode() for each in completions)


def events(*chunks: Json) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks)


async def streamed(body: bytes, frames: Frames) -> list[Json]:
    found = [chunk.data async for event, data in events_in(body) for chunk in frames.read(event, data)]
    frames.close()
    return found


@pytest.mark.parametrize("written", [lines, events])
async def test_a_second_answer_is_not_joined_to_the_first(written: Callable[..., bytes]) -> None:
    body = written(completion("one"), completion("two"))
    with pytest.raises(Unusable, match="second answer"):
        await answer(body, "acme")
    with pytest.raises(Unusable, match="second answer"):
        await streamed(body, Frames())


async def test_others_run_while_a_long_stream_is_read_as_a_whole_answer() -> None:
    words = [{"choices": [{"index": 0, "delta": {"content": "a "}, "finish_reason": None}]}] * 5000
    body = events(*words, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    reading, turns = asyncio.create_task(answer(body, "acme")), 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    [choice] = (await reading).data["choices"]
    assert choice["message"]["content"] == "a " * 5000
    assert turns > len(body) / 2**14


async def test_another_choice_is_no_second_answer() -> None:
    body = lines(completion("one"), completion("two", index=1))
    joined = (await answer(body, "acme")).data["choices"]
    assert [choice["message"]["content"] for choice in joined] == ["one", "two"]


ONE_OF_TWO = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "one"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]


async def test_a_stream_that_is_closed_with_too_few_choices_is_no_answer() -> None:
    body = events(*ONE_OF_TWO)
    with pytest.raises(Unusable, match="fewer choices"):
        await streamed(body, Frames(expected=2))
    with pytest.raises(Unusable, match="fewer choices"):
        await answer(body, "acme", expected=2)
    assert await streamed(body, Frames()) == ONE_OF_TWO


@pytest.mark.parametrize("usage", [[1], "none", 7])
async def test_what_cannot_be_usage_is_left_out(usage: object) -> None:
    odd, proper = completion("one", usage=usage), completion("one")
    given = await answer(json.dumps(odd).encode(), "acme")
    assert given.data == json.loads(given.raw) == proper
    assert "usage" not in (await answer(events(odd), "acme")).data


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "3"}])
async def test_usage_is_kept_as_it_came(usage: object) -> None:
    raw = json.dumps(completion("one", usage=usage)).encode()
    assert (await answer(raw, "acme")).raw == raw
