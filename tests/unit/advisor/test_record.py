"""A record: written and read again, bounded, and what is wrong with one that is none."""

from __future__ import annotations

import contextlib
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dub5.advisor import record as records
from dub5.advisor.record import (
    AnyLine,
    Arrivals,
    BadRecord,
    Callers,
    Cluster,
    Header,
    Mix,
    Pace,
    Seen,
    make,
    part,
    preceded,
    read,
    times,
    without_cache,
    write,
)

SERVICE = [(0.5, 2.0), (1.0, 9.0)]


def header(**changes: Any) -> Header:
    return Header(**{"source": "a test", "seconds": 60.0, **changes})


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


HEADER = {"line": "record", "version": 1, "source": "x", "seconds": 60}
ARRIVALS = {"line": "arrivals", "at": 0, "requests": [1, 2]}
MIX = {"line": "mix", "service": [[1.0, 3.0]]}
CALLERS = {"line": "callers", "at": 0, "count": 5}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = make(
        header(
            pace=Pace(synced=3.5),
            cluster=Cluster(replicas=3, room=9, blind=[(5.0, 9.0)]),
            values={"replicas": 4},
        ),
        [
            Seen(at=7.0, wanted=2),
            Mix(at=30.0, service=[(1.0, 1.0)]),
            Mix(hits=0.25, followers=0.5, service=SERVICE),
            Arrivals(at=10.0, step=5.0, requests=[1.0, 0.5]),
            Arrivals(at=0.0, requests=[3.0]),
            Callers(at=2.0, count=7),
        ],
    )
    write(made, tmp_path / "load.record")
    assert read(tmp_path / "load.record") == made
    assert [each.at for each in made.arrivals] == [0.0, 10.0]
    assert made.requests == 4.5


def test_the_same_record_is_the_same_file(tmp_path: Path) -> None:
    made = make(header(), [Mix(service=SERVICE), Callers(at=0, count=1)])
    for name in ("a", "b"):
        write(made, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_one_that_somebody_has_unzipped_is_read(tmp_path: Path) -> None:
    assert read(written(tmp_path / "plain", HEADER, MIX, ARRIVALS)).requests == 3


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], "no record"),
        ([ARRIVALS, MIX], "first line"),
        ([{"hello": 1}], "no record"),
        ([HEADER, MIX], "no load"),
        ([HEADER, ARRIVALS], "mix"),
        ([HEADER, {**MIX, "at": 1}, ARRIVALS], "second 0"),
        ([HEADER, HEADER, MIX, ARRIVALS], "second line"),
        ([{**HEADER, "version": 2, "unheard_of": {}}, MIX, ARRIVALS], "line 1: version: it is of version 2"),
        ([{**HEADER, "notes": ["x" * 2000]}, MIX, ARRIVALS], "notes"),
        ([HEADER, MIX, ARRIVALS, {"line": "seen", "at": 1, "wanted": -1}], "line 4: wanted"),
        ([{**HEADER, "seconds": -1}, MIX, ARRIVALS], "seconds"),
        ([{**HEADER, "seconds": 1e9}, MIX, ARRIVALS], "seconds"),
        ([{**HEADER, "pace": {"scrap": 1}}, MIX, ARRIVALS], "scrap"),
        ([{**HEADER, "cluster": {"starts": []}}, MIX, ARRIVALS], "starts"),
        ([{**HEADER, "cluster": {"blind": [[9, 3]]}}, MIX, ARRIVALS], "blind"),
        ([HEADER, {**MIX, "hits": 1.5}, ARRIVALS], "hits"),
        ([HEADER, {**MIX, "hits": 0.7, "followers": 0.7}, ARRIVALS], "followers"),
        ([HEADER, {**MIX, "service": [[1.0, 3.0], [0.5, 9.0]]}, ARRIVALS], "service"),
        ([HEADER, MIX, {**ARRIVALS, "requests": [-1]}], "line 3"),
        ([HEADER, MIX, {**ARRIVALS, "requests": [1] * 90}], "arrivals"),
        ([HEADER, MIX, ARRIVALS, {**ARRIVALS, "at": 1}], "arrivals at 1"),
        ([HEADER, MIX, {"line": "arrival"}], "line 3"),
        ([HEADER, MIX, {**ARRIVALS, "step": 5e-324}], "line 3: step: Expected `float` >= 0.001"),
        ([{**HEADER, "pace": {"scrape": 1e-9}}, MIX, ARRIVALS], "pace.scrape: Expected `float` >= 0.1"),
        ([{**HEADER, "pace": {"sync": 5e-324}}, MIX, ARRIVALS], "pace.sync: Expected `float` >= 0.1"),
        ([{**HEADER, "connections": {"again": 1e-9}}, MIX, CALLERS], "connections.again"),
        ([{**HEADER, "seconds": 1e6}, {**MIX, "hits": 1}, CALLERS], "callers: "),
        ([{**HEADER, "seconds": 1e6}, {**MIX, "service": [[1.0, 0.0]]}, CALLERS], "callers: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, lines: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(BadRecord) as raised:
        read(written(tmp_path / "load.record", *lines))
    assert named in str(raised.value)
    assert "load.record" in str(raised.value)


def test_what_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    made = make(header(pace=Pace(scrape=0.0)), [Mix(service=SERVICE), Callers(at=0, count=1)])
    with pytest.raises(BadRecord) as raised:
        write(made, tmp_path / "load.record")
    assert "pace.scrape" in str(raised.value)
    assert not (tmp_path / "load.record").exists()


def test_files_that_are_no_records(tmp_path: Path) -> None:
    good = gzip.compress(msgspec.json.encode(HEADER) * 50)
    for name, content in (
        ("cut", good[:-12]),
        ("damaged", good[:30] + b"\0\0\0\0" + good[34:]),
        ("binary", b"\x00\xff" * 100),
        ("empty", b""),
        ("nan", b'{"line": "record", "source": "a", "seconds": NaN}'),
        ("infinite", b'{"line": "record", "source": "a", "seconds": 1e999}'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadRecord) as raised:
            read(tmp_path / name)
        assert name in str(raised.value)
    with pytest.raises(BadRecord):
        read(tmp_path / "absent")
    with pytest.raises(BadRecord):
        read(tmp_path)


def test_a_bomb_is_not_unzipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LIMIT", 2**20)
    (tmp_path / "bomb").write_bytes(gzip.compress(b" " * (2**20 + 1)))
    with pytest.raises(BadRecord) as raised:
        read(tmp_path / "bomb")
    assert "1 MiB" in str(raised.value)
    (tmp_path / "lines").write_bytes(gzip.compress(b"\n" * (10**6 + 1)))
    with pytest.raises(BadRecord, match="1000000 lines"):
        read(tmp_path / "lines")


@pytest.mark.parametrize(
    ("bounds", "lines", "said"),
    [
        (
            {},
            [{**HEADER, "values": {"global": "x" * 2**20}}, MIX, ARRIVALS],
            "values: they have more than 1 MiB",
        ),
        ({"_LONGEST_HEADER": 2**20}, [{**HEADER, "source": "x" * 2**20}, MIX, ARRIVALS], "line 1: .* 1 MiB"),
        (
            {"_MOST_IN_A_LINE": 1000},
            [HEADER, MIX, {**ARRIVALS, "requests": [1] * 1001}],
            "line 3: .* 1000 numbers",
        ),
        ({"_MOST_PARTS": 1000}, [HEADER, MIX, *[{**ARRIVALS, "requests": [1] * 600}] * 2], "1000 numbers"),
    ],
)
def test_what_would_take_too_much_memory_is_not_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bounds: dict[str, int],
    lines: list[dict[str, Any]],
    said: str,
) -> None:
    for name, bound in bounds.items():
        monkeypatch.setattr(records, name, bound)
    with pytest.raises(BadRecord, match=said):
        read(written(tmp_path / "load.record", *lines))


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """The block takes less than so many bytes of memory."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size


def test_ten_million_numbers_take_no_more_memory_than_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which are 20 MB; made, they take 320."""
    monkeypatch.setattr(records, "LIMIT", 2**26)
    content = (
        b"\n".join(map(msgspec.json.encode, (HEADER, MIX))) + b'\n{"line":"arrivals","at":0,"requests":['
    )
    (tmp_path / "numbers").write_bytes(gzip.compress(content + b"1," * 10**7 + b"1]}\n", compresslevel=1))
    with at_most(100 * 2**20), pytest.raises(BadRecord, match="line 3: it has more than 2765800 numbers"):
        read(tmp_path / "numbers")


@pytest.mark.parametrize(
    ("levels", "said"), [(100_000, "line 1: it is nested too deep"), (101, "100 levels")]
)
def test_values_that_are_nested_too_deep(tmp_path: Path, levels: int, said: str) -> None:
    first = (
        msgspec.json.encode({**HEADER, "values": {}})[:-2] + b'"a":' + b"[" * levels + b"]" * levels + b"}}"
    )
    lines = [first, msgspec.json.encode(MIX), msgspec.json.encode(ARRIVALS)]
    (tmp_path / "deep").write_bytes(b"\n".join(lines))
    with pytest.raises(BadRecord, match=said):
        read(tmp_path / "deep")


def test_many_ends_of_lines_are_not_made_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LIMIT", 2**24)
    (tmp_path / "lines").write_bytes(gzip.compress(b"\n" * 10**7, compresslevel=1))
    with at_most(50 * 2**20), pytest.raises(BadRecord, match="1000000 lines"):
        read(tmp_path / "lines")


def test_requests_of_all_arrivals_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[AnyLine] = [
        Mix(service=[(1.0, 2.0)]),
        Arrivals(at=0.0, requests=[10.0, 0.5]),
        Arrivals(at=30.0, requests=[20.0]),
    ]
    monkeypatch.setattr(records, "_MOST_REQUESTS", 31)
    make(header(), lines)
    monkeypatch.setattr(records, "_MOST_REQUESTS", 30)
    with pytest.raises(BadRecord, match=r"arrivals: they are 30\.5 requests"):
        make(header(), lines)


def test_questions_of_callers_are_counted_by_how_long_answers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten for 20 s, each of them 2 s; twenty for 20 s, and with answers of 4 s for 20 s more."""
    lines: list[AnyLine] = [
        Mix(service=[(1.0, 2.0)]),
        Mix(at=40.0, hits=0.5, service=[(1.0, 8.0)]),
        Callers(at=0.0, count=10),
        Callers(at=20.0, count=20),
    ]
    monkeypatch.setattr(records, "_MOST_QUESTIONS", 100 + 200 + 100)
    make(header(), lines)
    monkeypatch.setattr(records, "_MOST_QUESTIONS", 399)
    with pytest.raises(BadRecord, match="callers"):
        make(header(), lines)


def test_a_part_begins_with_what_holds_then(tmp_path: Path) -> None:
    whole = make(
        header(
            pace=Pace(sync=15.0, synced=3.0),
            cluster=Cluster(replicas=3, blind=[(5.0, 9.0), (25.0, 35.0)]),
            began=7.0,
        ),
        [
            Mix(service=SERVICE, hits=0.1),
            Mix(at=20.0, service=SERVICE, hits=0.2),
            Mix(at=40.0, service=SERVICE, hits=0.3),
            Arrivals(at=0.0, requests=[1.0, 2.0]),
            Arrivals(at=10.0, step=5.0, requests=[3.0, 4.0, 5.0, 6.0, 7.0]),
            Callers(at=2.0, count=7),
            Seen(at=33.0, wanted=2),
        ],
    )
    found = part(whole, 20.0, 45.0)
    assert (found.header.seconds, found.header.began) == (25.0, 27.0)
    assert [(each.at, each.hits) for each in found.mixes] == [(0.0, 0.2), (20.0, 0.3)]
    assert [(each.at, each.requests) for each in found.arrivals] == [(0.0, [5.0, 6.0, 7.0])]
    assert [(each.at, each.count) for each in found.callers] == [(0.0, 7)]
    assert [each.at for each in found.seen] == [13.0]
    assert found.header.pace.synced == 13.0  # 33 in the whole
    assert (found.header.cluster.blind, found.header.cluster.replicas) == ([(5.0, 15.0)], None)
    write(found, tmp_path / "part")
    assert part(whole, 0.0, 60.0) == whole


def test_what_was_before_is_like_the_beginning(tmp_path: Path) -> None:
    whole = make(
        header(
            seconds=100.0,
            began=1000.0,
            pace=Pace(sync=15.0, synced=3.0),
            cluster=Cluster(blind=[(5.0, 9.0)]),
        ),
        [
            Mix(service=SERVICE, hits=0.1),
            Mix(at=50.0, service=SERVICE, hits=0.2),
            Arrivals(at=0.0, step=5.0, requests=[1.0, 2.0, 3.0, 4.0, 5.0]),  # an eighth ends in the third
            Callers(at=0.0, count=7),
            Callers(at=2.0, count=8),
            Seen(at=33.0, wanted=2),
        ],
    )
    found = preceded(whole, 25.0)
    assert (found.header.seconds, found.header.began) == (130.0, 970.0)
    first = [(0.0, [1.0, 2.0, 3.0]), (15.0, [1.0, 2.0, 3.0])]
    assert [(each.at, each.requests) for each in found.arrivals] == [
        *first,
        (30.0, whole.arrivals[0].requests),
    ]
    assert [(each.at, each.count) for each in found.callers[2:]] == [
        (15.0, 7),
        (17.0, 8),
        (30.0, 7),
        (32.0, 8),
    ]
    assert [(each.at, each.hits) for each in found.mixes] == [
        (0.0, 0.1),
        (15.0, 0.1),
        (30.0, 0.1),
        (80.0, 0.2),
    ]
    assert (found.header.pace.synced, found.header.cluster.blind) == (3.0, [(35.0, 39.0)])
    write(found, tmp_path / "longer")
    assert part(found, 30.0, 130.0) == whole


@pytest.mark.parametrize(("seconds", "step"), [(4.0, 1.0), (100.0, 3600.0), (3000.0, 7.0), (1e-6, 0.001)])
def test_any_record_may_have_a_time_before(tmp_path: Path, seconds: float, step: float) -> None:
    requests = [1.0] * max(1, int(seconds / step))
    whole = make(
        header(seconds=seconds), [Mix(service=SERVICE), Arrivals(at=0, step=step, requests=requests)]
    )
    found = preceded(whole, 900.0)
    assert 900.0 <= found.header.seconds - seconds < 900.0 + max(step, 60.0)
    make(found.header, [*found.mixes, *found.arrivals])


def test_more_load_and_no_cache() -> None:
    whole = make(
        header(), [Mix(service=SERVICE, hits=0.5), Arrivals(at=0, requests=[3.0]), Callers(at=1, count=3)]
    )
    double = times(whole, 2.0)
    assert (double.requests, double.callers[0].count) == (6.0, 6)
    assert [each.hits for each in without_cache(whole).mixes] == [0.0]
