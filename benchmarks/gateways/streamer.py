"""A client that keeps streams open: `python -m benchmarks.gateways.streamer URL STREAMS SECONDS FIRST REST HEADERS`.

It asks on STREAMS connections, on each one question after the other, questions numbered from FIRST on, for SECONDS
after a second of warming up, and prints as JSON what came in that time. Each chunk holds the moment at which the
provider wrote it, so the client sees how late it came, and how much longer than there the pause before it was here.
HEADERS are further request headers as JSON.

It only looks for what it needs: parsing HTTP and JSON would make the client the bottleneck. And of many streams it
watches one in ten: what comes on the others waits for it in the kernel, is read every REST seconds, and counted.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from functools import partial
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.figures import percentile
from benchmarks.gateways.questions import PATH, numbered

_STAMP = re.compile(rb"@(\d{10}\.\d{6})@")
_CARRIED = 32
"""Bytes of the last read that are looked at again: longer than a stamp or the end's marker."""
_WARM_UP = 1.0
_MANY, _WATCHED = 100, 10
_LAST = b"0\r\n\r\n"
"""Of an answer in chunks."""


class Seen(msgspec.Struct):
    """Of the measured time. `late`, `gaps` and `begun` are seconds: percentiles 50, 99 and the greatest.

    `late` is from the provider's writing to our reading; `gaps` how much longer a pause was here than there; `begun`
    from the question to the first chunk.
    """

    chunks: int = 0
    streams: int = 0
    failed: int = 0
    seconds: float = 0.0
    late: list[float] = []
    gaps: list[float] = []
    begun: list[float] = []


class Watch:
    """What all connections share: whether it counts now, and what was seen."""

    def __init__(self) -> None:
        self.counts = False
        self.over = False
        self.seen = Seen()
        self.late: list[float] = []
        self.gaps: list[float] = []
        self.begun: list[float] = []


class Connection(asyncio.Protocol):
    """Asks, reads to the end of the answer, asks again."""

    def __init__(self, watch: Watch, requests: Requests) -> None:
        self._watch = watch
        self._requests = requests
        self._begin()

    def _begin(self) -> None:
        self._carried = b""
        self._begun = False
        self._asked = self._sent = self._came = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        self._transport.write(self._requests.next())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self._begun:
            self._begun = True
            if not data.startswith(b"HTTP/1.1 200"):
                self._transport.abort()
                return
        data = self._carried + data
        looked_at = self._looked_at(data, now)
        self._carried = data[max(len(data) - _CARRIED, looked_at) :]
        if data.endswith(_LAST):
            if b"[DONE]" not in data[-_CARRIED:]:
                self._transport.abort()
                return
            if self._watch.counts:
                self._watch.seen.chunks += 1  # the one with the finish reason has no stamp
                self._watch.seen.streams += 1
            self._begin()
            if not self._watch.over:
                self._ask()

    def _looked_at(self, data: bytes, now: float) -> int:
        """How many of the bytes are not to be seen again."""
        watch = self._watch
        stamps = _STAMP.findall(data)
        for stamp in stamps:
            sent = float(stamp)
            if watch.counts:
                watch.late.append(now - sent)
                if self._sent:
                    watch.gaps.append((now - self._came) - (sent - self._sent))
                else:
                    watch.begun.append(now - self._asked)
            self._sent, self._came = sent, now
        if watch.counts:
            watch.seen.chunks += len(stamps)
        return data.rfind(stamps[-1]) + len(stamps[-1]) + 1 if stamps else 0

    def connection_lost(self, _: Exception | None) -> None:
        self._watch.seen.failed += not self._watch.over


class Unwatched(Connection):
    """Reads only now and then, and counts."""

    def __init__(self, watch: Watch, requests: Requests, rest: float) -> None:
        super().__init__(watch, requests)
        self._rest = rest
        self._marks = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._transport.is_closing():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(self._rest, self._transport.resume_reading)

    def _looked_at(self, data: bytes, _: float) -> int:
        if self._watch.counts:
            self._marks += data.count(b"@", len(self._carried))
            self._watch.seen.chunks += self._marks // 2
            self._marks %= 2
        return 0


class Requests:
    """One question after the other, each asked once."""

    def __init__(self, host: str, path: str, first: int, headers: dict[str, str]) -> None:
        self._host = host
        self._ask = numbered(path=path + PATH, headers=headers, stream=True, first=first)

    def next(self) -> bytes:
        request = self._ask.example(self._host)
        self._ask = msgspec.structs.replace(self._ask, first=self._ask.first + 1)
        return request


async def watched(
    url: str, streams: int, seconds: float, first: int, rest: float, headers: dict[str, str]
) -> Seen:
    address = urlsplit(url)
    watch, requests = Watch(), Requests(address.netloc, address.path, first, headers)
    loop = asyncio.get_running_loop()

    def connection(number: int) -> Connection:
        if streams >= _MANY and number % _WATCHED:
            return Unwatched(watch, requests, rest)
        return Connection(watch, requests)

    for number in range(streams):
        await loop.create_connection(partial(connection, number), address.hostname or "", address.port or 80)
    await asyncio.sleep(_WARM_UP)
    watch.counts, began = True, time.monotonic()
    await asyncio.sleep(seconds)
    watch.counts, watch.over = False, True
    seen = watch.seen
    seen.seconds = time.monotonic() - began
    seen.late, seen.gaps, seen.begun = map(_summary, (watch.late, watch.gaps, watch.begun))
    return seen


def _summary(values: list[float]) -> list[float]:
    return [percentile(values, 50), percentile(values, 99), max(values)] if values else []


if __name__ == "__main__":
    _, url, streams, seconds, first, rest, headers = sys.argv
    found = uvloop.run(
        watched(url, int(streams), float(seconds), int(first), float(rest), json.loads(headers))
    )
    print(msgspec.json.encode(found).decode())
