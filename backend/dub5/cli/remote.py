"""A running service as the command line sees it: `dub5 cache stats | invalidate | warm`.

Speaks HTTP to the public listener like any other client; the key comes from the environment (`DUB5_KEY`), so
that it is in no shell history.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from dub5.errors import ConfigError


class Refused(Exception):
    """The service said no, or was not there; the message is for people."""


class Warmed(msgspec.Struct):
    """How far warming has come."""

    done: int = 0
    hits: int = 0
    failed: int = 0


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
        """Purge; Refused where it did not take effect everywhere."""
        return await self._ask("POST", "/v1/cache/invalidations", what)

    async def warm(
        self, lines: list[dict[str, Any]], *, rate: float, tell: Callable[[Warmed], None]
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
            except Refused:
                warmed.failed += 1
            warmed.done += 1
            tell(warmed)
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
        answer: dict[str, Any] = (await self._send(method, path, body)).json()
        return answer

    async def _send(
        self, method: str, path: str, body: Any, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            response = await self._client.request(method, path, json=body, headers=headers)
        except httpx.TransportError as error:
            raise Refused(
                f"cannot reach {self._client.base_url}: {str(error) or type(error).__name__}"
            ) from None
        if response.is_error:
            try:
                message = response.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                message = "no reason given"
            raise Refused(f"{response.status_code}: {message}")
        return response


def read_questions(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file: `{"request": {…}}` to ask, with `answer` to store, with `tags`.

    For short, `{"question": "…", "model": "…"}` stands for a request with one user message.
    ConfigError names the line that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {type(error).__name__}") from None
    return list(_lines(text))


def _lines(text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield _line(number, line)


def _line(number: int, line: str) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(line)
    except msgspec.MsgspecError as error:
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
    return data
