"""The document of a run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dub5.loadtest.report import allowed_first_token, compose
from dub5.loadtest.rules import Limits
from dub5.loadtest.runs import Run, Unreadable, read_run
from dub5.report.document import Code, Document, Plot, Section, Table
from dub5.report.page import html
from dub5.report.text import markdown
from tests.unit.loadtest.scenes import BEGAN, LENGTH, calm, line, planted, summary

LIMITS = Limits(memory=512 * 2.0**20)


def run(**changes: object) -> Run:
    return msgspec.convert(summary(**changes), Run)


def section(document: Document, title: str) -> Section:
    return next(each for each in document.sections if each.title.startswith(title))


def rows(document: Document, title: str) -> dict[str, list[str]]:
    """Of the section's first table, by the first cell."""
    table = next(part for part in section(document, title).parts if isinstance(part, Table))
    return {row[0]: row[1:] for row in table.rows}


def test_the_verdict_comes_first() -> None:
    document = compose(run(), planted(gate=(210, 1.0)), limits=LIMITS)
    assert document.title == "Load test steady"
    assert document.verdict.startswith("passed. The gate was full from 210 s")
    assert document.verdict.endswith("UTC, 300 s)")
    assert rows(document, "Resources")["gate (first)"][:2] == ["100 %", "from 210 s"]
    assert rows(document, "Resources")["CPU"] == ["48 %", "never", "not measured"]
    assert rows(document, "Resources")["Redis"] == ["1.0 ms", "never", "none"]
    assert section(document, "What was asked").parts == [
        Code("RATE=4 TTFT_P95=2000 make loadtest SCENARIO=steady", "sh")
    ]


def test_gates_that_were_missed_stand_first() -> None:
    gates = [
        {"metric": "chat_ttft", "gate": "p(95)<2000", "ok": True},
        {"metric": "chat_whole{personality:tutor}", "gate": "rate>=0.99", "ok": False},
    ]
    document = compose(run(passed=False, thresholds=gates), {}, limits=LIMITS)
    assert document.verdict.startswith("FAILED, 1 of 2 gates missed. No figures of the service")
    table = section(document, "Gates").parts[0]
    assert isinstance(table, Table)
    assert table.rows[0] == ["MISSED", "chat_whole{personality:tutor}", "rate>=0.99"]


def test_the_gate_on_the_first_token_is_a_limit_for_the_provider() -> None:
    assert allowed_first_token(run()) == 2.0
    assert allowed_first_token(run(settings={})) is None
    slow = planted(provider=(0, 2.4))
    assert compose(run(), slow, limits=LIMITS).verdict.startswith(
        "passed. The provider was slow from the start"
    )
    assert "No resource was full" in compose(run(settings={}), slow, limits=LIMITS).verdict


def test_time_is_split_into_the_services_parts() -> None:
    split = rows(compose(run(), {}, limits=LIMITS), "Where the time went")
    assert split["provider"] == ["300.0 ms", "94 %"]
    assert split["queue"] == ["15.9 ms", "5 %"]
    assert split["everything else: network, both programs' own work"] == ["3.0 ms", "1 %"]


def test_outcomes_and_the_mix_are_told() -> None:
    document = compose(run(), {}, limits=LIMITS)
    callers = rows(document, "What callers saw")
    assert callers["how they ended"] == ["990 whole, 10 refused"]
    assert callers["from the cache"] == ["25.0%"]
    assert callers["mean time per token"] == ["none"]
    assert rows(document, "By personality")["tutor"] == ["490", "310 ms", "400 ms", "600 ms", "98 %"]


def test_all_requests_are_told_even_where_an_outcome_was_not_kept() -> None:
    metrics = {"chat_requests": {"count": 1000}, "chat_whole": {"rate": 0.9, "passes": 900, "fails": 100}}
    callers = rows(compose(run(metrics=metrics), {}, limits=LIMITS), "What callers saw")
    assert callers["how they ended"] == ["900 whole, 100 of which nothing is known"]
    metrics |= {
        "chat_requests{outcome:whole}": {"count": 900},
        "chat_requests{outcome:failed}": {"count": 60},
        "chat_requests{outcome:refused}": {"count": 40},
    }
    callers = rows(compose(run(metrics=metrics), {}, limits=LIMITS), "What callers saw")
    assert callers["how they ended"] == ["900 whole, 40 refused, 60 failed"]


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        ("phase", ["before", "spike", "settling", "after"]),
        ("third", ["1", "2", "3"]),
        ("complexity", ["short", "long", "turns", "tool", "code", "other"]),
        ("personality", ["assistant", "coder", "tutor"]),
    ],
)
def test_rows_of_the_mix_stand_in_their_natural_order(tag: str, names: list[str]) -> None:
    metrics = {f"chat_ttft{{{tag}:{name}}}": {"count": 3, "med": 5.0} for name in reversed(names[1:])}
    metrics |= {f"chat_whole{{{tag}:{name}}}": {"rate": 0.5} for name in names}
    reported = rows(compose(run(metrics=metrics), {}, limits=LIMITS), f"By {tag}")
    assert list(reported) == names
    assert reported[names[0]] == ["0", "", "", "", "50 %"]  # none was answered
    assert reported[names[1]] == ["3", "5 ms", "", "", "50 %"]


def test_a_run_without_an_answer() -> None:
    document = compose(run(metrics={}), {}, limits=LIMITS)
    assert section(document, "Where the time went").parts == ["No answer arrived."]


def test_findings_of_a_scenario() -> None:
    steps = [{"rate": 2, "whole": 1.0, "why": ""}, {"rate": 20, "whole": 0.5, "why": "half did not"}]
    found = {"holds": 2, "breaks": {"rate": 20, "why": "half did not"}, "steps": steps}
    document = compose(run(findings=found), {}, limits=LIMITS)
    assert rows(document, "What the scenario found") == {
        "holds": ["2"],
        "breaks: rate": ["20"],
        "breaks: why": ["half did not"],
    }
    assert "| 20 | 0.5 | half did not |" in markdown(document)


def test_a_comparison_says_what_is_better_and_what_is_worse() -> None:
    earlier = run()
    metrics = {name: dict(values) for name, values in earlier.metrics.items()}
    metrics["chat_ttft"]["p(95)"] *= 2
    metrics["chat_server_queue"]["avg"] /= 2
    metrics["chat_whole"]["rate"] = 0.98
    compared = rows(compose(run(metrics=metrics), {}, limits=LIMITS, earlier=earlier), "Compared")
    assert compared["time to first token, p95, ms"] == ["400", "800", "+100%", "WORSE"]
    assert compared["queue, mean, ms"] == ["15.9", "7.95", "-50%", "better"]
    assert compared["share that was whole"] == ["0.99", "0.98", "-1%", ""]
    assert compared["time to first token, median, ms"] == ["310", "310", "+0%", ""]
    other = compose(
        run(), {}, limits=LIMITS, earlier=run(scenario="spike", metrics={"chat_hit": {"rate": 0.0}})
    )
    assert section(other, "Compared").parts[0] == "Not the same scenario: the earlier one is spike."
    assert rows(other, "Compared")["share from the cache"] == ["0", "0.25", "", ""]


def test_plots_that_say_what_was_full_first_stand_beside_the_verdict() -> None:
    document = compose(run(), planted(cpu=(210, 1.0)), limits=LIMITS)
    assert [plot.title for plot in document.plots] == [
        "requests",
        "time to first byte, mean",
        "calls",
        "full first: CPU, busiest replica",
    ]
    assert [fact.value for fact in document.facts] == ["1,000", "99.00%", "400 ms", "CPU"]
    later = [part for part in section(document, "Over time").parts if isinstance(part, Plot)]
    drawn = [curve.name for plot in (*document.plots, *later) for curve in plot.curves]
    assert len(drawn) == len(set(drawn)) == len(calm()) - 1  # each line once; the limit of memory is none
    assert compose(run(), calm(), limits=LIMITS).plots[-1].title == "replicas"
    assert compose(run(), {}, limits=LIMITS).plots == []


def test_a_page_takes_no_orders_from_a_run() -> None:
    sly = run(scenario="<script>alert(1)</script>", findings={"note": "<img src=x>"})
    page = html(compose(sly, calm(), limits=LIMITS, earlier=run()))
    assert "<script" not in page
    assert "<img" not in page


def test_markdown_says_the_same_in_words() -> None:
    text = markdown(compose(run(), calm(), limits=LIMITS))
    assert text.startswith("# Load test steady\n\n**passed.** No resource was full")
    assert "| memory, largest replica, bytes | 150 MiB | 150 MiB | 150 MiB | 150 MiB |" in text
    table = text.partition("## Over time")[2].partition("##")[0]
    assert len({line.count(" | ") for line in table.splitlines() if line.startswith("|")}) == 1


def test_a_summary_is_found_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text(f'time="now" level=warning msg="slow"\n{line(scenario="smoke")}\n{line()}\nbye\n')
    found = read_run(log)
    assert (found.scenario, found.began, found.ended) == ("steady", BEGAN, BEGAN + LENGTH)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no summary of deploy/k6"),
        ('{"other": 1}', "holds no summary"),
        ('{"dub5_loadtest":1}', "the summary is damaged"),
        ('{"dub5_loadtest":1,"scen', "the summary is damaged"),
        ('{\n "dub5_loadtest": 1,\n "scenario": "steady"\n}', "the summary is damaged"),
        ('{"dub5_loadtest":1,"other":' + "[" * 100_000, "the summary is damaged"),
        (line(began=1e300), "the summary is damaged: .*began"),
    ],
)
def test_what_is_no_summary_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "run.log").write_text(text)
    with pytest.raises(Unreadable, match=said):
        read_run(tmp_path / "run.log")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read_run(tmp_path / "nothing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(Unreadable, match="it is no text"):
        read_run(tmp_path / "binary")
