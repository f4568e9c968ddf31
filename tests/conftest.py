"""For every test: no blocking call in an event loop. For those that ask: a real Redis, a fake provider."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import certifi
import pytest
import redis as redis_py
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

from testkit.openai_server import FakeOpenAI
from testkit.redis_server import RedisServer

settings.register_profile("busy machine", deadline=None)  # tests judge no timings
settings.load_profile("busy machine")

for _name in ("NO_PROXY", "no_proxy"):  # the servers of tests are on this machine, whatever proxy it may have
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name, ""), "localhost,127.0.0.1,::1"]))

# Thousands of clients are made, and each would read a hundred and forty certificates first. None leaves this machine.
certifi.where = lambda: str(Path(__file__).parent / "ca.pem")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:  # pytest's
    """Two for each core that is ours: half of the time tests wait for something else."""
    return min(8, 2 * len(os.sched_getaffinity(0)))


@pytest.fixture(autouse=True, scope="module")
def what_is_left_behind() -> None:
    """Is not looked through again. A worker that has run thousands of tests has a million objects, and a full
    collection of them holds whichever callback it falls into for a second of the CPU."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[BlockBuster]:
    """A call that would block the event loop raises BlockingError where it is made.

    An exception here needs a comment that says why it may block.
    """
    with blockbuster_ctx() as blockbuster:
        for function in blockbuster.functions.values():
            # coverage takes a lock for each call that it sees, and waits for it while another thread has it.
            function.can_block_in("coverage/collector.py", "lock_data")
            # It ends a test that takes too long, and says where that hung.
            function.can_block_in("pytest_timeout.py", "timeout_sigalrm")
        yield blockbuster


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis on a free port, without persistence, for the whole session."""
    server = RedisServer()
    server.open()
    yield server.url
    server.close()


@pytest.fixture
def redis(redis_url: str) -> str:
    """The URL of the real Redis, emptied."""
    with contextlib.closing(redis_py.Redis.from_url(redis_url)) as client:
        client.flushall()
    return redis_url


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAI]:
    """A fake OpenAI."""
    async with FakeOpenAI() as server:
        yield server
