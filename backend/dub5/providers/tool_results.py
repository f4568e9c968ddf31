"""Pictures and files that a tool gave, for providers that speak Chat Completions. A pure function, no I/O.

Chat knows them in messages of the user alone. They come in one after the result, and where several tools were called at
once after the last of the results: nothing may come between a call and its result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dub5.providers.protocol import Json

_SAID = ("text", "refusal")


def pictures_after(messages: Iterable[Json]) -> Iterator[Json]:
    """The messages, with what any but the user's show moved into a message of the user: behind it, or behind the last
    result of a tool that follows it."""
    shown: list[Json] = []
    for message in messages:
        if shown and message["role"] != "tool":
            yield {"role": "user", "content": shown}
            shown = []
        content = message.get("content")
        if message["role"] == "user" or not isinstance(content, list):
            yield message
            continue
        said = [part for part in content if part["type"] in _SAID]
        shown += [part for part in content if part["type"] not in _SAID]
        yield message if len(said) == len(content) else {**message, "content": said or ""}
    if shown:
        yield {"role": "user", "content": shown}
