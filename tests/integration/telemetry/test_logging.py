"""Log lines through real descriptors: files, pipes that nobody reads, and the end of a process."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import msgspec
import pytest

from dub5.telemetry.logging import LogWriter, get_logger
from tests.log_lines import decoded

from .conftest import Log, LogTo, Serve, ours, until


def last_line(log: Log) -> dict[str, Any]:
    line: dict[str, Any] = msgspec.json.decode(log.text().splitlines()[-1])
    return line


def test_a_line_is_json_with_time_level_and_event(log: Log) -> None:
    get_logger().warning("redis unavailable", operation="get", seconds=0.1)
    line = last_line(log)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "warning", "event": "redis unavailable", "operation": "get", "seconds": 0.1}


def test_a_logger_made_before_the_configuration_follows_it(log_to: LogTo) -> None:
    early = get_logger()
    log = log_to()
    early.info("hello")
    assert last_line(log)["event"] == "hello"


def test_what_is_below_the_level_is_left_out(log_to: LogTo) -> None:
    log = log_to(log_level="warning")
    get_logger().info("quiet")
    get_logger().error("loud")
    assert [msgspec.json.decode(line)["event"] for line in log.text().splitlines()] == ["loud"]


def test_an_exception_is_one_line_with_its_traceback_and_no_values(log: Log) -> None:
    fail_with_a_secret()
    (line,) = log.text().splitlines()
    fields = msgspec.json.decode(line)
    assert fields["level"] == "error"
    assert "ZeroDivisionError" in fields["exception"]
    assert "fail_with_a_secret" in fields["exception"]
    assert "sk-12345" not in line


def fail_with_a_secret() -> None:
    key = f"sk-{10_000 + 2_345}"  # only the value may give it away, not this line of source
    try:
        len(key) / 0
    except ZeroDivisionError:
        get_logger().exception("failed")


@pytest.mark.parametrize("odd", ["\ud800", "a\nb", "\x1b[2J", object(), {1, 2}, float("nan"), b"\xff", 2**70])
def test_no_value_breaks_a_line(log: Log, odd: object) -> None:
    get_logger().info("odd", value=odd)
    get_logger().info("next")
    assert [msgspec.json.decode(line)["event"] for line in log.text().splitlines()] == ["odd", "next"]


def test_a_terminal_gets_readable_lines(log_to: LogTo) -> None:
    log = log_to(terminal=True)
    get_logger().info("request", route="/v1/models", note="\ud800")
    fail_with_a_secret()
    text = log.text()
    assert "request" in text
    assert "/v1/models" in text
    assert "\x1b[" in text
    assert "ZeroDivisionError" in text
    assert "sk-12345" not in text


@pytest.mark.parametrize(
    ("log_format", "terminal", "json"), [("json", True, True), ("console", False, False)]
)
def test_the_format_may_be_forced(log_to: LogTo, log_format: str, terminal: bool, json: bool) -> None:
    log = log_to(terminal=terminal, log_format=log_format)
    get_logger().info("hello")
    text = log.text()
    assert text.startswith("{") is json
    assert "\x1b[" not in text


def test_warnings_of_libraries_come_out_in_the_same_form(log: Log) -> None:
    logging.getLogger("redis").warning("lost %s connections", 3)
    line = last_line(log)
    assert (line["level"], line["logger"], line["event"]) == ("warning", "redis", "lost 3 connections")


def test_an_exception_in_a_library_comes_with_its_traceback(log: Log) -> None:
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    line = last_line(log)
    assert "OSError: gone" in line["exception"]


def test_libraries_are_not_heard_below_a_warning_even_when_we_debug(log_to: LogTo) -> None:
    log = log_to(log_level="debug")
    logging.getLogger("httpcore").debug("send_request_headers authorization=Bearer sk-12345")
    logging.getLogger("httpx").info("HTTP Request: POST http://provider/?key=sk-12345")
    get_logger().debug("ours")
    assert "sk-12345" not in log.text()
    assert last_line(log)["event"] == "ours"


async def test_what_uvicorn_says_fits_the_schema(serve: Serve, log: Log) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})

    async with serve(broken) as port, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{port}/")
    text = await asyncio.to_thread(log.text)
    [line] = decoded(text.encode().splitlines())
    assert (line["logger"], line["level"]) == ("uvicorn.error", "error")
    assert "without completing response" in line["event"]


def test_a_line_of_kopf_names_its_object(log: Log) -> None:
    reference = {"kind": "CachePolicy", "name": "banter", "namespace": "chat"}
    logging.getLogger("kopf.objects").warning("Look failed", extra={"k8s_ref": reference})
    [line] = decoded(log.text().encode().splitlines())
    assert (line["event"], line["object"]) == ("Look failed", "CachePolicy banter")


def test_a_library_that_logs_nonsense_does_no_harm(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    root.handlers[:] = ours(root)  # alone, since pytest's own would raise
    nonsense = {"name": "redis", "levelno": 30, "msg": "too few %s %s", "args": ("arguments",)}
    root.handle(logging.makeLogRecord(nonsense))
    logging.getLogger("redis").log(35, "a level of its own")
    assert last_line(log)["event"] == "a level of its own"
    assert "--- Logging error ---" in capsys.readouterr().err


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Read and write end. Close the reading one first: it wakes a writer that waits for room."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@asynccontextmanager
async def started(descriptor: int, *, capacity: int) -> AsyncIterator[LogWriter]:
    writer = LogWriter(descriptor, capacity=capacity)
    writer.start()
    try:
        yield writer
    finally:
        await asyncio.to_thread(writer.stop)


async def test_a_pipe_that_nobody_reads_costs_lines_and_no_waiting() -> None:
    """The reader comes back at last: every line was either written or counted as dropped."""
    taken = 5_000
    with pipe() as (reading, writing):
        async with started(writing, capacity=50_000) as writer:
            for number in range(taken):  # were one of them to wait, this would never end
                writer.put(b"%098d\n" % number)
                await asyncio.sleep(0)
            assert writer.dropped > 0
            read = await asyncio.to_thread(read_until_quiet, reading, writer)
    numbers = [int(line) for line in read.splitlines()]
    assert len(numbers) + writer.dropped == taken
    assert numbers == sorted(set(numbers))


def read_until_quiet(reading: int, writer: LogWriter) -> bytes:
    """What comes while the writer is being stopped, to the last byte."""
    os.set_blocking(reading, False)
    stopping = threading.Thread(target=writer.stop, args=(10,))
    stopping.start()
    parts = []
    while True:
        alive = stopping.is_alive()  # asked before reading: what was written until then is read now
        try:
            parts.append(os.read(reading, 2**16))
        except BlockingIOError:
            if not alive:
                return b"".join(parts)
            stopping.join(0.01)


async def test_a_reader_that_went_away_is_counted_as_lost_lines() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    async with started(writing, capacity=50_000) as writer:
        writer.put(b"one\n")
        writer.put(b"two\n")
        await asyncio.to_thread(writer.stop)
        writer.put(b"after the end\n")
    os.close(writing)
    assert writer.dropped == 3


async def test_a_descriptor_that_does_not_block_is_waited_for_by_the_thread() -> None:
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        async with started(writing, capacity=10**6) as writer:
            for number in range(5_000):  # 500 kB: far more than a pipe holds
                writer.put(b"%098d\n" % number)
            read = await asyncio.to_thread(read_until_quiet, reading, writer)
    assert writer.dropped == 0
    assert [int(line) for line in read.splitlines()] == list(range(5_000))


async def test_room_is_given_back_when_lines_are_written() -> None:
    with pipe() as (reading, writing):
        async with started(writing, capacity=150) as writer:
            for _ in range(3):
                writer.put(b"x" * 99 + b"\n")
                assert await asyncio.to_thread(os.read, reading, 1000) == b"x" * 99 + b"\n"
                await until(lambda: writer._size == 0)
    assert writer.dropped == 0


_FLOOD = """
import sys
from dub5.settings.model import TelemetrySettings
from dub5.telemetry.logging import configure, get_logger

writer = configure(TelemetrySettings(), stream=sys.stdout, terminal=False)
for number in range(5_000):
    get_logger().info("flood", text="x" * 200)
writer.stop(0.1)
"""


def test_a_process_whose_output_nobody_reads_still_exits_with_0() -> None:
    with subprocess.Popen([sys.executable, "-c", _FLOOD], stdout=subprocess.PIPE) as process:
        assert process.wait(30) == 0
