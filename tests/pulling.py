"""The chunks of a provider's stream one by one, for tests that read a few of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dub5.providers.protocol import Call, Chunk, Payload, Provider, Text, decode


def payload_of(chunk: Chunk) -> Payload:
    """What a chunk says, however it was read."""
    return Payload(chunk.raw, decode(chunk.raw)) if isinstance(chunk, Text) else chunk


async def chunks_of(provider: Provider, call: Call) -> AsyncGenerator[Payload, None]:
    """As they come. Closing it cancels the call."""
    here: asyncio.Queue[Payload | None] = asyncio.Queue()

    def tell(chunks: list[Chunk]) -> None:
        for chunk in chunks:
            here.put_nowait(payload_of(chunk))

    asking = asyncio.create_task(provider.stream(call, tell))
    asking.add_done_callback(lambda _: here.put_nowait(None))
    try:
        while (chunk := await here.get()) is not None:
            yield chunk
        await asking
    finally:
        asking.cancel()
        await asyncio.wait([asking])
