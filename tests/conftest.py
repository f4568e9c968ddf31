"""For every test: no blocking call in an event loop. And a real Redis for those that ask for one."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
import redis as redis_py
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

settings.register_profile("busy machine", deadline=None)  # tests judge no timings
settings.load_profile("busy machine")

for _name in ("NO_PROXY", "no_proxy"):  # the servers of tests are on this machine, whatever proxy it may have
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name, ""), "localhost,127.0.0.1,::1"]))

# Thousands of clients are made, and each would read a hundred and forty certificates first. None leaves this machine.
certifi.where = lambda: str(Path(__file__).parent / "ca.pem")

_ATTEMPTS = 5  # another process may take a free port before Redis does


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:  # pytest's
    """Two for each core that is ours: half of the time tests wait for something else."""
    return min(8, 2 * len(os.sched_getaffinity(0)))


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
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis on a free port, without persistence, for the whole session."""
    binary = shutil.which("redis-server")
    assert binary, "these tests need redis-server; `make test` installs it"
    with contextlib.ExitStack() as stack:
        for _ in range(_ATTEMPTS):
            port = _free_port()
            if _started(stack, binary, port, tmp_path_factory.mktemp("redis")):
                yield f"redis://127.0.0.1:{port}/0"
                return
    pytest.fail("redis-server did not start")


@pytest.fixture
def redis(redis_url: str) -> str:
    """The URL of the real Redis, emptied."""
    with contextlib.closing(redis_py.Redis.from_url(redis_url)) as client:
        client.flushall()
    return redis_url


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _started(stack: contextlib.ExitStack, binary: str, port: int, directory: Path) -> bool:
    """Whether it says that it accepts connections; it is terminated when `stack` closes."""
    options = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", str(directory)]
    process = stack.enter_context(
        subprocess.Popen([binary, "--port", str(port), *options], stdout=subprocess.PIPE, text=True)
    )
    stack.callback(process.terminate)
    assert process.stdout is not None
    return any("eady to accept connections" in line for line in process.stdout)
