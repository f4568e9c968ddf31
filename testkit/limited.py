"""A server under limits, and what a raw socket gets from it: for rows about connections, descriptors and memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from testkit.service import Service, announced

ENVIRONMENT = {
    "DUB5_SERVER__PORT": "0",
    "DUB5_SERVER__OPERATIONS_PORT": "0",
    "DUB5_DRAIN__LINGER": "0s",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


def may_open(descriptors: int) -> None:
    """As many descriptors as this process needs for its callers; RuntimeError where it may not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < descriptors:
        raise RuntimeError(f"needs {descriptors} file descriptors, and may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@asynccontextmanager
async def limited(settings: dict[str, Any], limit: str) -> AsyncIterator[Service]:
    """`limit` is what a shell does before it becomes the server, so that it holds from the first instruction on."""
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory)
    try:
        config = Path(folder.name) / "dub5.yaml"
        await asyncio.to_thread(config.write_text, json.dumps(settings), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'{limit} && exec "$@"', "sh"),
            *(sys.executable, "-m", "dub5", "serve", "--config", str(config)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
        )
        try:
            yield await announced(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
    finally:
        await asyncio.to_thread(folder.cleanup)


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(url: str, request: bytes) -> bytes:
    """All that comes until the connection is closed."""
    said = b""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(60):
            reader, writer = await connect(url)
            try:
                writer.write(request)
                while part := await reader.read(2**16):
                    said += part
            finally:
                writer.close()
    return said
