"""The command `dub5` under a profiler: `python -m benchmarks.spine.recorder FILE serve --config dub5.yaml`.

SIGUSR1 begins a recording, SIGUSR2 writes it to FILE as JSON.
"""

from __future__ import annotations

import dis
import functools
import json
import signal
import sys
import threading
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from dub5.cli.main import main

ROOT = Path(__file__).parents[2]
OURS = {f"{ROOT}/backend/dub5/": "", f"{ROOT}/operator/dub5_operator/": "operator/"}
"""Where our code is, and what its files are called here."""
LOOPS = ("/asyncio/runners.py", "/uvloop/__init__.py")
"""Files of what runs an event loop: who started it does not call what it calls."""
_RESUMABLE = 0x20 | 0x80 | 0x200
"""inspect's CO_GENERATOR, CO_COROUTINE and CO_ASYNC_GENERATOR: flags of a code object."""

Named = tuple[str, str]
"""A file of ours, below backend/dub5 or as `operator/…`, and a qualified name in it."""


class Call(NamedTuple):
    """`caller` is the nearest function of ours on the stack, also through a library; None where the event loop called.

    `files` are those of ours on the stack, with that of `called`. `origin` is the function of ours at the bottom of the
    stack, or at that of the task which began this one: what a request starts has the request's origin, and what a
    background task starts that task's.
    """

    caller: Named | None
    called: Named
    files: frozenset[str]
    origin: Named


_origin: ContextVar[Named] = ContextVar("origin")
"""A task begins with a copy of the context of the one that made it."""


@functools.cache
def _named(code: CodeType) -> Named | None:
    """None where it is not ours, or is part of the function that it is written in: a lambda, a comprehension."""
    if code.co_name.startswith("<"):
        return None
    for folder, name in OURS.items():
        if code.co_filename.startswith(folder):
            return name + code.co_filename.removeprefix(folder), code.co_qualname
    return None


@functools.cache
def _begins(code: CodeType) -> int:
    """The offset at which a call begins. A frame that is entered further on is resumed."""
    return next((each.offset for each in dis.get_instructions(code) if each.opname == "RESUME"), 0)


class Recorder:
    """A profile function. `calls` are those of a block: `with recorder:`, or between `begin` and `end`."""

    def __init__(self) -> None:
        self._on = False
        self.calls: list[Call] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if not self._on or event != "call" or (called := _named(code)) is None:
            return
        if code.co_flags & _RESUMABLE and frame.f_lasti > _begins(code):
            return
        stack = []
        above = frame.f_back
        while above is not None and not above.f_code.co_filename.endswith(LOOPS):
            if (function := _named(above.f_code)) is not None:
                stack.append(function)
            above = above.f_back
        origin = _origin.get(None)
        if origin is None:
            _origin.set(origin := stack[-1] if stack else called)
        files = frozenset({called[0], *(file for file, _ in stack)})
        self.calls.append(Call(stack[0] if stack else None, called, files, origin))

    def __enter__(self) -> None:
        self.begin()
        sys.setprofile(self)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._on = False

    def begin(self) -> None:
        self.calls.clear()
        self._on = True

    def write(self, path: Path) -> None:
        """End, and write; the file is there when it is whole."""
        self._on = False
        calls = [(call.caller, call.called, sorted(call.files), call.origin) for call in self.calls]
        part = path.with_suffix(".part")
        part.write_text(json.dumps(calls), encoding="utf-8")
        part.rename(path)

    @staticmethod
    def read(path: Path) -> list[Call]:
        return [
            Call(
                caller and (caller[0], caller[1]),
                (called[0], called[1]),
                frozenset(files),
                (origin[0], origin[1]),
            )
            for caller, called, files, origin in json.loads(path.read_text(encoding="utf-8"))
        ]


def serve(path: Path) -> int:
    recorder = Recorder()
    signal.signal(signal.SIGUSR1, lambda *_: recorder.begin())
    signal.signal(signal.SIGUSR2, lambda *_: recorder.write(path))
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    return main()


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv.pop(1))))
