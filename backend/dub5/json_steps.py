"""JSON of callers in bounded work and memory: what it will cost is counted before any of it is decoded, and what is
large is read and written in steps, between which the event loop runs.

A step is what a generator does up to its next `yield`. `at_once` runs all of them; `in_steps` lets others run in
between. A thread would not help: decoding holds the interpreter.

Costs: an empty list takes 64 bytes of memory and three of JSON. So `survey` goes over the bytes a slice at a time,
sets aside what is inside strings, and counts brackets, commas, colons and quotes in the rest, at the speed of
`bytes.split` and `bytes.count`. It never builds a value.

Long texts would be decoded in one go, together: 20 MiB of escapes take longer than anybody may hold the loop. So they
are lifted out, decoded one by one, and put back by the decoder itself: in their place stands a number that no caller
can know, and the decoder's hook for numbers gives the text for it.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Generator, Iterator
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

MAX_DEPTH = 64
"""Levels of nesting; a generous JSON Schema of a tool has about 20."""

SMALL = 16 * 2**10
"""Bytes up to which a body can cost little, whatever it holds: its values are not counted."""

LARGE = 128 * 2**10
"""Bytes from which on a body is read in steps."""

MAX_VALUES = 24 * 2**20
"""Bytes of memory that the values of one body may take besides the characters of its texts: some 600,000 whole
numbers, or 80,000 objects. It bounds the longest step."""

MAX_FRACTIONS = 30_000
"""Numbers with a fraction or an exponent, each of which is read by a function of ours."""

MAX_ESCAPES = 2_000_000
"""Escapes in one text, which is decoded in one step."""

MAX_DIGITS = 1000
"""Of one number: to read and write more takes quadratic time."""

MAX_NAME = 4096
"""Bytes of a field's name, where the body is large."""

_TIMES, _AND = 7, 6 * 2**17
"""What a body's values and texts may take: `_TIMES` its size, and `_AND` bytes. With the body itself, 8 times."""

_SLICE = 16 * 2**10
_FEW = 512
_LONG = 256
"""Bytes from which on a text is lifted out."""

_PAUSE = 2**19
"""Bytes of work between two pauses: a millisecond or two."""

_PER_PART = 32
"""Bytes of work that each string is, besides its own."""

# Bytes that CPython 3.11 takes, with the slot in what holds it; upper bounds.
_OBJECT, _EMPTY_OBJECT, _LIST, _TEXT, _NUMBER, _SLOT = 240, 64, 96, 64, 32, 9

_NOT_BRACKETS = bytes(each for each in range(256) if each not in b"[]{}")
_LEVELS = [1 if each in b"[{" else -1 for each in range(256)]
_CONTINUATIONS, _BELOW_FOUR = bytes(range(0x80, 0xC0)), bytes(range(0xF0))
_DIGITS = bytes(each if each in b"0123456789" else 0x20 for each in range(256))
_IS_NAME = re.compile(rb"[ \t\r\n]*+:")
_WIDE_ESCAPE = re.compile(rb"\\u[dD][89abAB]")

T = TypeVar("T")
Steps = Generator[None, None, T]


class TooCostly(Exception):
    """To read this body would take more than any body may; the message is a sentence that names the limit."""


class NotReadable(Exception):
    """A long text, the `number`-th, cannot be decoded; `text` is its JSON."""

    def __init__(self, number: int, text: bytes) -> None:
        super().__init__(number)
        self.number = number
        self.text = text


def at_once(steps: Steps[T]) -> T:
    """All steps, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


async def in_steps(steps: Steps[T]) -> T:
    """All steps, and whoever else wants to run between them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


class Survey(msgspec.Struct, frozen=True):
    """`cost`: bytes of memory that the body takes once decoded, at most. `texts`: where the long texts are."""

    cost: int
    texts: list[tuple[int, int]]


def survey(raw: bytes, *, lift: bool = False) -> Steps[Survey]:
    """What a body will cost. TooCostly past a limit; of what is no JSON the part before its first fault counts."""
    counting = _Counting(raw, lift=lift)
    at = work = 0
    while at < len(raw):
        at = counting.slice(at)
        work += _SLICE + _PER_PART * counting.parts
        if work >= _PAUSE:
            work = 0
            yield
    return Survey(counting.values + counting.texts, counting.lifted)


class _Counting:
    """The state between two slices."""

    def __init__(self, raw: bytes, *, lift: bool, times: int = _TIMES, spare: int = _AND) -> None:
        self.values = self.texts = 0  # bytes of memory
        self.lifted: list[tuple[int, int]] = []
        self.parts = 0  # of the last slice
        self._fractions = 0
        self._raw, self._lift = raw, lift
        self._most = times * len(raw) + spare
        self._inside = False  # a string, which began at byte `_began`, holds
        self._began = 0
        self._depth = 0
        # Of the string that has been open since an earlier slice: bytes, memory by character, escapes.
        self._open_bytes = self._escapes = 0
        self._open_width = 1.0

    def slice(self, at: int) -> int:
        """Count from byte `at`; where the next slice begins."""
        data = self._raw[at : at + _SLICE]
        if (len(data) - len(data.rstrip(b"\\"))) & 1 and at + len(data) < len(self._raw):
            data = data[:-1]  # an escape is not cut in two
        masked, escapes = data, 0
        if b"\\" in data:
            masked = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
            escapes = len(data) - len(data.replace(b"\\", b""))
        parts = masked.split(b'"')
        self.parts = len(parts)
        width = _width(data)
        before = self._open_bytes
        if self._inside:
            self._go_on(parts[0], width, escapes, ends=len(parts) > 1)
        self._look_outside(parts[self._inside :: 2], len(parts) - 1)
        within = parts[2 if self._inside else 1 :: 2]
        self.texts += int(width * sum(map(len, within)))
        if self._lift and max(map(len, parts)) + before > _LONG:
            self._find_long(parts, at)
        if len(parts) & 1 == 0:
            self._inside = not self._inside
        if self._inside and len(parts) > 1:
            self._began = at + len(data) - len(parts[-1]) - 1
            self._open_bytes, self._open_width, self._escapes = len(parts[-1]), width, escapes
        self._check()
        return at + len(data)

    def _go_on(self, part: bytes, width: float, escapes: int, *, ends: bool) -> None:
        """With a string from an earlier slice: the widest character says how much memory each of them takes."""
        before = int(self._open_width * self._open_bytes)
        self._open_bytes += len(part)
        self._open_width = max(self._open_width, width)
        self.texts += int(self._open_width * self._open_bytes) - before
        self._escapes += escapes
        if self._escapes > MAX_ESCAPES:
            raise TooCostly(f"A text in the body holds more than {MAX_ESCAPES:,} escaped characters.")
        if ends:
            self._open_bytes, self._open_width, self._escapes = 0, 1.0, 0

    def _look_outside(self, outside: list[bytes], quotes: int) -> None:
        between = b" ".join(outside)
        commas, colons = between.count(b","), between.count(b":")
        lists, objects, empty = between.count(b"["), between.count(b"{"), between.count(b"{}")
        strings = (quotes + 1) // 2
        numbers = max(0, commas + 1 + colons - strings) if between else 0
        self.values += (
            _OBJECT * (objects - empty)
            + _EMPTY_OBJECT * empty
            + _LIST * lists
            + _TEXT * strings
            + _SLOT * (commas + lists)
            + _NUMBER * numbers
        )
        if numbers:
            self._count_fractions(between)
        if len(between) > MAX_DIGITS // 2:
            self._look_at_numbers(between)
        self._look_at_depth(between, lists + objects)

    def _count_fractions(self, between: bytes) -> None:
        signs = between.count(b".") + between.count(b"e") + between.count(b"E")
        if signs:
            self._fractions += signs - between.count(b"true") - between.count(b"false")
        if self._fractions > MAX_FRACTIONS:
            raise TooCostly(
                f"The body holds more than {MAX_FRACTIONS:,} numbers with a fraction or an exponent."
            )

    def _look_at_numbers(self, between: bytes) -> None:
        longest = max(map(len, between.translate(_DIGITS).split()), default=0)
        if longest > MAX_DIGITS:
            raise TooCostly(f"A number in the body has more than {MAX_DIGITS:,} digits.")
        if longest > _NUMBER:
            self.values += 8 * len(between)

    def _look_at_depth(self, between: bytes, opened: int) -> None:
        brackets = between.translate(None, _NOT_BRACKETS)
        if self._depth + opened > MAX_DEPTH:
            levels = list(accumulate(map(_LEVELS.__getitem__, brackets), initial=self._depth))
            if max(levels) > MAX_DEPTH:
                raise TooCostly(f"The body is nested deeper than {MAX_DEPTH} levels.")
        self._depth = max(0, self._depth + 2 * opened - len(brackets))

    def _check(self) -> None:
        if self.values > MAX_VALUES:
            raise TooCostly(
                f"The body holds too many values: they would take more than {MAX_VALUES // 2**20} MiB of memory."
            )
        if self.values + self.texts > self._most:
            raise TooCostly(
                f"The body holds too many values for its size: it would take more than {_TIMES + 1} times its size "
                "and 1 MiB of memory."
            )

    def _find_long(self, parts: list[bytes], at: int) -> None:
        """Note which strings that end in this slice are long."""
        inside, position = self._inside, at
        for part in parts[:-1]:
            position += len(part) + 1
            if inside and position - self._began > _LONG:
                self._lift_out(self._began, position)
            inside = not inside
            if inside:
                self._began = position - 1

    def _lift_out(self, begin: int, end: int) -> None:
        if not _IS_NAME.match(self._raw, end):
            self.lifted.append((begin, end))
        elif end - begin > MAX_NAME:
            raise TooCostly(f"A field's name in the body is longer than {MAX_NAME:,} bytes.")


def _width(data: bytes) -> float:
    """Bytes of memory for a byte of text, at most, with the copy in UTF-8 that encoding it leaves behind."""
    if data.isascii():
        if b"\\u" not in data:
            return 1.0
        return 4.0 if _WIDE_ESCAPE.search(data) else 2.0
    characters = len(data.translate(None, _CONTINUATIONS))
    wide = data.translate(None, _BELOW_FOUR) or _WIDE_ESCAPE.search(data)
    return (4 if wide else 2) * characters / len(data) + 1


def decode(raw: bytes) -> Any:
    """In one step; for bodies that are not large. msgspec's errors, UnicodeDecodeError or RecursionError."""
    return _decoder.decode(raw)


def decode_within(text: bytes) -> Any:
    """JSON that a caller has put into a text: it may take five times its size, besides what the body takes."""
    counting = _Counting(text, lift=False, times=5, spare=_FEW)
    at = 0
    while len(text) > _FEW and at < len(text):
        at = counting.slice(at)
    return _decoder.decode(text)


def _number(written: str) -> float:
    # msgspec's own way with extreme numbers takes 20 µs each.
    value = float(written)
    if value - value != 0:
        raise ValueError("Number out of range")
    return value


_decoder = msgspec.json.Decoder(float_hook=_number)


def skeleton_of(raw: bytes, texts: list[tuple[int, int]]) -> tuple[bytes, str]:
    """The body with a number in the place of each long text, and how these numbers begin."""
    stamp = f"0.{random.getrandbits(62):019d}e"  # not a secret: who guesses it fools himself
    parts, done = [], 0
    for number, (begin, end) in enumerate(texts):
        parts += [raw[done:begin], f" {stamp}{number} ".encode()]
        done = end
    return b"".join([*parts, raw[done:]]), stamp


def decode_texts(raw: bytes, texts: list[tuple[int, int]]) -> Steps[list[str]]:
    """The long texts. NotReadable where one is not valid."""
    found: list[str] = []
    work = 0
    view = memoryview(raw)
    for begin, end in texts:
        work += end - begin
        if work > _PAUSE:
            work = 0
            yield
        try:
            found.append(_texts.decode(view[begin:end]))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise NotReadable(len(found), raw[begin:end]) from None
    return found


_texts = msgspec.json.Decoder(str)


def decode_skeleton(skeleton: bytes, stamp: str, texts: list[str]) -> Any:
    """With the texts put back."""
    start = len(stamp)

    def number(written: str) -> Any:
        return texts[int(written[start:])] if written.startswith(stamp) else _number(written)

    return msgspec.json.Decoder(float_hook=number).decode(skeleton)


Encode = Callable[[Any], bytes]
_encode = msgspec.json.Encoder().encode
_SCALAR = 16
"""Characters that a number, true, false and null count as."""


def pieces(
    value: Any, *, names: Callable[[Any], Any] = iter, scalar: Callable[[Any], Any] | None = None
) -> Iterator[bytes]:
    """`value` as JSON, a piece at a time: one long text, or some thousand scalars.

    `names` gives an object's names in order, `scalar` what is written for a value that is neither object nor list.
    """
    kind = type(value)
    if kind is dict:
        yield from _object(value, names, scalar)
    elif kind is list:
        yield from _list(value, names, scalar)
    else:
        yield _encode(value if scalar is None else scalar(value))


def _apart(item: Any) -> bool:
    """Whether it is a piece of its own, or more than one."""
    kind = type(item)
    return kind is dict or kind is list or (kind is str and len(item) > _SLICE)


def _object(value: dict[str, Any], names: Any, scalar: Any) -> Iterator[bytes]:
    run: dict[str, Any] = {}
    size, opening = 0, b"{"
    for name in names(value):
        item = value[name]
        if _apart(item):
            if run:
                yield opening + _encode(run)[1:-1]
                run, size, opening = {}, 0, b","
            yield opening + _encode(name) + b":"
            yield from pieces(item, names=names, scalar=scalar)
            opening = b","
            continue
        run[name] = item if scalar is None else scalar(item)
        size += len(item) if type(item) is str else _SCALAR
        if size > _SLICE:
            yield opening + _encode(run)[1:-1]
            run, size, opening = {}, 0, b","
    yield _closed(opening, run, b"{}")


def _list(value: list[Any], names: Any, scalar: Any) -> Iterator[bytes]:
    run: list[Any] = []
    size, opening = 0, b"["
    for item in value:
        if _apart(item):
            if run:
                yield opening + _encode(run)[1:-1]
                run, size, opening = [], 0, b","
            yield opening
            yield from pieces(item, names=names, scalar=scalar)
            opening = b","
            continue
        run.append(item if scalar is None else scalar(item))
        size += len(item) if type(item) is str else _SCALAR
        if size > _SLICE:
            yield opening + _encode(run)[1:-1]
            run, size, opening = [], 0, b","
    yield _closed(opening, run, b"[]")


def _closed(opening: bytes, run: Any, brackets: bytes) -> bytes:
    """What is left, and the end; both brackets where there was nothing at all."""
    if run:
        return opening + _encode(run)[1:-1] + brackets[1:]
    return brackets if opening == brackets[:1] else brackets[1:]


def fed(parts: Iterator[bytes], take: Callable[[Any], object]) -> Steps[None]:
    """Hand each of `parts` to `take`, at most half a MiB in a step."""
    work = 0
    for part in parts:
        work += len(part) + 256
        if work > _PAUSE:
            work = 0
            yield
        if len(part) <= _PAUSE:
            take(part)
            continue
        view = memoryview(part)
        for begin in range(0, len(part), _PAUSE):
            take(view[begin : begin + _PAUSE])
            yield
