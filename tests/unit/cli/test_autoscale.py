"""`dub5 autoscale`: what it prints, and what it says of what it cannot read."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dub5.advisor.record import read, write
from dub5.cli import autoscale_page
from dub5.cli.autoscale import MISSED
from dub5.cli.command import keep_apart
from dub5.cli.main import _parser, main
from testkit.places import ROOT

SHORT = ("--shape", "step", "--rate", "6", "--length", "5m", "--service", "4s")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "load.record"
    assert main(["autoscale", "record", *SHORT, "--out", str(path)]) == 0
    return path


def simulated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["autoscale", "simulate", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Of a command that fails: it prints nothing else."""
    capsys.readouterr()
    assert main(["autoscale", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_a_record_says_what_it_was_told(record: Path, tmp_path: Path) -> None:
    options = "--hits 0.25 --followers 0.1 --service 0.5=2s,1=9s --starts 3s,20s --replicas 4 --scrape 30s --keep 0s"
    path = tmp_path / "other.record"
    assert main(["autoscale", "record", *SHORT, *options.split(), "--out", str(path)]) == 0
    made = read(path)
    (mix,) = made.mixes
    assert (mix.hits, mix.followers, mix.service) == (0.25, 0.1, [(0.5, 2.0), (1.0, 9.0)])
    cluster, connections, pace = made.header.cluster, made.header.connections, made.header.pace
    assert (cluster.starts, cluster.replicas, connections.keep, pace.scrape) == ((3.0, 20.0), 4, 0.0, 30.0)
    assert made.arrivals == read(record).arrivals


def test_the_table_has_a_row_for_each_minute(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["autoscale", "simulate", str(record), "--set", "config.admission.max_inflight=10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    minutes = [line.split()[0] for line in lines if line[:6].strip().isdigit()]
    assert minutes == ["0", "1", "2", "3", "4"]
    assert any(line.startswith("replica-hours") for line in lines)


def test_files_and_single_values_are_laid_over_each_other(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.yaml"
    small.write_text(
        "autoscaling: {minReplicas: 3, maxReplicas: 5}\nconfig: {admission: {max_inflight: 10}}\n"
    )
    found = simulated(capsys, str(record), "--values", str(small), "--set", "autoscaling.targetPercentage=50")
    assert (found["capacity"], found["target"]) == (10, 5)
    assert found["minutes"][0]["ready"]["least"] == 3
    assert found["most_replicas"] == 5


def test_values_come_from_standard_input(record: Path) -> None:
    """As `helm get values RELEASE --all --output yaml` writes them."""
    values = "autoscaling: {targetPercentage: 50}\nconfig: {admission: {max_inflight: 10}}\n"
    command = [sys.executable, "-m", "dub5", "autoscale", "simulate", str(record), "--values", "-", "--json"]
    done = subprocess.run(command, input=values, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["target"] == 5


def test_the_seed_decides(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = (str(record), "--set", "config.admission.max_inflight=10")
    assert simulated(capsys, *few) == simulated(capsys, *few, "--seed", "1")
    assert simulated(capsys, *few) != simulated(capsys, *few, "--seed", "2")


def test_a_recorded_run_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "run.record")
    run = str(ROOT / "docs/reports/cluster-quick.csv")
    assert main(["autoscale", "record", "--scaling", run, "--service", "5.3s", "--out", path]) == 0
    assert simulated(capsys, path)["seen"]["wanted_within_one"] >= 0
    assert main(["autoscale", "simulate", path]) == 0
    assert capsys.readouterr().out.count("replica-seconds") == 2


def test_values_that_were_in_force_count_where_no_others_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, small, other = (tmp_path / name for name in ("load.record", "small.yaml", "other.yaml"))
    small.write_text("autoscaling: {minReplicas: 3}\nconfig: {admission: {max_inflight: 10}}\n")
    other.write_text("autoscaling: {minReplicas: 4}\n")
    options = ("--synced", "7s", "--stay-when-full", "--values", str(small))
    assert main(["autoscale", "record", *SHORT, *options, "--out", str(path)]) == 0
    header = read(path).header
    assert (header.pace.synced, header.connections.leave_full) == (7.0, False)
    assert simulated(capsys, str(path))["target"] == 7
    found = simulated(capsys, str(path), "--values", str(other))
    assert (found["target"], found["minutes"][0]["ready"]["least"]) == (140, 4)


def test_decisions_are_explained(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = (str(record), "--set", "config.admission.max_inflight=10")
    capsys.readouterr()
    assert main(["autoscale", "explain", *few]) == 0
    changes = capsys.readouterr().out
    assert "That asks for" in changes
    assert main(["autoscale", "explain", *few, "--at", "1m", "--turns", "2"]) == 0
    turns = [line for line in capsys.readouterr().out.splitlines() if not line.startswith((" ", "note: "))]
    assert len(turns) == 2
    assert all(line.startswith("0:00:") for line in turns)
    assert main(["autoscale", "explain", *few, "--set", "autoscaling.mode=none"]) == 0
    assert capsys.readouterr().out == "Nothing decides: autoscaling.mode is none, and replicas are 2.\n"
    assert main(["autoscale", "explain", *few, "--at", "0s"]) == 0
    assert "nothing up to then. It first looked at 0:00:" in capsys.readouterr().out
    assert main(["autoscale", "explain", *few, "--set", "autoscaling.maxReplicas=2"]) == 0
    assert capsys.readouterr().out == "The autoscaler decided nothing that changed the number.\n"
    assert "--at: the record ends after 300 s" in complaint(capsys, "explain", *few, "--at", "6m")


def test_what_is_assumed_and_left_out_is_said(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [note.partition(" ")[0] for note in simulated(capsys, str(record))["notes"]] == ["Pods"]
    models = "config.models={a: {routes: [demo/simulated]}, b: {routes: [demo/simulated]}}"
    more = ("--set", "autoscaling.cpu.enabled=true", "--set", models)
    assert [note.partition(",")[0] for note in simulated(capsys, str(record), *more)["notes"][1:]] == [
        "autoscaling.cpu is left out",
        "Of several models one is simulated",
    ]
    assert main(["autoscale", "explain", str(record), *more, "--at", "3m"]) == 0
    assert "note: autoscaling.cpu is left out" in capsys.readouterr().out
    assert simulated(capsys, str(record), "--set", "autoscaling.mode=none")["notes"] == []


def test_what_was_seen_stands_beside_a_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "run.record")
    run = str(ROOT / "docs/reports/cluster-quick.csv")
    assert main(["autoscale", "record", "--scaling", run, "--service", "5.3s", "--out", path]) == 0
    capsys.readouterr()
    assert main(["autoscale", "explain", path, "--at", "2m", "--turns", "1"]) == 0
    seen = next(line for line in capsys.readouterr().out.splitlines() if "In the record at 0:0" in line)
    assert re.search(r"[0-9] wanted, [0-9] ready, a demand of [0-9.]+ in all", seen)


def test_what_is_found_is_written_as_a_report_too(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [str(record), "--set", "config.admission.max_inflight=10", "--set", "autoscaling.maxReplicas=2"]
    page, text = tmp_path / "report.html", tmp_path / "report.md"
    files = ["--html", str(page), "--markdown", str(text)]
    assert main(["autoscale", "simulate", *few, *files, "--wait", "60s"]) == 0
    assert "These values meet the objective." in page.read_text()
    again = "dub5 autoscale simulate load.record --set config.admission.max_inflight=10"
    assert again in text.read_text()
    assert "--wait 1m --html report.html" in text.read_text()
    assert main(["autoscale", "simulate", *few, *files, "--refused", "0"]) == MISSED
    assert "miss the objective" in page.read_text()
    assert main(["autoscale", "explain", *few, *files, "--at", "2m"]) == 0
    assert "| 0:0" in text.read_text()
    worst = ["--seeds", "1", "--jobs", "1", "--wait", "0s", "--refused", "0"]
    assert main(["autoscale", "recommend", *few, *files, *worst]) == MISSED
    assert page.read_text().index("miss the objective") < page.read_text().index("<svg")
    capsys.readouterr()
    assert "no folder" in complaint(capsys, "simulate", *few, "--html", str(tmp_path / "no/report.html"))
    assert "cannot be written" in complaint(capsys, "simulate", *few, "--markdown", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["autoscaling.minReplicas=3", "config.drain.linger=3s"], 2),
        (["config.redis.url=redis://:secret@host", "autoscaling.keda.serverAddress=http://host"], 0),
    ],
)
def test_a_report_says_of_the_command_only_what_decides(given: list[str], said: int) -> None:
    args = argparse.Namespace(record=Path("/home/me/load.record"), values=[], set=given, seed=1, wait=0.5)
    command = autoscale_page.command_of(args, "simulate")
    assert command.count("--set") == said
    assert command.startswith("dub5 autoscale simulate load.record ")
    assert "--seed 1 --wait 500ms" in command


OF_THE_RECORD = {
    *(
        "prometheus",
        "selector",
        "header",
        "token_file",
        "last",
        "until",
        "scrape",
        "sync",
        "synced",
        "starts",
    ),
    *("keep", "replicas", "stay_when_full", "write_record"),
}
WHERE_IT_GOES = {
    "run",
    "command",
    "html",
    "markdown",
    "json",
    "jobs",
    "exit_zero",
    "configmap",
    "namespace",
    "hpa",
    "api",
    "of",
}


@pytest.mark.parametrize("name", ["simulate", "recommend", "explain"])
def test_whatever_else_decides_what_is_found_is_said_in_a_report(name: str) -> None:
    words = ["autoscale", name, "load.record"]
    options = vars(_parser(words).parse_args(words)).keys() - OF_THE_RECORD - WHERE_IT_GOES
    assert options <= {"record", "values", "set", *autoscale_page._NUMBERS, *autoscale_page._TIMES}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_values_are_recommended_and_the_exit_code_judges_the_present_ones(
    record: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    few = [str(record), "--set", "config.admission.max_inflight=10", "--set", "autoscaling.maxReplicas=2"]
    options = ["--seeds", "1", "--jobs", jobs, "--json"]
    capsys.readouterr()
    assert main(["autoscale", "recommend", *few, *options, "--refused", "1", "--wait", "60s"]) == 0
    easy = json.loads(capsys.readouterr().out)
    assert easy["recommended"]["held out"]["meets"] is True
    assert main(["autoscale", "recommend", *few, *options, "--wait", "0s", "--refused", "0"]) == MISSED
    assert json.loads(capsys.readouterr().out)["present_meets"] is False


LONG = ("--shape", "daily", "--rate", "20", "--length", "4h", "--service", "20s")


def processes_of(group: int) -> set[int]:
    """Those of a process group that run."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, in_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(in_group) == group and state != "Z":
                found.add(int(stat.parent.name))
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def recommending(folder: Path, jobs: int) -> Iterator[subprocess.Popen[str]]:
    """For long, once it has read values from a pipe; it leads a process group, as a shell has it."""
    path, values = str(folder / "long.record"), str(folder / "values")
    assert main(["autoscale", "record", *LONG, "--out", path]) == 0
    os.mkfifo(values)
    command = ["autoscale", "recommend", path, "--values", values, "--jobs", str(jobs)]
    # Tests in the background have SIGINT ignored, and so has what they start, but for this.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "dub5", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "COVERAGE_PROCESS_CONFIG": ""},  # coverage has a handler of its own
    )
    signal.signal(signal.SIGINT, handler)
    try:
        Path(values).write_text("")  # waits for the reader
        if jobs > 1:
            wait_until(lambda: len(processes_of(process.pid)) > jobs)
        yield process
    finally:
        for each in processes_of(process.pid):
            os.kill(each, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_it_with_its_processes_and_without_a_word(tmp_path: Path, jobs: int) -> None:
    with recommending(tmp_path, jobs) as process:
        os.killpg(process.pid, signal.SIGINT)
        printed = process.communicate(timeout=60)
        assert (process.returncode, printed) == (130, ("", ""))
        wait_until(lambda: not processes_of(process.pid))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_process_is_left_where_the_first_one_is_ended(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with recommending(tmp_path, 2) as process:
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        wait_until(lambda: not processes_of(process.pid))
        if number == signal.SIGTERM:
            assert process.communicate() == ("", "")


def test_a_job_is_not_to_fail_where_values_miss_and_needs_a_namespace(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [str(record), "--set", "config.admission.max_inflight=1", "--set", "autoscaling.maxReplicas=2"]
    assert main(["autoscale", "recommend", *few, "--seeds", "1", "--jobs", "1", "--exit-zero"]) == 0
    assert "miss" in capsys.readouterr().out
    assert "--namespace" in complaint(capsys, "recommend", str(record), "--configmap", "dub5-advice")


def test_what_cannot_be_recommended(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "mode" in complaint(capsys, "recommend", str(record), "--set", "autoscaling.mode=none")
    assert "--held-out" in complaint(capsys, "recommend", str(record), "--held-out", "1")
    kept = str(record.with_name("again.record"))
    assert "--prometheus" in complaint(capsys, "recommend", str(record), "--write-record", kept)


def test_values_that_are_none(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("autoscaling: {maxReplica: 3}\n")
    assert "autoscaling.maxReplica" in complaint(capsys, "simulate", str(record), "--values", str(bad))
    assert "absent.yaml" in complaint(
        capsys, "simulate", str(record), "--values", str(tmp_path / "absent.yaml")
    )
    assert "NAME=VALUE" in complaint(capsys, "simulate", str(record), "--set", "autoscaling.mode")
    assert "replicas" in complaint(capsys, "simulate", str(record), "--set", "replicas=many")
    deep = complaint(capsys, "simulate", str(record), "--set", "a." * 3000 + "a=secret")
    assert re.fullmatch(r"dub5: --set (a\.)+…: there are no values of more than 100 levels\n", deep)


@pytest.mark.parametrize("command", ["simulate", "explain"])
def test_words_of_a_strangers_record_are_lines_that_no_terminal_obeys(
    record: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    made, escapes = read(record), "\x1b[2J\x1b]0;owned\x07\nnote: another\u202e" + "x" * 800
    replace = msgspec.structs.replace
    write(replace(made, header=replace(made.header, source=escapes, notes=[escapes])), record)
    capsys.readouterr()
    assert main(["autoscale", command, str(record), "--set", "config.admission.max_inflight=10"]) == 0
    printed = capsys.readouterr().out
    assert "\ufffd[2J\ufffd]0;owned\ufffd note: another\ufffdxxx" in printed
    assert not set("\x1b\x07\u202e") & set(printed)
    assert max(map(len, printed.splitlines())) < 1000


def test_errors_in_a_strangers_record_are_lines_that_no_terminal_obeys(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, replace = read(record), msgspec.structs.replace
    write(replace(made, header=replace(made.header, values={"a\x1b[2J\n": 1})), record)
    assert "a\ufffd[2J" in complaint(capsys, "simulate", str(record))
    record.write_text('{"line": "record", "source": "x", "seconds": 1, "a\\u001b[2J": 1}\n')
    assert "a\ufffd[2J" in complaint(capsys, "simulate", str(record))


def test_nothing_is_written_over_what_is_read(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, arrivals, link = (tmp_path / name for name in ("values.yaml", "a.csv", "link"))
    values.write_text("replicas: 3\n")
    arrivals.write_text("second\n1\n2\n")
    link.symlink_to(record)
    before = {each: each.read_bytes() for each in (record, values, arrivals)}
    read = (str(record), "--values", str(values))
    again = str(tmp_path / "folder/../load.record")
    (tmp_path / "folder").mkdir()
    for command in ("simulate", "explain", "recommend"):
        for option in ("--html", "--markdown"):
            for file in (str(record), str(values), str(link), again):
                assert f"{option}: {file} is also read" in complaint(capsys, command, *read, option, file)
    twice = ("--html", str(tmp_path / "page"), "--markdown", str(tmp_path / "folder/../page"))
    assert "--markdown: " in complaint(capsys, "simulate", *read, *twice)
    made = ("record", "--csv", str(arrivals), "--values", str(values))
    for out in (arrivals, values):
        assert f"--out: {out} is also read" in complaint(capsys, *made, "--out", str(out))
    nowhere = ("recommend", "--prometheus", "http://127.0.0.1:1", "--values", str(values))
    assert "--write-record: " in complaint(capsys, *nowhere, "--write-record", str(values))
    assert before == {each: each.read_bytes() for each in before}
    assert not (tmp_path / "page").exists()
    nothing = Path(os.devnull)
    keep_apart({"--html": nothing, "--markdown": nothing}, [nothing])


def test_records_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.record"
    bad.write_text("{}\n")
    assert "bad.record" in complaint(capsys, "simulate", str(bad))
    assert "absent" in complaint(capsys, "simulate", str(tmp_path / "absent"))
    out = str(tmp_path / "out.record")
    assert "absent.csv" in complaint(capsys, "record", "--csv", str(tmp_path / "absent.csv"), "--out", out)
    assert "absent" in complaint(capsys, "record", "--loadtest", str(tmp_path / "absent"), "--out", out)
    assert "pace.scrape" in complaint(capsys, "record", *SHORT, "--scrape", "0s", "--out", out)
    nowhere = ("--prometheus", "http://127.0.0.1:1", "--last", "10m", "--until", "2026-11-27T09:30:00Z")
    assert "127.0.0.1:1" in complaint(capsys, "record", *nowhere, "--out", out)
    for odd in ("no colon", "X Scope: chat", "X-Scope: ch\nat"):
        assert "NAME:VALUE" in complaint(capsys, "record", *nowhere, "--header", odd, "--out", out)
    token = tmp_path / "token"
    token.write_text(" \n")
    assert "no token" in complaint(capsys, "record", *nowhere, "--token-file", str(token), "--out", out)
    absent = str(tmp_path / "absent")
    assert "--token-file" in complaint(capsys, "record", *nowhere, "--token-file", absent, "--out", out)
    assert "days" in complaint(capsys, "record", *SHORT[:-2], "--length", "90d", "--out", out)
    assert "cannot be written" in complaint(capsys, "record", *SHORT, "--out", str(tmp_path / "no/folder"))


@pytest.mark.parametrize(
    "options",
    [
        ("--service", "half=2s"),
        ("--service", "0.5"),
        ("--service", "0.5=2s,long"),
        ("--hits", "1.5"),
        ("--hits", "many"),
        ("--rate", "0"),
        ("--starts", "soon"),
        ("--replicas", "-1"),
        ("--shape", "square"),
        ("--until", "yesterday"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["autoscale", "record", "--shape", "step", "--out", "x", *options])
    assert raised.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize("bounds", ["1..5", "1..1", "0..5", "5..2", "2"])
def test_no_capacity_is_searched_that_the_chart_refuses(
    bounds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["autoscale", "recommend", "load.record", "--max-inflight", bounds])
    assert raised.value.code == 2
    assert "--max-inflight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option", "written", "said"),
    [
        ("recommend", "--jobs", "-1", "'-1' is no number of simulations: write 1 to 9999"),
        ("recommend", "--jobs", "0", "'0' is no number of simulations: write 1 to 9999"),
        ("recommend", "--seeds", "0", "'0' is no number of seeds: write 1 to 9999"),
        ("recommend", "--max-replicas", "0", "'0' is no number of replicas: write 1 to 9999"),
        ("recommend", "--replicas", "10000", "'10000' is no number of replicas: write 0 to 9999"),
        ("explain", "--turns", "0", "'0' is no number of turns: write 1 to 9999"),
    ],
)
def test_of_a_number_it_is_said_of_what_it_is_one(
    command: str, option: str, written: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["autoscale", command, "load.record", f"{option}={written}"])
    assert raised.value.code == 2
    assert f"{option}: {said}" in capsys.readouterr().err
