"""What is asked: by heads and bodies with holes, which `wrk` fills in anew for each request.

Hits are asked as a replica of a busy service is asked: 10,000 questions by Zipf's law, from the clients of
`clients.yaml`, each of which writes the fields of a question in an order of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

PATH = "/v1/chat/completions"
KEY = "key-000000000000"
KINDS = 10_000
"""Questions that hits ask for."""

HOST, NUMBER, LENGTH, FRESH = b"{host}", b"\x01", b"\x02", b"\x03"
"""Holes: the server's address, the question's number, the body's length, 32 and 16 hexadecimal digits that no other
request has."""
DIGITS = 12
"""Of a number."""


class Ask(msgspec.Struct, frozen=True):
    """Questions numbered from `first`: each new, or out of `count` in turn, at random, or by Zipf's law.

    A head is taken at random, and with it one of the question's `spellings`, which stand in `bodies` one after the
    other. Where bodies are not `seen`, white space that no other one has comes after each.
    """

    heads: tuple[bytes, ...]
    bodies: tuple[bytes, ...]
    order: Literal["new", "turn", "random", "zipf"] = "new"
    first: int = 0
    count: int = 1
    spellings: int = 1
    seen: bool = True

    def example(self, host: str, head: int = 0) -> bytes:
        """A request as wrk sends it, by one of the heads; each with another question, where there are more."""
        number = self.first + (head % self.count if self.order != "new" else 0)
        body = self.bodies[(number * self.spellings + head % self.spellings) % len(self.bodies)]
        digits = b"%0*d" % (DIGITS, number)
        body = body.replace(NUMBER, digits)
        fills = {
            HOST: host.encode(),
            NUMBER: digits,
            LENGTH: b"%d" % len(body),
            FRESH: b"%032x-%016x" % (1, 1),
        }
        filled = self.heads[head]
        for hole, value in fills.items():
            filled = filled.replace(hole, value)
        return filled + body


def numbered(
    *,
    path: str = PATH,
    filler: int = 0,
    headers: Mapping[str, str] | None = None,
    stream: bool = False,
    **ask: Any,
) -> Ask:
    """Short questions of one plain client: a number, after `filler` bytes. In a header twelve zeros are the number."""
    lines = {
        "Host": "{host}",
        "Content-Type": "application/json",
        **(headers or {}),
        "Content-Length": "\x02",
    }
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    text = "x" * filler + f"question {'0' * DIGITS}"
    body: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": text}]}
    if path == "/v1/messages":
        body["max_tokens"] = 300
    if stream:
        body["stream"] = True
    parts = f"{head}\r\n", json.dumps(body, separators=(",", ":"))
    holed = [part.replace("0" * DIGITS, "\x01").encode() for part in parts]
    return Ask((holed[0],), (holed[1],), **ask)


@cache
def heads(path: str) -> tuple[bytes, ...]:
    """Of the clients, as if each called `path`; their keys are where it takes them."""
    clients = yaml.safe_load(Path(__file__).with_name("clients.yaml").read_text(encoding="utf-8"))
    holes = {"{key}": KEY, "{length}": "\x02", "{id}": "\x03"}
    made = []
    for text in clients.values():
        head = "".join(f"{line.strip()}\r\n" for line in text.split(" | "))
        if path != "/v1/messages":
            head = re.sub("x-api-key: ", "Authorization: Bearer ", head, flags=re.IGNORECASE)
        for name, hole in holes.items():
            head = head.replace(name, hole)
        made.append(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode())
    return tuple(made)


@cache
def hits(
    protocol: Literal["chat", "messages", "responses"] = "chat",
    model: str = "small",
    *,
    order: Literal["zipf", "random"] = "zipf",
    seen: bool = True,
    kinds: int = KINDS,
) -> Ask:
    """Of so many `kinds` of questions."""
    text, system = f"question {'0' * DIGITS}: what do clients ask for, and how often?", "You answer briefly."
    fields: dict[str, Any] = {"model": model, "temperature": 0.7}
    messages = [{"role": "user", "content": text}]
    if protocol == "chat":
        path = PATH
        fields |= {"messages": [{"role": "system", "content": system}, *messages], "max_tokens": 300}
    elif protocol == "messages":
        path = "/v1/messages"
        fields |= {"system": system, "messages": messages, "max_tokens": 300}
    else:
        path = "/v1/responses"
        fields |= {"input": messages, "instructions": system, "max_output_tokens": 300, "store": False}
    spelt = [_spelling(fields, number) for number in range(len(fields))]
    digits = (b"%0*d" % (DIGITS, number) for number in range(kinds))
    bodies = tuple(body.replace(b"0" * DIGITS, each) for each in digits for body in spelt)
    return Ask(heads(path), bodies, order, count=kinds, spellings=len(spelt), seen=seen)


def _spelling(fields: dict[str, Any], number: int) -> bytes:
    """Orders of fields, and half of the times no spaces, as clients have them."""
    items = list(fields.items())
    turned = dict(items[number:] + items[:number])
    return json.dumps(turned, separators=(",", ":") if number % 2 else None).encode()
