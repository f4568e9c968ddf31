"""A provider that reads what it is sent, of any size, forgets it, and gives one short answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from testkit.processes import first_line, running

_COMPLETION = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Read."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
_MESSAGE = (
    b'{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Read."}],'
    b'"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'
)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            left = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
            while left:
                left -= len(await reader.read(min(left, 2**20)))
            answer = _MESSAGE if b"/messages" in head.partition(b"\r\n")[0] else _COMPLETION
            writer.write(_HEAD % len(answer) + answer)
            await writer.drain()
    writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@asynccontextmanager
async def sink() -> AsyncIterator[str]:
    """The `base_url` of one, in a process of its own."""
    async with running("benchmarks.bounds.sink") as process:
        yield f"http://127.0.0.1:{await first_line(process)}/v1"


if __name__ == "__main__":
    asyncio.run(_serve())
