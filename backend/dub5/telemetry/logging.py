"""One event, one line: JSON for machines, columns for a terminal.

Writing to standard output may block: when the reader of the pipe stops, the pipe fills, and a write
from the event loop would stop every stream in the process. Lines therefore go into a bounded buffer, and a
thread writes them. When the buffer is full a line is dropped and counted: losing a line is better than
losing the service. The thread lets lines gather for a moment, so that a busy service pays for one write and
one change of threads per batch, not per line.

What libraries send to the standard library's `logging` (uvicorn, redis, aiohttp) comes out in the same form,
from WARNING upwards: below that some of them print URLs and headers, and with them keys.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from dub5.settings.model import TelemetrySettings

CAPACITY = 4 * 2**20
"""Bytes of lines that may wait to be written."""

_GATHER = 0.02
"""Seconds for which lines gather before they are written together."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class LogWriter:
    """Writes lines to a file descriptor from a thread of its own. `dropped` counts those that were lost."""

    dropped_in_process: ClassVar[int] = 0
    """Lines that all writers together have lost."""

    def __init__(self, descriptor: int, *, capacity: int = CAPACITY) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._capacity = capacity
        self._lines: list[bytes] = []
        self._size = 0
        self._closed = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Write what is left, for at most `timeout` seconds: a reader that is stuck must not hold up the exit."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout)
        with self._lock:
            self._closed = True
            self._count_dropped(len(self._lines))
            self._lines.clear()
        global _output  # noqa: PLW0603  # see `configure`
        if _output is not None and _output.writer is self:
            _output = None

    def put(self, line: bytes) -> None:
        """Take one line, which ends with a line feed. Never waits; may be called from any thread."""
        with self._lock:
            if self._closed or self._size + len(line) > self._capacity:
                self._count_dropped(1)
                return
            wakes = not self._lines  # else it was woken, and has still to take them
            self._lines.append(line)
            self._size += len(line)
        if wakes:
            self._wake.set()

    def _count_dropped(self, lines: int) -> None:
        self.dropped += lines
        LogWriter.dropped_in_process += lines

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            self._stopping.wait(_GATHER)
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        block = b"".join(lines)
        # To the descriptor directly: a thread that hangs inside a buffered file at exit would abort the interpreter.
        left = memoryview(block)
        try:
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:  # somebody who shares our terminal or pipe made it non-blocking
                    select.select((), (self._descriptor,), ())
        except OSError:  # the reader is gone
            pass
        with self._lock:
            self._size -= len(block)  # only now: what is being written still takes room
            if left:
                self._count_dropped(len(lines))


class _Output(msgspec.Struct):
    """Where lines go, and structlog's processors while they are JSON."""

    writer: LogWriter
    put: Callable[[bytes], None]
    processors: list[Processor]


_output: _Output | None = None


def json_lines() -> Callable[[bytes], None] | None:
    """Takes lines of level info that are JSON already; None where lines are not JSON, or go elsewhere for now."""
    output = _output
    return output.put if output is not None and output.processors[0] is _json_line else None


def note(event: str, fields: EventDict) -> None:
    """A line of level info of which there is one for each call: while lines are JSON it takes a third of what it takes
    through structlog."""
    put = json_lines()
    if put is None:
        _log.info(event, **fields)
    else:
        put(_json_line(None, "info", {"event": event, **fields}))


class _Lines:
    """What structlog takes for a logger: it calls the method named after the level with the rendered line."""

    def __init__(self, writer: LogWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.put


class _FromStandardLibrary(logging.Handler):
    """Passes on what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min(record.levelno // 10 * 10, logging.CRITICAL)
            get_logger().log(level, record.getMessage(), **_fields_of(record))
        except Exception:  # noqa: BLE001  # a handler must not raise into the library that logs
            self.handleError(record)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """kopf says which object a record is about in a field of its own."""
    fields: dict[str, Any] = {"logger": record.name, "exc_info": record.exc_info}
    reference = getattr(record, "k8s_ref", None)
    if isinstance(reference, dict):
        fields["object"] = f"{reference.get('kind')} {reference.get('name')}"
    return fields


def get_logger() -> FilteringBoundLogger:
    """A logger for a module; it may be made before `configure` is called."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


_log = get_logger()


def configure(settings: TelemetrySettings, *, stream: TextIO, terminal: bool) -> LogWriter:
    """Send all lines of this process to `stream`, which has a file descriptor.

    Returns the writer, started; `stop` it at the very end.
    """
    stream.flush()
    writer = LogWriter(stream.fileno())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    readable = settings.log_format == "console" or (settings.log_format == "auto" and terminal)
    lines = _Lines(writer)
    processors: list[Processor] = _console(colors=terminal) if readable else [_json_line]
    global _output  # noqa: PLW0603  # as structlog's own configuration is
    _output = _Output(writer, writer.put if level <= logging.INFO else _nothing, processors)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    _route_standard_library(max(level, logging.WARNING))
    writer.start()
    return writer


def _route_standard_library(level: int) -> None:
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _FromStandardLibrary)]:
        root.removeHandler(handler)
    root.addHandler(_FromStandardLibrary())
    root.setLevel(level)


def _nothing(_: bytes) -> None:
    """What is below the level is left out."""


def _json_line(logger: Any, level: str, fields: EventDict) -> bytes:
    if "exc_info" in fields:
        fields = structlog.processors.format_exc_info(logger, level, fields)
    line = {"timestamp": datetime.now(UTC), "level": level, "event": fields.pop("event"), **fields}
    try:
        return _encode(line) + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, which JSON in UTF-8 cannot hold
        return json.dumps(line, default=str, ensure_ascii=False).encode(errors="replace") + b"\n"


def _console(*, colors: bool) -> list[Processor]:
    # Plain tracebacks: the pretty ones print local variables, and with them prompts and keys.
    render = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )

    def line(logger: Any, name: str, fields: EventDict) -> bytes:
        return f"{render(logger, name, fields)}\n".encode(errors="backslashreplace")

    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        line,
    ]
