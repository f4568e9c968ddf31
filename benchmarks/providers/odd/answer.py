"""What an odd answer is: its bytes, and what a tolerant reader reads in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from benchmarks.providers.fake import Step

Json = dict[str, Any]
Part = bytes | Step


class Tool(msgspec.Struct, frozen=True):
    """A call of a tool: `arguments` as text; `input` of a custom tool is in its place."""

    id: str
    name: str
    arguments: str


class Said(msgspec.Struct, frozen=True):
    """One choice, as a tolerant reader reads it. `finish` is None where it does not matter."""

    content: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: tuple[Tool, ...] = ()
    finish: str | None = "stop"


class Odd(msgspec.Struct, frozen=True):
    """`stream` is the body of a streamed answer, `whole` of a whole one; None where this oddity has no such shape.

    `asks` are fields of the request. `kind` says whose API it is. With `optional` an error is right as well: clients
    differ about whether there is an answer in it. `unread` are readers to whom no stream can say this message.
    """

    name: str
    stream: tuple[Part, ...] | None = None
    whole: bytes | None = None
    says: tuple[Said, ...] = ()
    stored: bool | None = True
    kind: Literal["openai", "anthropic"] = "openai"
    asks: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    optional: bool = False
    unread: tuple[str, ...] = ()
    stream_type: str = "text/event-stream"
    whole_type: str = "application/json"
