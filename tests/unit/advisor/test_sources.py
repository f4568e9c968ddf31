"""Records of CSVs, load tests and shapes."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from dub5.advisor import sources
from dub5.advisor.record import BadRecord, Header, Mix, Record, read, write
from dub5.advisor.sources import SHAPES, Speed, distribution
from testkit import trace
from testkit.places import ROOT
from tests.harness import size
from tests.unit.loadtest import scenes

MIX = Mix(hits=0.5, service=[(0.5, 2.0), (1.0, 9.0)])


def header(began: float, seconds: float) -> Header:
    return Header(source="a test", began=began, seconds=seconds)


def csv(path: Path, *rows: str) -> Record:
    path.write_text("".join(f"{row}\n" for row in rows))
    return sources.of_csv(path, header, MIX, Speed(first_token=1.0, tokens_per_second=10.0))


def test_the_real_trace(tmp_path: Path) -> None:
    rows = trace.read()
    path = ROOT / "benchmarks/replay/azure_llm_2023_conv_10min.csv"
    record = sources.of_csv(path, header, MIX, Speed())
    assert record.requests == len(rows)
    assert record.header.seconds == int(rows[-1].at) + 1
    (mix,) = record.mixes
    assert mix.service[-1][1] == pytest.approx(0.3 + max(row.answer for row in rows) / 60)
    assert mix.hits == 0.5
    write(record, tmp_path / "a.record")
    assert read(tmp_path / "a.record") == record


def test_a_csv_of_seconds(tmp_path: Path) -> None:
    record = csv(tmp_path / "a.csv", "second,tokens", "10.5,20", "13.5,20", "10.7,20")
    assert record.arrivals[0].requests == [2.0, 0.0, 0.0, 1.0]
    assert record.header.began == 10.5
    assert {seconds for _, seconds in record.mixes[0].service} == {3.0}


def test_a_csv_without_lengths_takes_those_that_are_given(tmp_path: Path) -> None:
    record = csv(tmp_path / "a.csv", "time", "2026-01-01T00:00:00Z", "2026-01-01 00:00:01")
    assert record.mixes == [MIX]
    assert record.header.began == 1767225600


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (["second"], "no rows"),
        (["when", "1"], "line 2: there is no column"),
        (["second", "1", "later"], "line 3: 'later'"),
        (["second,tokens", "1,many"], "line 2: 'many'"),
        (["second", "1", "1e9"], "s apart"),
        (["second", "nan"], "line 2"),
        (["second", "1", "", "soon"], "a.csv: line 4: 'soon'"),
        (["second,tokens", "1,-5"], "line 2: '-5' tokens"),
        (["second,tokens", "1,1e9"], "a call of 100000001 s"),
        (["second,tokens", "1,1e200"], "a call of 1e+199 s"),
        (["second", "1795000000", "1795000000000"], "line 3: '1795000000000' is before 1970 or too far"),
        (["timestamp", "1795000000000"], "a.csv: line 2: '1795000000000' is before 1970 or too far"),
        (["second", "1", "-5"], "a.csv: line 3: '-5' is before 1970"),
        (["second", "1e308", "-1e308"], "a.csv: line 2: '1e308'"),
        (["TIMESTAMP", "0001-01-01T00:00:00+05:00"], "a.csv: line 2: '0001-01-01T00:00:00+05:00' is before"),
        (["TIMESTAMP", "2026-13-01 00:00:00"], "line 2"),
        (["second", "1", '"' + "x" * 200_000], "it is no CSV near line"),
    ],
)
def test_what_is_wrong_with_a_csv_is_named(tmp_path: Path, rows: list[str], named: str) -> None:
    with pytest.raises(BadRecord) as raised:
        csv(tmp_path / "a.csv", *rows)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    "written",
    [
        b"\xef\xbb\xbfTIMESTAMP,GeneratedTokens\r\n2026-01-01 00:00:03,20\r\n\r\n2026-01-01 00:00:01,20\r\n",
        b"TIMESTAMP;GeneratedTokens\n2026-01-01 00:00:03;20\n ; \n2026-01-01 00:00:01;20\n",
        b'"GeneratedTokens"\t"TIMESTAMP"\n20\t"2026-01-01T01:00:03+01:00"\n20\t2025-12-31T23:30:01.123456789-00:30\n',
        b"TIMESTAMP , GeneratedTokens\n2026-01-01 00:00:03.0000000,20\n2026-01-01 00:00:01.0000001+00:00,20\n",
    ],
    ids=["bom, crlf, empty lines", "semicolons", "tabs, quotes, time zones", "seven digits"],
)
def test_the_forms_in_which_tables_come(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(written)
    record = sources.of_csv(tmp_path / "a.csv", header, MIX, Speed(first_token=1.0, tokens_per_second=10.0))
    assert record.requests == 2.0
    assert sum(record.arrivals[0].requests[:2]) == 1.0
    assert int(record.header.began) == 1767225601
    assert {seconds for _, seconds in record.mixes[0].service} == {3.0}


def test_rows_are_counted_and_not_kept(tmp_path: Path) -> None:
    """A table of any length: memory follows from the time that it spans."""
    rows = size(20_000)
    with (tmp_path / "a.csv").open("w") as file:
        file.write("second,tokens\n")
        file.writelines(f"{row % 50}.5,{row % 700}\n" for row in range(rows))
    tracemalloc.start()
    try:
        record = sources.of_csv(tmp_path / "a.csv", header, MIX, Speed())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert record.requests == rows
    assert peak < 2**20


@pytest.mark.parametrize("before", [b"", b"second\n1\n"])
def test_a_line_without_end_is_not_read_to_it(tmp_path: Path, before: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(before + b"1" * 2 * 10**7)
    tracemalloc.start()
    try:
        with pytest.raises(BadRecord, match=r"line [13]: it has more than 1048576 characters"):
            sources.of_csv(tmp_path / "a.csv", header, MIX, Speed())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"second\n\xff\n")
    for name in ("absent.csv", "bytes.csv"):
        with pytest.raises(BadRecord) as raised:
            sources.of_csv(tmp_path / name, header, MIX, Speed())
        assert name in str(raised.value)
        with pytest.raises(BadRecord):
            sources.of_run(tmp_path / name, header, MIX)


def test_a_run_of_callers() -> None:
    record = sources.of_run(ROOT / "docs/reports/cluster-quick.csv", header, MIX)
    assert [(each.at, each.count) for each in record.callers][:3] == [(0.0, 4), (20.5, 8), (44.1, 16)]
    assert record.seen[-1].wanted == 1


def loadtest(folder: Path) -> Path:
    folder.mkdir()
    run = scenes.summary()
    run["metrics"]["chat_duration"] = {
        "min": 1000.0,
        "med": 2000.0,
        "p(95)": 4000.0,
        "p(99)": 6000.0,
        "max": 9000.0,
    }
    (folder / "summary.json").write_text(json.dumps(run))
    (folder / "series.json").write_text(json.dumps({"window": 20.0, "lines": scenes.calm()}))
    return folder


def test_a_load_test(tmp_path: Path) -> None:
    record = sources.of_loadtest(loadtest(tmp_path / "report"), header, MIX)
    seconds = scenes.LENGTH
    assert record.header.seconds == seconds
    assert record.requests == pytest.approx(scenes.HEALTHY["arrivals"] * seconds, rel=0.02)
    assert record.mixes[0].hits == scenes.HEALTHY["hits"]
    assert record.seen[0].ready == scenes.HEALTHY["replicas"]
    # By Little's law: what is in flight, by the calls of a second.
    mean = scenes.HEALTHY["inflight"] / (scenes.HEALTHY["arrivals"] * (1 - scenes.HEALTHY["hits"]))
    service = record.mixes[0].service
    assert service[0][1] < mean < service[-1][1]
    assert service[1][1] == pytest.approx(2 * service[0][1])  # as callers measured
    write(record, tmp_path / "a.record")


def test_a_load_test_without_a_prometheus(tmp_path: Path) -> None:
    folder = loadtest(tmp_path / "report")
    (folder / "series.json").write_text(json.dumps({"window": 0.0, "lines": {}}))
    with pytest.raises(BadRecord) as raised:
        sources.of_loadtest(folder, header, MIX)
    assert "Prometheus" in str(raised.value)
    with pytest.raises(BadRecord):
        sources.of_loadtest(tmp_path / "absent", header, MIX)


@pytest.mark.parametrize("apart", [0.0, 1e-6])
def test_a_load_test_with_figures_at_one_moment(tmp_path: Path, apart: float) -> None:
    folder = loadtest(tmp_path / "report")
    arrivals = [[scenes.BEGAN + index * apart, 2.0] for index in range(3)]
    (folder / "series.json").write_text(json.dumps({"window": 20.0, "lines": {"arrivals": arrivals}}))
    record = sources.of_loadtest(folder, header, MIX)
    assert record.requests == 2 * scenes.LENGTH


def test_a_load_test_that_is_longer_than_a_record(tmp_path: Path) -> None:
    folder = loadtest(tmp_path / "report")
    (folder / "summary.json").write_text(scenes.line(began=0.0))
    with pytest.raises(BadRecord, match="a load test of"):
        sources.of_loadtest(folder, header, MIX)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_their_rate_at_the_peak(tmp_path: Path, shape: str) -> None:
    record = sources.of_shape(shape, header, MIX, rate=30.0, seconds=3600.0, seed=1)
    (arrivals,) = record.arrivals
    peak = max(sum(arrivals.requests[first : first + 60]) / 60 for first in range(0, 3600, 60))
    assert peak == pytest.approx(30.0, rel=0.12)
    assert record == sources.of_shape(shape, header, MIX, rate=30.0, seconds=3600.0, seed=1)
    write(record, tmp_path / "a.record")


def test_what_happens_in_a_shape() -> None:
    lost = sources.of_shape("cache-lost", header, MIX, rate=1.0, seconds=7200.0, seed=1)
    hits = [(mix.at, mix.hits) for mix in lost.mixes]
    assert hits[1] == (3600.0, 0.0)
    assert hits[-1] == (5400.0, MIX.hits)
    assert [share for _, share in hits[1:]] == sorted(share for _, share in hits[1:])
    slow = sources.of_shape("slow-provider", header, MIX, rate=1.0, seconds=900.0, seed=1)
    assert [(mix.at, mix.service[0][1]) for mix in slow.mixes] == [(0, 2.0), (300, 6.0), (600, 2.0)]
    many = sources.of_shape("ramp", header, MIX, rate=300.0, seconds=60.0, seed=1)
    assert many.requests == pytest.approx(9000, rel=0.1)


def test_a_distribution_of_few() -> None:
    assert {seconds for _, seconds in distribution({3.0: 1})} == {3.0}
