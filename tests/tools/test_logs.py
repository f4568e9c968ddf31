"""Every event that the sources log is described, with every field; and what is not described does not fit."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.log_lines import fault
from tools.logs import EVENTS, FIELDS

ROOT = Path(__file__).parents[2]
SOURCES = [*ROOT.glob("backend/dub5/**/*.py"), *ROOT.glob("operator/dub5_operator/**/*.py")]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
DESCRIBED = {event.name: event for event in EVENTS}

LINE: dict[str, Any] = {
    "timestamp": "2026-01-02T03:04:05.678901Z",
    "level": "warning",
    "event": "redis unavailable",
    "server": "127.0.0.1:6379",
    "error": "ConnectionError",
}


class Logged(NamedTuple):
    """One call of a logger. `fields` is None where some of them are not written out in the call."""

    where: str
    event: str
    level: str
    fields: set[str] | None


def logged() -> Iterator[Logged]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                level = _level(node.func)
                if level:
                    names = [keyword.arg for keyword in node.keywords]
                    fields = None if None in names else {str(name) for name in names}
                    yield Logged(f"{path.name}:{node.lineno}", str(node.args[0].value), level, fields)


def _level(function: ast.expr) -> str:
    """`_log.info`, `self._log.info`, `get_logger().info`, or `log`, which is one of two levels."""
    if isinstance(function, ast.Name) and function.id == "log":
        return "info"
    if not isinstance(function, ast.Attribute) or function.attr not in LEVELS:
        return ""
    return function.attr if ast.unparse(function.value) in {"_log", "self._log", "get_logger()"} else ""


CALLS = list(logged())


def test_the_sources_do_log() -> None:
    assert {"request", "provider call", "redis unavailable", "policy reconciled"} <= {
        each.event for each in CALLS
    }


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.where)
def test_what_is_logged_is_described(call: Logged) -> None:
    event = DESCRIBED[call.event]
    assert (call.level if call.level != "exception" else "error") in event.levels
    if call.fields is not None:
        fields = {"exception" if name == "exc_info" else name for name in call.fields}
        fields |= {"exception"} if call.level == "exception" else set()
        assert fields <= {*event.always, *event.perhaps}
        assert set(event.always) <= fields


def test_nothing_else_is_described() -> None:
    assert {each.event for each in CALLS} == DESCRIBED.keys()
    used = {field for event in EVENTS for field in (*event.always, *event.perhaps)}
    assert used <= FIELDS.keys()  # else the schema refers to what it has not
    assert FIELDS.keys() - used == {"timestamp", "level", "event", "logger", "object"}


def test_a_line_that_fits() -> None:
    assert fault(LINE) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a field that no event has"},
        {"request_id": "a field of other events"},
        {"event": "redis went away"},
        {"level": "info"},
        {"timestamp": "yesterday"},
        {"timestamp": 1.5},
        {"server": None},
        {"logger": "redis", "server": "of our own line"},
    ],
)
def test_a_line_that_does_not(change: dict[str, Any]) -> None:
    assert fault({**LINE, **change})


@pytest.mark.parametrize("name", ["timestamp", "level", "event", "server"])
def test_a_line_without_what_it_always_has(name: str) -> None:
    assert fault({field: value for field, value in LINE.items() if field != name})
