"""What becomes of an accepted socket of which no connection can be made."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from dub5.server.accepting import Acceptor
from dub5.server.protocol import ConnectionLimits, Connections, GuardedProtocol


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOMEM, "no"), LookupError("a defect"), asyncio.CancelledError()]
)
async def test_it_is_closed_whatever_went_wrong(error: BaseException) -> None:
    def failing() -> GuardedProtocol:
        raise error

    limits = ConnectionLimits(read_timeout=30, write_timeout=20, idle=75, max_connections=10)
    listener, (ours, theirs) = socket.create_server(("127.0.0.1", 0)), socket.socketpair()
    with listener, theirs:
        acceptor = Acceptor(listener, Connections(limits, lambda _: None), failing)
        acceptor.start()
        [outcome] = await asyncio.gather(acceptor._open(ours), return_exceptions=True)
        acceptor.close()
        assert isinstance(outcome, type(error)) is not isinstance(error, OSError)
        assert ours.fileno() == -1
