"""`dub5 cache stats | invalidate | warm`, of a service that runs.

Speaks HTTP to the public listener like any other client; the key comes from the environment (`DUB5_KEY`), so
that it is in no shell history.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
import uvloop

from dub5.cli import command
from dub5.cli.command import Failed
from dub5.cli.standard_streams import complain, write
from dub5.errors import ConfigError

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    stats = command.add(
        commands, "stats", "Print what the cache holds and does, as JSON.", "dub5 cache stats"
    )
    stats.set_defaults(run=_stats)
    purge = command.add(
        commands,
        "invalidate",
        "Purge answers everywhere within a second; exit code 1 where that failed.",
        "dub5 cache invalidate --tag prices --tag doc-17",
    )
    purge.add_argument("--tag", action="append", dest="tags", help="may be given more than once")
    for name in ("personality", "model", "class", "tenant"):
        purge.add_argument(f"--{name}", metavar="NAME")
    purge.add_argument("--all", action="store_true", help="everything")
    purge.set_defaults(run=_invalidate)
    warm = command.add(
        commands,
        "warm",
        "Fill the cache with common questions and written answers, one JSON object a line.",
        "dub5 cache warm questions.jsonl --rate 5",
    )
    warm.add_argument("file", type=Path, metavar="QUESTIONS.jsonl")
    warm.add_argument("--rate", type=_rate, default=2.0, help="questions per second at most (default 2)")
    warm.set_defaults(run=_warm)
    for each in (stats, purge, warm):
        command.add_url(each)


def _rate(written: str) -> float:
    rate = float(written)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 1000")
    return rate


def _stats(args: argparse.Namespace) -> int:
    write(json.dumps(_with_remote(args, lambda remote: remote.stats()), indent=2))
    return 0


def _invalidate(args: argparse.Namespace) -> int:
    fields = {
        name: getattr(args, name) for name in ("tags", "personality", "model", "class", "tenant", "all")
    }
    # What is empty is the service's to refuse: without it more would be purged than was meant.
    what = {name: value for name, value in fields.items() if value not in (None, False)}
    purged = _with_remote(args, lambda remote: remote.invalidate(what))["purged"]
    write(f"Purged: {', '.join(purged)}")
    return 0


def _warm(args: argparse.Namespace) -> int:
    lines = read_questions(args.file)
    terminal = sys.stderr.isatty()

    def report_progress(warmed: Warmed) -> None:
        if terminal or warmed.done == len(lines):
            text = f"{warmed.done} of {len(lines)}, {warmed.hits} were there already, {warmed.failed} failed"
            complain(text, end="\r" if terminal and warmed.done < len(lines) else "\n")

    warmed = _with_remote(
        args, lambda remote: remote.warm(lines, rate=args.rate, report_progress=report_progress)
    )
    if warmed.failed:
        raise Failed(f"the first of them that failed, {warmed.why}")
    return 0


def _with_remote(args: argparse.Namespace, ask: Callable[[Remote], Awaitable[T]]) -> T:
    remote = Remote(args.url, command.own_key(os.environ))

    async def run() -> T:
        async with remote:
            return await ask(remote)

    return uvloop.run(run())


class Warmed(msgspec.Struct):
    """How far warming has come. `why`: which question failed first, and how."""

    done: int = 0
    hits: int = 0
    failed: int = 0
    why: str = ""


class Remote:
    """One service. `url` is its public listener."""

    def __init__(self, url: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        context = ssl.create_default_context() if url.startswith("https:") else False
        self._client = httpx.AsyncClient(base_url=url, headers=headers, timeout=120, verify=context)

    async def __aenter__(self) -> Remote:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def stats(self) -> dict[str, Any]:
        """What `GET /v1/cache` says."""
        return await self._ask("GET", "/v1/cache")

    async def invalidate(self, what: dict[str, Any]) -> dict[str, Any]:
        """Purge; Failed where it did not take effect everywhere."""
        return await self._ask("POST", "/v1/cache/invalidations", what)

    async def warm(
        self, lines: list[dict[str, Any]], *, rate: float, report_progress: Callable[[Warmed], None]
    ) -> Warmed:
        """Ask or store each line, at most `rate` a second, and no faster than answers come."""
        warmed = Warmed()
        loop = asyncio.get_running_loop()
        due = loop.time()
        for line in lines:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due = max(due, loop.time()) + 1 / rate
            try:
                warmed.hits += await self._warm_one(line)
            except Failed as error:
                warmed.failed += 1
                warmed.why = warmed.why or f"number {warmed.done + 1}: {error}"
            warmed.done += 1
            report_progress(warmed)
        return warmed

    async def _warm_one(self, line: dict[str, Any]) -> bool:
        """Whether the answer was there already."""
        tags = line.get("tags", [])
        if "answer" in line:
            await self._ask("POST", "/v1/cache/answers", line)
            return False
        response = await self._send(
            "POST", "/v1/chat/completions", line["request"], {"x-dub5-cache-tags": ",".join(tags)}
        )
        return "; hit" in response.headers.get("cache-status", "")

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        response = await self._send(method, path, body)
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.DecodeError:
            raise Failed(f"{response.status_code}, but {self._client.base_url} is no DUB5") from None

    async def _send(
        self, method: str, path: str, body: Any, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            response = await self._client.request(method, path, json=body, headers=headers)
        except httpx.TransportError as error:
            raise Failed(
                f"cannot reach {self._client.base_url}: {str(error) or type(error).__name__}"
            ) from None
        if not response.is_success:  # also where it sends us elsewhere: nothing was done
            try:
                message = response.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = "no reason given"
            raise Failed(f"{response.status_code}: {message}")
        return response


def read_questions(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file: `{"request": {…}}` to ask, with `answer` to store, with `tags`.

    For short, `{"question": "…", "model": "…"}` stands for a request with one user message.
    ConfigError names the line that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: not UTF-8 at byte {error.start}") from None
    return list(_lines(text))


def _lines(text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):  # texts may have what else ends a line
        if line.strip():
            yield _line(number, line)


def _line(number: int, line: str) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ConfigError(f"line {number}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"line {number}: must be an object")
    if isinstance(data.get("question"), str) and isinstance(data.get("model"), str):
        messages = [{"role": "user", "content": data.pop("question")}]
        data["request"] = {"model": data.pop("model"), "messages": messages}
    unknown = data.keys() - {"request", "answer", "tags"}
    if unknown or not isinstance(data.get("request"), dict):
        raise ConfigError(
            f"line {number}: needs `request`, or `question` and `model`; besides them only `answer` and `tags`"
        )
    tags = data.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.isascii() for tag in tags):
        raise ConfigError(f"line {number}: `tags` must be a list of texts in ASCII")
    return data
