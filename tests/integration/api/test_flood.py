"""Strangers and callers that send half of something, all at once, to a server that may use 512 MiB.

Strangers open a connection each and send a head of 57 KiB that never ends; a tenth as many callers send nine tenths of
a body of 1 MiB. They hold their connections until the server closes them, and then come again. Beside them complete
requests of 1 and of 60 KiB are sent, one after the other, each on a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import pytest

from testkit.limited import connect, limited, may_open
from testkit.openai_server import FakeOpenAI
from testkit.processes import resident
from testkit.service import Service, configuration
from tests.harness import size

STRANGERS = size(200)
CALLERS, ASKED, PAUSE = STRANGERS // 10, 10 + STRANGERS // 1000, 10.0
"""Seconds after which those that were refused come again."""
LIMIT, SHARE = 512 * 2**20, 0.85
BUDGET = LIMIT * 3 // 10 * STRANGERS // 10_000
"""Bytes that may be arriving: 30 % of the limit, as by default in a container, for 10,000; fewer for fewer."""
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
_HALF_HEAD = _HEAD + b"".join(b"x-%d: %b\r\n" % (number, b"y" * 600) for number in range(95))
_HALF_BODY = _HEAD + b"content-length: 1000000\r\n\r\n" + b"x" * 900_000


@pytest.mark.timeout(900)  # of 10,000 it takes minutes
async def test_half_requests_take_no_more_than_their_share_and_complete_ones_are_answered(
    fake: FakeOpenAI,
) -> None:
    may_open(STRANGERS + CALLERS + 500)
    settings = configuration(fake.base_url, None, server={"max_arriving": f"{BUDGET}B"})
    async with limited(settings, "true") as service:
        floods = [asyncio.create_task(_hold(service, half)) for half in _halves()]
        peak = 0
        for number in range(ASKED):
            content = f"{number} " + "x" * (60 if number % 2 else 1) * 1024
            body = {"model": "small", "messages": [{"role": "user", "content": content}]}
            assert await asyncio.to_thread(_ask, service.url, body) == 200
            peak = max(peak, await asyncio.to_thread(resident, service.pid))
        assert service.process.returncode is None
        for each in floods:
            each.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
    assert peak <= SHARE * LIMIT


def _ask(url: str, body: Any) -> int:
    """In a thread: the loop is busy with the flood, and would be late to send."""
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code


def _halves() -> list[bytes]:
    return [_HALF_HEAD] * STRANGERS + [_HALF_BODY] * CALLERS


async def _hold(service: Service, half: bytes) -> None:
    """Send half of a request, wait until that is refused, and come again."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await connect(service.url)
            try:
                writer.write(half)
                await writer.drain()
                while await reader.read(2**16):
                    pass
            finally:
                writer.close()
        await asyncio.sleep(PAUSE)
