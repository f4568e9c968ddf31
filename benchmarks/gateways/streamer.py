"""A client that keeps streams open: `python -m benchmarks.gateways.streamer URL STREAMS SECONDS FIRST [HEADERS]`.

It asks on STREAMS connections, on each one question after the other, questions numbered from FIRST on, for SECONDS
after a second of warming up, and prints as JSON what came in that time. Each chunk holds the moment at which the
provider wrote it, so the client sees how late it came, and how much longer than there the pause before it was here.
HEADERS are further request headers as JSON.

It only looks for what it needs: parsing HTTP and JSON would make the client the bottleneck.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from urllib.parse import urlsplit

import msgspec
import uvloop

from benchmarks.figures import percentile

PATH = "/v1/chat/completions"
_STAMP = re.compile(rb"@(\d{10}\.\d{6})@")
_CARRIED = 32
"""Bytes of the last read that are looked at again: longer than a stamp or the end's marker."""
_WARM_UP = 1.0


class Seen(msgspec.Struct):
    """Of the measured time. `late` and `gaps` are seconds: percentiles 50, 99 and the greatest.

    `late` is from the provider's writing to our reading; `gaps` how much longer a pause was here than there.
    """

    chunks: int = 0
    streams: int = 0
    failed: int = 0
    seconds: float = 0.0
    late: list[float] = []
    gaps: list[float] = []


class Watch:
    """What all connections share: whether it counts now, and what was seen."""

    def __init__(self) -> None:
        self.counts = False
        self.over = False
        self.seen = Seen()
        self.late: list[float] = []
        self.gaps: list[float] = []
        self.open = 0


class Connection(asyncio.Protocol):
    """Asks, reads to the end of the answer, asks again."""

    def __init__(self, watch: Watch, requests: Requests) -> None:
        self._watch = watch
        self._requests = requests
        self._begin()

    def _begin(self) -> None:
        self._carried = b""
        self._begun = False
        self._done = False
        self._sent = self._came = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.write(self._requests.next())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        watch = self._watch
        if not self._begun:
            self._begun = True
            watch.open += 1
            if not data.startswith(b"HTTP/1.1 200"):
                self._transport.abort()
                return
        data = self._carried + data
        stamps = _STAMP.findall(data)
        for stamp in stamps:
            sent = float(stamp)
            if watch.counts:
                watch.late.append(now - sent)
                if self._sent:
                    watch.gaps.append((now - self._came) - (sent - self._sent))
            self._sent, self._came = sent, now
        if watch.counts:
            watch.seen.chunks += len(stamps)
        self._done = self._done or b"data: [DONE]" in data
        counted = data.rfind(stamps[-1]) + len(stamps[-1]) + 1 if stamps else 0  # not to be seen twice
        self._carried = data[max(len(data) - _CARRIED, counted) :]
        if self._done and data.endswith(b"0\r\n\r\n"):
            watch.open -= 1
            if watch.counts:
                watch.seen.chunks += 1  # the one with the finish reason has no stamp
                watch.seen.streams += 1
            self._begin()
            if not watch.over:
                self._transport.write(self._requests.next())

    def connection_lost(self, _: Exception | None) -> None:
        self._watch.seen.failed += not self._watch.over


class Requests:
    """One question after the other, each asked once."""

    def __init__(self, host: str, first: int, headers: dict[str, str]) -> None:
        self._number = first
        lines = {"host": host, "content-type": "application/json", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._head = f"POST {PATH} HTTP/1.1\r\n{head}"

    def next(self) -> bytes:
        self._number += 1
        question = {
            "model": "small",
            "messages": [{"role": "user", "content": f"question {self._number:012d}"}],
            "stream": True,
        }
        body = json.dumps(question)
        return f"{self._head}content-length: {len(body)}\r\n\r\n{body}".encode()


async def watched(url: str, streams: int, seconds: float, first: int, headers: dict[str, str]) -> Seen:
    address = urlsplit(url)
    watch, requests = Watch(), Requests(address.netloc, first, headers)
    loop = asyncio.get_running_loop()
    for _ in range(streams):
        await loop.create_connection(
            lambda: Connection(watch, requests), address.hostname or "", address.port or 80
        )
    await asyncio.sleep(_WARM_UP)
    watch.counts, began = True, time.monotonic()
    await asyncio.sleep(seconds)
    watch.counts, watch.over = False, True
    seen = watch.seen
    seen.seconds = time.monotonic() - began
    seen.late, seen.gaps = _summary(watch.late), _summary(watch.gaps)
    return seen


def _summary(values: list[float]) -> list[float]:
    return [percentile(values, 50), percentile(values, 99), max(values)] if values else []


if __name__ == "__main__":
    _, url, streams, seconds, first, *more = sys.argv
    found = uvloop.run(
        watched(url, int(streams), float(seconds), int(first), json.loads(more[0]) if more else {})
    )
    print(msgspec.json.encode(found).decode())
