"""Which models the providers say they have, for entries of `models` such as `vllm/*`, which stand for all of them.

They are asked in the background: before a list is there nobody knows what such an entry stands for, and while a
provider is away the last list that it gave is in force. A list is bounded in bytes and in number, and so is all that is
kept for its names: a caller's own words lead nowhere.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from dub5.errors import Dub5Error, ProviderError
from dub5.telemetry.background import Background, BackgroundTask
from dub5.telemetry.logging import get_logger

REFRESH = 60.0
"""Seconds between two readings; until each provider has given a list once, fewer."""

MOST_BYTES = 4 * 2**20
"""Of one list. OpenRouter's, one of the longest, takes a fifth of it."""

MOST_LISTED = 2000
"""Models of one provider: what it lists beyond them does not exist here."""

LIST_TIMEOUT = 10.0
"""Seconds for a provider to give its list."""

_FIRST_PAUSE = 0.5
_ID = re.compile(r"[!-~]{1,200}")
_WINDOWS = ("context_window", "max_model_len", "context_length", "max_context_length", "max_input_tokens")
"""What Groq, vLLM, OpenRouter, Mistral and Anthropic call it, in this order; the first is ours, too."""

_KINDS: dict[str, Literal["chat", "embedding"]] = {
    "chat": "chat",
    "llm": "chat",
    "personality": "chat",
    "embedding": "embedding",
    "embeddings": "embedding",
}
_log = get_logger()


class ListedModel(msgspec.Struct, frozen=True):
    """A model as its provider describes it; None for what it does not say. `context_window` is in tokens."""

    id: str
    kind: Literal["chat", "embedding"] | None = None
    context_window: int | None = None


class _Entry(msgspec.Struct):
    id: Any = None
    kind: Any = None
    type: Any = None
    context_window: Any = None
    max_model_len: Any = None
    context_length: Any = None
    max_context_length: Any = None
    max_input_tokens: Any = None


class _List(msgspec.Struct):
    data: list[_Entry] | None


def parse(body: bytes) -> dict[str, ListedModel]:
    """The models of `GET /v1/models` by id, MOST_LISTED at most. ValueError where it is no list.

    In OpenAI's shape, or a bare array, as Together's. An entry without a usable id is left out.
    """
    found = msgspec.json.decode(body, type=_List | list[_Entry])
    entries = found if isinstance(found, list) else found.data or []
    listed: dict[str, ListedModel] = {}
    for entry in entries:
        if len(listed) == MOST_LISTED:
            break
        if isinstance(entry.id, str) and _ID.fullmatch(entry.id):
            listed[entry.id] = ListedModel(entry.id, _kind(entry), _window(entry))
    return listed


def _kind(entry: _Entry) -> Literal["chat", "embedding"] | None:
    for word in (entry.kind, entry.type):
        if isinstance(word, str) and word in _KINDS:
            return _KINDS[word]
    return None


def _window(entry: _Entry) -> int | None:
    for name in _WINDOWS:
        tokens = getattr(entry, name)
        if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 < tokens < 2**31:
            return tokens
    return None


@runtime_checkable
class ListsModels(Protocol):
    """A provider that can say what it has."""

    @property
    def name(self) -> str: ...

    async def listed(self) -> bytes:
        """Its list as it came, MOST_BYTES at most; raises a Dub5Error."""
        ...


class ModelLists:
    """The lists of these providers. `changes` grows whenever one of them is another than before."""

    def __init__(self, sources: Mapping[str, ListsModels], background: Background) -> None:
        self.changes = 0
        self._sources = sources
        self._lists: dict[str, dict[str, ListedModel]] = {}
        self._failing: set[str] = set()
        self._background = background
        self._watcher: BackgroundTask | None = None

    def of(self, provider: str) -> Mapping[str, ListedModel] | None:
        """The last list that it gave; None where it has given none yet."""
        return self._lists.get(provider)

    async def start(self) -> None:
        if self._sources:
            self._watcher = self._background.start("model-lists", self._watch)

    async def stop(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()

    async def refresh(self) -> None:
        """Ask each of them once. A failure is logged when it begins, and changes nothing."""
        await asyncio.gather(*(self._refresh(source) for source in self._sources.values()))

    async def _watch(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await self.refresh()
            pause = REFRESH if len(self._lists) == len(self._sources) else min(2 * pause, REFRESH)
            await asyncio.sleep(pause * (0.9 + self._background.rng() / 5))

    async def _refresh(self, source: ListsModels) -> None:
        name = source.name
        try:
            body = await source.listed()
            # In a thread: a list of the largest size takes some milliseconds.
            listed = await asyncio.to_thread(parse, body)
        except (Dub5Error, ValueError, RecursionError) as error:  # msgspec's are ValueErrors
            if name not in self._failing:
                self._failing.add(name)
                plain = error.plain if isinstance(error, ProviderError) else "its list of models is no list"
                _log.warning("models not listed", provider=name, reason=plain)
            return
        self._failing.discard(name)
        if listed != self._lists.get(name):
            self._lists[name] = listed
            self.changes += 1
            _log.info("models listed", provider=name, models=len(listed))
