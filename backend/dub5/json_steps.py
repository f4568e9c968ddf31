"""JSON of callers and providers in bounded work and memory: what it will cost is counted before any of it is decoded,
and what is large is read and written in steps, between which the event loop runs.

A step is what a generator does up to its next `yield`. `at_once` runs all of them; `in_steps` lets others run in
between. A thread would not help: decoding holds the interpreter.

Costs: an empty list takes 64 bytes of memory and three of JSON. So `survey` goes over the bytes a slice at a time,
sets aside what is inside strings, and counts brackets, commas, colons and quotes in the rest, at the speed of
`bytes.split` and `bytes.count`. It never builds a value.

Decoding: `survey` notes where a large body may be cut, every quarter of a MiB: before a comma outside strings. A piece
between two cuts is closed and opened with the brackets that are open there, decoded by itself, and what it holds is
put into the lists and objects that the piece before it left open. Longer texts, of more than 64 KiB, are lifted out,
decoded a part at a time, and put back by the decoder itself: in their place stands a number that no caller can know,
and the decoder's hook for numbers gives the text for it.
"""

from __future__ import annotations

import asyncio
import random
import re
from bisect import bisect_left
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

MAX_TEXT = 48 * 2**20
"""Bytes of memory that the characters of one text may take: each as many as the widest of them. They are copied in one
step when the first such comes."""

MAX_DIGITS = 1000
"""Of one number: to read and write more takes quadratic time."""

MAX_NAME = 4096
"""Bytes of a field's name, where the body is large."""

_TIMES, _AND = 7, 6 * 2**17
"""What a body's values and texts may take: `_TIMES` its size, and `_AND` bytes. With the body itself, 8 times."""

_SLICE = 16 * 2**10
_FEW = 512
_LONG = 64 * 2**10
"""Bytes from which on a text is lifted out."""

_PIECE = 256 * 2**10
"""Bytes of a body that are decoded in one step."""

_PAUSE = 2**19
"""Bytes of work between two pauses: a millisecond or two."""

_PER_PART, _PER_COMMA = 32, 16
"""Bytes of work that each string and each comma outside strings is, besides its own."""

# Bytes that CPython 3.11 takes, with the slot in what holds it; upper bounds.
_OBJECT, _EMPTY_OBJECT, _LIST, _TEXT, _NUMBER, _SLOT = 240, 64, 96, 64, 32, 9
_NOT_ASCII = 40  # what a text takes besides where it is not ASCII

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
    """The body cannot be decoded; the fault is in the part of it that ends with byte `end`.

    Where it is in the `number`-th long text, `text` is JSON that has it, else `cause` is the decoder's error.
    """

    def __init__(self, end: int, cause: Exception, *, number: int = -1, text: bytes = b"") -> None:
        super().__init__(end)
        self.end = end
        self.cause = cause
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


async def joined(parts: Iterator[bytes]) -> bytes:
    """All of them, taken in steps."""
    written: list[bytes] = []
    await in_steps(fed(parts, written.append))
    return b"".join(written)


async def in_steps(steps: Steps[T]) -> T:
    """All steps, and whoever else wants to run between them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


class Cut(msgspec.Struct, frozen=True):
    """A comma at byte `at`, and the brackets that are open there, the outermost first."""

    at: int
    open: bytes


class Survey(msgspec.Struct, frozen=True):
    """`cost`: bytes of memory that the body takes once decoded, at most. `texts`: where the long texts are."""

    cost: int
    texts: list[tuple[int, int]]
    cuts: list[Cut]


def survey(raw: bytes, *, cut: bool = False, answer: bool = False) -> Steps[Survey]:
    """What a body will cost. TooCostly past a limit; of what is no JSON the part before its first fault counts.

    With `cut` also where its long texts are, and where it may be cut. A provider's `answer` may take four times as many
    values, whatever its size, and any fractions: so much are the logarithms of all tokens' chances.
    """
    counting = _Counting(raw, cut=cut)
    if answer:
        counting.allow(4 * MAX_VALUES)
    at = work = 0
    while at < len(raw):
        at = counting.slice(at)
        work += _SLICE + _PER_PART * counting.parts + _PER_COMMA * counting.commas
        if work >= _PAUSE:
            work = 0
            yield
    return Survey(counting.values + counting.texts, counting.lifted, counting.cuts)


class _Counting:
    """The state between two slices."""

    def __init__(self, raw: bytes, *, cut: bool, times: int = _TIMES, spare: int = _AND) -> None:
        self.values = self.texts = 0  # bytes of memory
        self.lifted: list[tuple[int, int]] = []
        self.cuts: list[Cut] = []
        self.parts = self.commas = 0  # of the last slice; commas outside strings
        self._fractions = 0
        self._raw, self._cut = raw, cut
        self._most = times * len(raw) + spare
        self._most_values, self._most_fractions = MAX_VALUES, MAX_FRACTIONS
        self._inside = False  # a string, which began at byte `_began`, holds
        self._began = 0
        self._open = b""  # brackets
        self._makes_sense = True  # so far: no bracket closes another kind, or nothing
        # Of the string that has been open since an earlier slice: characters, bytes for each, what was counted.
        self._characters, self._width, self._counted = 0, 1, 0

    def allow(self, values: int) -> None:
        """So many bytes for values, whatever the size and whatever they are."""
        self._most_values, self._most, self._most_fractions = values, values + MAX_TEXT, values

    def slice(self, at: int) -> int:
        """Count from byte `at`; where the next slice begins."""
        data = self._raw[at : at + _SLICE]
        if (len(data) - len(data.rstrip(b"\\"))) & 1 and at + len(data) < len(self._raw):
            data = data[:-1]  # an escape is not cut in two
        masked = data
        if b"\\" in data:
            masked = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        parts = masked.split(b'"')
        self.parts = len(parts)
        width = _width(masked)
        share = _characters(masked) / len(masked)  # of the bytes
        copy = _copy(masked)
        if self._inside:
            self._go_on(parts[0], width, share, copy)
        opened = self._open
        self._count_outside(parts[self._inside :: 2], len(parts) - 1)
        within = parts[2 if self._inside else 1 :: 2]
        if width > 1:
            self.values += _NOT_ASCII * len(within)
        self.texts += int((width * share + copy) * sum(map(len, within)))
        if self._cut:
            if max(map(len, parts)) + (at - self._began if self._inside else 0) > MAX_NAME:
                self._find_long(parts, at)
            if self.commas and at + len(data) - (self.cuts[-1].at if self.cuts else 0) > _PIECE:
                self._cut_before_comma(parts, at + len(data), opened)
        if len(parts) & 1 == 0:
            self._inside = not self._inside
        if self._inside and len(parts) > 1:
            self._began = at + len(data) - len(parts[-1]) - 1
            self._characters, self._width = int(share * len(parts[-1])) + 1, width
            self._counted = self._characters * width
        self._check()
        return at + len(data)

    def _go_on(self, part: bytes, width: int, share: float, copy: float) -> None:
        """With a string from an earlier slice: its widest character says how much memory each of them takes."""
        self._characters += int(share * len(part)) + 1
        self._width = max(self._width, width)
        takes = self._characters * self._width
        if takes > MAX_TEXT:
            raise TooCostly(f"A text in the body would take more than {MAX_TEXT // 2**20} MiB of memory.")
        self.texts += takes - self._counted + int(copy * len(part))
        self._counted = takes

    def _count_outside(self, outside: list[bytes], quotes: int) -> None:
        between = b" ".join(outside)
        commas, colons = between.count(b","), between.count(b":")
        self.commas = commas
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
            self._count_digits(between)
        self._check_depth(between, lists + objects)

    def _count_fractions(self, between: bytes) -> None:
        signs = between.count(b".") + between.count(b"e") + between.count(b"E")
        if signs:
            self._fractions += signs - between.count(b"true") - between.count(b"false")
        if self._fractions > self._most_fractions:
            raise TooCostly(
                f"The body holds more than {MAX_FRACTIONS:,} numbers with a fraction or an exponent."
            )

    def _count_digits(self, between: bytes) -> None:
        longest = max(map(len, between.translate(_DIGITS).split()), default=0)
        if longest > MAX_DIGITS:
            raise TooCostly(f"A number in the body has more than {MAX_DIGITS:,} digits.")
        if longest > _NUMBER:
            self.values += 8 * len(between)

    def _check_depth(self, between: bytes, opened: int) -> None:
        brackets = between.translate(None, _NOT_BRACKETS)
        depth = len(self._open)
        if depth + opened > MAX_DEPTH:
            levels = list(accumulate(map(_LEVELS.__getitem__, brackets), initial=depth))
            if max(levels) > MAX_DEPTH:
                raise TooCostly(f"The body is nested deeper than {MAX_DEPTH} levels.")
        if not brackets:
            return
        self._open = _not_closed(self._open + brackets)
        if self._open.translate(None, b"[{"):
            self._makes_sense = False
            self._open = self._open.translate(None, b"]}")[:MAX_DEPTH]

    def _check(self) -> None:
        if self.values > self._most_values:
            raise TooCostly(
                f"The body holds too many values: they would take more than {self._most_values // 2**20} MiB of memory."
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
            if inside and position - self._began > MAX_NAME:
                self._lift_out(self._began, position)
            inside = not inside
            if inside:
                self._began = position - 1

    def _lift_out(self, begin: int, end: int) -> None:
        if _IS_NAME.match(self._raw, end):
            raise TooCostly(f"A field's name in the body is longer than {MAX_NAME:,} bytes.")
        if end - begin > _LONG:
            self.lifted.append((begin, end))

    def _cut_before_comma(self, parts: list[bytes], end: int, opened: bytes) -> None:
        """Before the last one in this slice that is outside strings. `opened` are the brackets at its beginning."""
        for index in range(len(parts) - 1, -1, -1):
            part = parts[index]
            comma = part.rfind(b",") if index & 1 == self._inside else -1
            if comma >= 0:
                before = b"".join([*parts[self._inside : index : 2], part[:comma]])
                opened = _not_closed(opened + before.translate(None, _NOT_BRACKETS))
                if self._makes_sense and opened:
                    self.cuts.append(Cut(end - len(part) + comma, opened))
                return
            end -= len(part) + 1


def _not_closed(brackets: bytes) -> bytes:
    """What is left of them without the pairs."""
    while True:
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(brackets):
            return fewer
        brackets = fewer


def _width(masked: bytes) -> int:
    """Bytes of memory for each character of a text with these, at most."""
    if b"\\u" in masked:
        return 4 if _WIDE_ESCAPE.search(masked) or masked.translate(None, _BELOW_FOUR) else 2
    if masked.isascii():
        return 1
    return 4 if masked.translate(None, _BELOW_FOUR) else 2


def _copy(masked: bytes) -> float:
    """Bytes for each byte of a text with these, at most, of the copy in UTF-8 that encoding it leaves behind."""
    return 0.5 * (b"\\u" in masked) if masked.isascii() else 1.0


def _characters(masked: bytes) -> int:
    """Of a text, at most."""
    count = len(masked) if masked.isascii() else len(masked.translate(None, _CONTINUATIONS))
    return count - 4 * masked.count(b"\\u") if b"\\u" in masked else count


def decode_within(text: bytes) -> Any:
    """JSON that a caller has put into a text: it may take five times its size, besides what the body takes."""
    counting = _Counting(text, cut=False, times=5, spare=_FEW)
    at = 0
    while len(text) > _FEW and at < len(text):
        at = counting.slice(at)
    return _decoder.decode(text)


def is_plain(raw: bytes) -> bool:
    """Whether `decode` may have it without a `survey`: it is too small to cost much, and not deep."""
    return len(raw) <= SMALL and raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH


def _number(written: str) -> float:
    # msgspec's own way with extreme numbers takes 20 µs each.
    value = float(written)
    if value - value != 0:
        raise ValueError("Number out of range")
    return value


_decoder = msgspec.json.Decoder(float_hook=_number)
decode = _decoder.decode
"""In one step; for bodies that are not large. msgspec's errors, UnicodeDecodeError or RecursionError."""


def decode_in_steps(raw: bytes, found: Survey) -> Steps[Any]:
    """The value of a body that was surveyed, with its cuts. NotReadable where it is none."""
    stamp = new_stamp()
    texts = yield from _decode_texts(raw, found.texts)
    growing = _Growing(stamp, texts)
    begin, opened = 0, b""
    for cut in [*found.cuts, Cut(len(raw), b"")]:
        piece = b"".join(_replaced(raw, found.texts, stamp, begin, cut.at))
        try:
            growing.add(piece, opened, cut.open)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise NotReadable(cut.at, error) from None
        begin, opened = cut.at, cut.open
        yield
    return growing.whole


def new_stamp() -> bytes:
    """How the numbers begin that stand for texts."""
    return b"0.%019de" % random.getrandbits(62)  # not a secret: who guesses it fools himself


def skeleton_of(raw: bytes, texts: list[tuple[int, int]], stamp: bytes, end: int) -> bytes:
    """The body up to byte `end`, with a number in the place of each long text."""
    return b"".join(_replaced(raw, texts, stamp, 0, end))


def _replaced(
    raw: bytes, texts: list[tuple[int, int]], stamp: bytes, begin: int, end: int
) -> Iterator[bytes]:
    for number in range(bisect_left(texts, (begin, begin)), bisect_left(texts, (end, end))):
        yield raw[begin : texts[number][0]]
        yield b"%b%d" % (stamp, number)
        begin = texts[number][1]
    yield raw[begin:end]


def _decode_texts(raw: bytes, texts: list[tuple[int, int]]) -> Steps[list[str]]:
    """The long texts. NotReadable where one is not valid."""
    found: list[str] = []
    for begin, end in texts:
        read = ""
        at, last = begin + 1, end - 1
        while at < last:
            written = raw[at : min(at + _PIECE, last)]
            if at + len(written) < last:
                written = _whole_characters(written)
            at += len(written)
            text = b'"%b"' % written
            try:
                # In place: to join parts would take twice the memory where all are wide.
                read += _decode_text(text)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise NotReadable(end, error, number=len(found), text=text) from None
            yield
        found.append(read)
    return found


def _whole_characters(part: bytes) -> bytes:
    """Without what may be the beginning of an escape, a pair of them, or a character at its end; some of a long one."""
    if _ends_in_backslash(part):
        part = part[:-1]
    for _ in range(2):  # half an escape, and before it the first of a pair
        at = part.rfind(b"\\u", -_ESCAPE)
        cut = len(part) - at < _ESCAPE or _WIDE_ESCAPE.match(part, at)
        if at >= 0 and cut and _ends_in_backslash(part[: at + 1]):
            part = part[:at]
    end = len(part)
    while end and 0x80 <= part[end - 1] < 0xC0 and len(part) - end < 3:
        end -= 1
    if end and part[end - 1] >= 0xC0:
        return part[: end - 1]
    return part


def _ends_in_backslash(part: bytes) -> bool:
    """One that begins an escape."""
    return bool((len(part) - len(part.rstrip(b"\\"))) & 1)


_ESCAPE = 6
_decode_text = msgspec.json.Decoder(str).decode


class _Growing:
    """A value, as its pieces come. `_spine` are the lists and objects of it that are open, the outermost first."""

    def __init__(self, stamp: bytes, texts: list[str]) -> None:
        self.whole: Any = None
        self._spine: list[Any] = []
        self._stamp = stamp
        # Names and values that no caller can know: of what was begun in an earlier piece, and of where this one ends.
        first, final = stamp.decode(), f"{stamp.decode()}-1"
        start, last = len(stamp), object()
        self._first, self._last, self._end = first, final, last

        def number(written: str) -> Any:  # without `self`, for a cycle would keep all the texts
            if not written.startswith(first):
                return _number(written)
            return last if written == final else texts[int(written[start:])]

        self._decode = msgspec.json.Decoder(float_hook=number).decode

    def add(self, piece: bytes, opened: bytes, still_open: bytes) -> None:
        """`piece` begins and ends before a comma; these brackets are open where it begins, and where it ends."""
        before = b"".join(b"[" if each == _IS_LIST else b'{"%b":' % self._stamp for each in opened)
        after = b""
        if still_open:
            name = b"" if still_open[-1] == _IS_LIST else b'"%b-1":' % self._stamp
            after = b",%b%b-1%b" % (name, self._stamp, still_open[::-1].translate(_CLOSING))
        value = self._decode(b"".join([before, b"0" if opened else b"", piece, after]))
        if not opened:
            self.whole = value
        path = self._path(value, len(still_open)) if still_open else []
        if still_open:
            path[-1].pop(-1 if still_open[-1] == _IS_LIST else self._last)
        left = [value] if opened else []
        while len(left) < len(opened):
            left.append(left[-1][0 if type(left[-1]) is list else self._first])
        held = self._spine
        self._spine = [
            held[level] if level < len(left) and one is left[level] else one for level, one in enumerate(path)
        ]
        for part, whole in zip(left, held, strict=True):
            if type(part) is list:
                del part[0]
                whole.extend(part)
            else:
                del part[self._first]
                whole.update(part)

    def _path(self, value: Any, levels: int) -> list[Any]:
        """From `value` to what holds the end: the last of each, unless a name is repeated, and stands where it was."""
        if levels == 1:
            last = value[-1] if type(value) is list else value.get(self._last)
            return [value] if last is self._end else []
        for inner in reversed(value if type(value) is list else value.values()):
            if type(inner) is list or type(inner) is dict:
                path = self._path(inner, levels - 1) if inner else []
                if path:
                    return [value, *path]
        return []


_IS_LIST = ord("[")
_CLOSING = bytes.maketrans(b"[{", b"]}")


_encode = msgspec.json.Encoder().encode
_SCALAR = 16
"""Characters that a number, true, false and null count as."""


def pieces(
    value: Any, *, names: Callable[[Any], Any] = iter, scalar: Callable[[Any], Any] | None = None
) -> Iterator[bytes]:
    """`value` as JSON, a piece at a time: a part of a long text, or some thousand scalars.

    `names` gives an object's names in order, `scalar` what is written for a value that is neither object nor list.
    """
    kind = type(value)
    if kind is dict:
        yield from _object(value, names, scalar)
    elif kind is list:
        yield from _list(value, names, scalar)
    elif kind is str and len(value) > _SLICE:
        for at in range(0, len(value), _SLICE):
            yield (b'"' if at == 0 else b"") + _encode(value[at : at + _SLICE])[1:-1]
        yield b'"'
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
