"""What a body costs is known before it is decoded; what is large is read and written in steps, to the letter."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dub5 import json_steps
from dub5.json_steps import (
    MAX_DEPTH,
    NotReadable,
    Steps,
    TooCostly,
    at_once,
    decode_within,
    fed,
    in_steps,
    pieces,
    survey,
)
from tests.turns import counted_turns

MIB = 2**20

texts = st.text(max_size=20) | st.text(alphabet='\\"/[{,:é😀a', max_size=400)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


def read_in_steps(raw: bytes) -> Any:
    """The way of a large body, whatever its size."""
    return at_once(json_steps.decode_in_steps(raw, at_once(survey(raw, cut=True))))


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_what_is_read_in_steps_is_what_was_sent(value: Any, ascii_only: bool, indent: int | None) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert read_in_steps(raw) == value == json_steps.decode(raw)


@pytest.mark.parametrize("around", range(-3, 4))
@pytest.mark.parametrize("text", ['\\"', "\\\\", '\\\\\\"', "é", '"', "😀"])
def test_no_escape_and_no_quote_is_lost_where_two_slices_meet(around: int, text: str) -> None:
    value = {
        "k": ["x" * (16 * 2**10 - 8 + around), text * 300, text],
        text: "[1,2]" * 5000,
        "e": [text] * 3000,
    }
    raw = json.dumps(value, ensure_ascii=False).encode()
    assert read_in_steps(raw) == value


@pytest.fixture
def small_pieces() -> Iterator[None]:
    """A piece ends wherever it may."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("_SLICE", 12), ("_PIECE", 14), ("_LONG", 30)):
            patch.setattr(json_steps, name, size)
        yield


@pytest.mark.usefixtures("small_pieces")
@given(values, st.booleans(), st.sampled_from([None, 1]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_put_together_to_what_was_sent(value: Any, ascii_only: bool, indent: int | None) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert read_in_steps(raw) == value


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "raw",
    [
        b'{"b":[1,2],"a":[[2]],"b":[3,[4,5,6,7,8,9],10,11,12,13,14],"c":0,"b":{"x":[1,2,3,4,5,6,7,8,9,10]}}',
        b'[{"a":{"a":{"a":[1,2,3,4,5,6,7,8],"a":[1,2,3,4,5,6,7,8,9,10,11,12,13]}},"a":[{},{},{},{},{}]}]',
        b'{"":[0,0,0,0,0,0,0,0,0,0,0,0,0],"":{"":0,"x":[[],[],[],[],[],[],[],[]]},"y":[{"":[{"":[[[[]]]]}]}]}',
        b'["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\\ud83d\\ude00\\ud83d\\ude00\\\\ud83d\\u00e9","\\\\",1]',
    ],
)
def test_repeated_names_and_whatever_else_is_odd_read_as_in_one_step(raw: bytes) -> None:
    assert json.dumps(read_in_steps(raw)) == json.dumps(json_steps.decode(raw))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "raw",
    [
        b"[1,2,3,4,5,6,7,8,9,10,11,12,13,14,,15,16,17]",
        b"[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,]",
        b'{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g","h":7}',
        b'{"a":[1,2,3,4,5,6,7,8,9,10,11,12,13},"b":[1,2,3,4,5,6,7]]',
        b"[1,2,3,4,5,6,7,8,9,10,11,12],[1,2,3,4,5,6,7,8,9,10]",
        b"[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19",
        b"[1,2,3,4,5,6,7,8,9,10,11,12]]]],[[[[1,2,3,4,5,6,7,8,9,10]",
        b'{"a":1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18}',
        b'["' + b"\\ud83d" * 12 + b'"]',
        b'["' + b"a" * 60 + b"\xf0\x9f\x98" + b'"]',
        b'["' + b"a" * 60 + b"\\",
    ],
)
def test_what_is_no_json_is_none_in_pieces(raw: bytes) -> None:
    with pytest.raises(NotReadable):
        read_in_steps(raw)


@given(values)
def test_pieces_are_json(value: Any) -> None:
    assert json.loads(b"".join(pieces(value))) == value


def test_long_lists_and_objects_come_in_many_pieces() -> None:
    value = {
        "texts": ["x" * 20_000] * 3,
        "numbers": list(range(5000)),
        "names": {str(n): n for n in range(5000)},
    }
    found = list(pieces(value))
    assert json.loads(b"".join(found)) == value
    assert len(found) > 10
    assert max(map(len, found)) < 60_000


def test_a_step_takes_half_a_mebibyte() -> None:
    taken: list[int] = []
    steps = sum(1 for _ in fed(iter([b"x" * (4 * MIB)]), lambda part: taken.append(len(part))))
    assert sum(taken) == 4 * MIB
    assert steps >= 8
    assert max(taken) <= MIB // 2


async def test_others_run_between_steps() -> None:
    def steps() -> Steps[str]:
        for _ in range(10):
            yield
        return "done"

    async with counted_turns() as turns:
        assert await in_steps(steps()) == "done"
    assert turns.count >= 10


@pytest.mark.parametrize(
    ("raw", "limit"),
    [
        (b"[" + b"[]," * 700_000 + b"1]", "values"),
        (b"[" + b"{}," * 700_000 + b"1]", "values"),
        (b'{"a":[' + b'{"a":1},' * 30_000 + b"1]}", "values for its size"),
        (b"[" + b"1e308," * 40_000 + b"1]", "30,000 numbers with a fraction or an exponent"),
        (b"[" + b"0.5," * 40_000 + b"1]", "30,000 numbers with a fraction or an exponent"),
        (b"[" + b"9" * 2000 + b"]", "1,000 digits"),
        (b"[" * 100 + b"]" * 100, "64 levels"),
        ('["{}😀"]'.format("a" * 13 * MIB).encode(), "48 MiB"),
        (b'{"' + b"k" * 5000 + b'":1}', "4,096 bytes"),
    ],
)
def test_what_would_cost_too_much_is_refused_by_the_name_of_the_limit(raw: bytes, limit: str) -> None:
    with pytest.raises(TooCostly, match=limit):
        at_once(survey(raw, cut=True))


@pytest.mark.parametrize(
    "value",
    [
        ["A" * 15 * MIB],
        [{"role": "user", "content": 'if x: print("a,b")\n    [1,2]' * 80} for _ in range(5000)],
        ["A text to embed, of some length. " * 30] * 2048,
        [list(range(10_000, 10_500)) for _ in range(400)],
        [True] * 100_000,
    ],
    ids=["picture", "agent", "texts", "tokens", "booleans"],
)
def test_what_people_send_is_not(value: Any) -> None:
    raw = json.dumps(value).encode()
    assert at_once(survey(raw, cut=True)).cost <= 7 * len(raw) + MIB


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_depth_is_counted_over_slices(depth: int) -> None:
    raw = b"[" * (depth - 1) + b'"' + b"x" * 40_000 + b'",[]' + b"]" * (depth - 1)
    if depth > MAX_DEPTH:
        with pytest.raises(TooCostly, match="levels"):
            at_once(survey(raw))
    else:
        at_once(survey(raw))


def test_json_inside_a_text_is_bounded_too() -> None:
    assert decode_within(b'{"path": "/a", "lines": [1, 2.5]}') == {"path": "/a", "lines": [1, 2.5]}
    with pytest.raises(TooCostly):
        decode_within(b'{"a":[' + b"[]," * 1000 + b"1]}")


@pytest.mark.parametrize(
    "unit",
    [
        "[]",
        "{}",
        "257",
        '"a"',
        '{"a":1}',
        '"aaaaaaaaaaaaaaaaaaaaaaaaaaaaa😀"',
        '{"type":"text","text":"hello"}',
        '"\\u00e9"',
    ],
)
@pytest.mark.parametrize("size", [60_000, 250_000, 2_000_000])
def test_no_body_takes_more_than_eight_times_its_size(unit: str, size: int) -> None:
    code = f"""
        import tracemalloc
        from dub5.chat.request import parse
        from dub5.errors import InvalidRequest
        raw = ('{{"model":"m","messages":[{{"role":"user","content":"x"}}],"foo":['
            + ",".join([{unit!r}] * ({size} // {len(unit.encode()) + 1})) + "]}}").encode()
        tracemalloc.start()
        kept = None
        try:
            kept = parse(raw)
        except InvalidRequest as error:
            assert len(str(error)) < 400 and len(error.param) < 300
        _, peak = tracemalloc.get_traced_memory()
        assert peak <= 7 * len(raw) + 2**20, (peak, len(raw))
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
    )
