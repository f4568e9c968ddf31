"""One streamed answer on its way to one client, and what it gets while there is none: head and SSE comments.

Proxies cut a connection on which nothing comes for a minute or so, and models think for longer. So after each
interval without a byte the client gets a comment, which readers of server-sent events pass over; the first one
brings the head with it, if that has not gone. Until then a failure can have its true status.

One timer for a whole stream, which what is sent moves only by noting when. Where it rings in a silence a task
sends the comment. Everything else waits for that task before it sends, and the timer for what is being sent:
so nothing gets in between, and no comments pile up for a client that does not read.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Self

from litestar.types import Message, Send

from dub5.api.http import Headers
from dub5.telemetry.record import HEARTBEAT

_SENDING = math.inf
"""Silent since then: not yet."""


class EventStream:
    """`interval` is in seconds, 0 for no heartbeat. `on_begin` is called when the head has gone."""

    __slots__ = (
        "_beat",
        "_head",
        "_interval",
        "_loop",
        "_on_begin",
        "_over",
        "_send",
        "_silent_since",
        "_timer",
        "begun",
    )

    def __init__(self, send: Send, interval: float, on_begin: Callable[[], None]) -> None:
        self.begun = self._over = False
        self._send = send
        self._interval = interval
        self._on_begin = on_begin
        self._loop = asyncio.get_running_loop()
        self._silent_since = _SENDING
        self._head: Callable[[], Headers] = list
        self._timer: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """No comment after this."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()

    def expect(self, head: Callable[[], Headers]) -> None:
        """The answer has to be waited for: from now on silence is told, the first time with this head."""
        if self._interval:
            self._head = head
            self._silent_since = self._loop.time()
            self._set(self._silent_since)

    async def begin(self, head: Callable[[], Headers]) -> None:
        """Send the head, unless a heartbeat has."""
        if self._beat is not None:
            await self._beat
        if not self.begun:
            await self._put_head(head())

    async def relay(self, events: AsyncIterator[bytes]) -> None:
        """Send each as it comes, then the end."""
        send, now = self._send, self._loop.time
        async for event in events:
            if self._beat is not None:
                await self._beat
            self._silent_since = _SENDING
            await send({"type": "http.response.body", "body": event, "more_body": True})
            self._silent_since = now()
        await self.end()

    async def end(self, last: bytes = b"") -> None:
        """Send the `last` event, if any, and the end."""
        if self._beat is not None:
            await self._beat
        self._silent_since = _SENDING
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def _put_head(self, headers: Headers) -> None:
        self._silent_since = _SENDING
        start: Message = {"type": "http.response.start", "status": 200, "headers": headers}
        await self._send(start)
        self._silent_since = self._loop.time()
        self.begun = True
        self._on_begin()

    def _set(self, since: float) -> None:
        self._timer = self._loop.call_at(since + self._interval, self._rang)

    def _rang(self) -> None:
        now = self._loop.time()
        since = min(self._silent_since, now)
        if now < since + self._interval:
            self._set(since)
        else:
            self._beat = self._loop.create_task(self._tell_silence())
            # A callback, for a task that is cancelled before it began runs nothing; and before whoever awaits it.
            self._beat.add_done_callback(self._told_silence)

    async def _tell_silence(self) -> None:
        if not self.begun:
            await self._put_head(self._head())
        await self._send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})

    def _told_silence(self, beat: asyncio.Task[None]) -> None:
        self._beat = None
        if not (self._over or beat.cancelled()):
            self._silent_since = self._loop.time()
            self._set(self._silent_since)
