"""deploy/k6: each scenario in short, run by a real k6 against a real replica; what the client makes of bad answers.

Skipped without k6, which `make test` builds where there is Go.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from testkit.http_server import CLOSE, Call, FakeServer, Script, Wire, raw, refuse, stream, whole
from testkit.openai_server import DONE, chunk, frame, frames
from testkit.programs import which
from tests.harness import Running, running
from tests.log_lines import decoded

SCENARIOS = Path(__file__).parents[3] / "deploy/k6/scenarios"
K6 = which("k6")
pytestmark = pytest.mark.skipif(K6 is None, reason="needs k6")

PASSED, MISSED, BROKEN_SCRIPT = 0, 99, 107
"""Exit codes of k6."""

FAST = {
    "providers": {"demo": {"kind": "simulated", "first_token": "20ms", "tokens_per_second": 2000}},
    "models": {"demo": {"routes": ["demo/simulated"]}},
}
SHORT = {
    "RATE": "10",
    "PEAK": "30",
    "DURATION": "2s",
    "MAX_VUS": "400",  # nor one on callers: where answers take longer, more wait for them
    "STEPS": "2",
    "STEP": "1s",
    "CLIENTS": "6",
    "ROUNDS": "2",
    "PAUSE": "500ms",
    "REQUESTS": "20",
    "SPEED": "20",
    "QUESTIONS": "5",
    "TTFT_P95": "10000",  # the machine may be busy: no gate on time may fail here
    "DRIFT": "1000",
}
LONG_ENOUGH = {"soak": {"DURATION": "6s", "ANSWER": "1500ms"}}
"""Each caller has asked in the first third."""


async def k6(url: str, scenario: str, **settings: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the summary, and what it said of errors: JSON, as in the chart's Job."""
    assert K6 is not None
    process = await asyncio.create_subprocess_exec(
        *(K6, "run", "--quiet", "--no-usage-report", "--log-format=json", "--address="),
        str(SCENARIOS / f"{scenario}.js"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DUB5_URL": url, **SHORT, **settings},
    )
    said, errors = await process.communicate()
    assert process.returncode is not None
    decoded(said.splitlines())
    decoded(errors.splitlines())
    return process.returncode, json.loads(said or b"{}"), errors.decode()


def missed(found: dict[str, Any]) -> set[str]:
    return {each["metric"] for each in found["thresholds"] if not each["ok"]}


def by(found: dict[str, Any], metric: str, tag: str) -> dict[str, dict[str, float]]:
    start = f"{metric}{{{tag}:"
    return {
        name.removeprefix(start).removesuffix("}"): values
        for name, values in found["metrics"].items()
        if name.startswith(start)
    }


def outcomes(found: dict[str, Any]) -> dict[str, float]:
    return {name: values["count"] for name, values in by(found, "chat_requests", "outcome").items()}


class Service(FakeServer):
    """Lists the model `one` and answers every question with `answer`."""

    def __init__(self, answer: Script) -> None:
        super().__init__()
        self.answer = answer

    async def default(self, call: Call, wire: Wire) -> None:
        listed = whole({"data": [{"id": "one"}]})
        await (listed if call.method == "GET" else self.answer)(call, wire)


HALF = frame(chunk({"content": "half an answ"}))
ERROR = {"message": "The provider broke off.", "type": "server_error", "code": "provider_error"}
GOOD = stream([*frames("Hel", "lo"), DONE])
SHAPED = {"error": {"message": "Full.", "type": "server_error", "code": "overloaded", "param": None}}


async def slow(call: Call, wire: Wire) -> None:
    await asyncio.sleep(1)
    await GOOD(call, wire)


@pytest.fixture
async def replica() -> AsyncIterator[Running]:
    async with running(FAST) as server:
        yield server


@pytest.mark.parametrize("scenario", sorted(path.stem for path in SCENARIOS.glob("*.js")))
async def test_every_scenario_runs_and_passes(replica: Running, scenario: str) -> None:
    code, found, errors = await k6(replica.url, scenario, **LONG_ENOUGH.get(scenario, {}))
    assert (code, missed(found), errors) == (PASSED, set(), "")
    assert (found["scenario"], found["passed"]) == (scenario, True)
    assert missed(found) == set()
    assert {each["metric"]: each["gate"] for each in found["thresholds"]}["chat_requests"] in {
        "count>0",
        "count==15",
    }
    requests = found["metrics"]["chat_requests"]["count"]
    assert await replica.metric("dub5_http_requests_total", route="/v1/chat/completions") == requests
    assert found["metrics"]["chat_ttft"]["count"] == requests > 0
    assert found["metrics"]["chat_tokens"]["count"] > 0
    assert outcomes(found) == {"whole": requests}
    assert sum(each["passes"] for each in by(found, "chat_whole", "personality").values()) == requests


@pytest.mark.parametrize("scenario", ["scale", "spike"])
async def test_a_run_without_a_request_fails(replica: Running, scenario: str) -> None:
    code, found, _ = await k6(replica.url, scenario, RATE="0.02", PEAK="0.02", DURATION="1s")
    assert (code, found["passed"], found["metrics"]["chat_requests"]["count"]) == (MISSED, False, 0)
    assert missed(found) == {"chat_requests"}


async def test_a_run_without_callers_is_not_the_load_that_was_asked_for() -> None:
    lone = {"PERSONALITIES": "one", "COMPLEXITIES": "short", "MAX_VUS": "2", "HITS": "0"}
    async with Service(slow) as service:
        runs = [k6(service.url, each, **lone) for each in ("steady", "cache", "spike", "scale", "faults")]
        for code, found, _ in await asyncio.gather(*runs):
            assert code == MISSED
            assert missed(found) == {"dropped_iterations"}, found["scenario"]


async def test_a_few_requests_may_lack_a_caller_in_a_spike(replica: Running) -> None:
    _, found, _ = await k6(replica.url, "spike", RATE="10", PEAK="100", DURATION="3s", MAX_VUS="40")
    gates = {each["metric"]: each["gate"] for each in found["thresholds"]}
    assert gates["dropped_iterations"] == "count<=1"  # 2 % of 10 + 77.5


async def test_gates_are_told_apart_by_personality_and_complexity(replica: Running) -> None:
    code, found, _ = await k6(replica.url, "steady", TTFT_P95="1")
    assert code == MISSED
    assert not found["passed"]
    assert {
        "chat_ttft",
        "chat_ttft{personality:assistant}",
        "chat_ttft{personality:tutor}",
        "chat_ttft{complexity:short}",
        "chat_ttft{complexity:tool}",
    } <= missed(found)
    assert found["metrics"]["chat_server_provider"]["min"] >= 20
    assert found["metrics"]["chat_ttft"]["min"] >= 20  # the head waits for the first token


async def test_a_cache_that_hits_too_little_fails(replica: Running) -> None:
    code, found, _ = await k6(replica.url, "cache", HITS="0.99")
    assert code == MISSED
    assert missed(found) == {"chat_hit"}
    findings = found["findings"]
    assert 0.3 < findings["hit_ratio"] <= findings["best_possible"] < 0.99
    assert findings["saved_tokens"] > 0
    assert findings["saved_dollars"] > 0


async def test_a_stampede_costs_one_call_for_each_question(replica: Running) -> None:
    _, found, _ = await k6(replica.url, "stampede", CLIENTS="8", ROUNDS="2")
    assert found["findings"] == {"requests": 16, "provider_calls": 2}
    assert await replica.metric("dub5_provider_requests_total") == 2
    # Of the sixteen answers fourteen were another's: as many tokens as those of the cache would have saved.
    metrics = found["metrics"]
    assert metrics["chat_saved_tokens"]["count"] == metrics["chat_tokens"]["count"] * 14 / 16
    assert metrics["chat_saved_dollars"]["count"] > 0


async def test_a_soak_that_gets_slower_fails() -> None:
    began = asyncio.get_running_loop().time()

    async def tiring(call: Call, wire: Wire) -> None:
        await asyncio.sleep(0.05 if asyncio.get_running_loop().time() < began + 3 else 0.5)
        await GOOD(call, wire)

    async with Service(tiring) as service:
        lone = {"PERSONALITIES": "one", "COMPLEXITIES": "short", "DRIFT": "3", **LONG_ENOUGH["soak"]}
        code, found, _ = await k6(service.url, "soak", **lone)
    assert code == MISSED
    assert [each for each in found["thresholds"] if not each["ok"]] == [
        {"metric": "chat_drift", "gate": "med<=3", "ok": False}
    ]
    assert found["findings"]["drift"] > 3


async def test_a_soak_that_is_too_short_to_compare_fails(replica: Running) -> None:
    code, found, _ = await k6(replica.url, "soak", RATE="2", ANSWER="20s")
    assert code == MISSED
    assert [each for each in found["thresholds"] if not each["ok"]] == [
        {"metric": "chat_drift", "gate": "min>0", "ok": False}
    ]


async def test_faults_in_which_nobody_is_answered_fail() -> None:
    """However politely they are refused."""
    async with Service(whole(SHAPED, status=503, headers={"retry-after": "3"})) as service:
        code, found, _ = await k6(service.url, "faults", PERSONALITIES="one", COMPLEXITIES="short")
        assert code == MISSED
        assert missed(found) == {"chat_whole"}
        code, found, _ = await k6(service.url, "faults", PERSONALITIES="one", COMPLEXITIES="short", WHOLE="0")
    assert code == PASSED  # it was asked for, and is shown
    assert {"metric": "chat_whole", "gate": "rate>=0", "ok": True} in found["thresholds"]


async def test_a_ramp_names_the_step_that_breaks() -> None:
    narrow = {
        "providers": {"demo": {"kind": "simulated", "first_token": "200ms", "tokens_per_second": 2000}},
        "models": {"demo": {"routes": ["demo/simulated"]}},
        "admission": {"max_inflight": 2, "max_queued": 0},
    }
    async with running(narrow) as server:
        code, found, _ = await k6(server.url, "ramp-to-break", RATE="3", PEAK="60", COMPLEXITIES="tool")
    assert code == PASSED  # to find the breaking point is its work
    assert found["findings"]["holds"] == 3
    assert found["findings"]["breaks"]["rate"] == 60
    assert "did not reach their end" in found["findings"]["breaks"]["why"]
    ended = outcomes(found)
    assert ended["refused"] > 0
    assert sum(ended.values()) == found["metrics"]["chat_requests"]["count"]


async def test_the_result_is_kept_in_a_file_too(replica: Running, tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    _, found, _ = await k6(replica.url, "smoke", SUMMARY_FILE=str(file))
    kept = await asyncio.to_thread(file.read_text)
    assert json.loads(kept) == found
    assert kept.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PERSONALITIES": "pirate"}, "PERSONALITIES: pirate is not served"),
        ({"COMPLEXITIES": "hard"}, "COMPLEXITIES: there is no hard"),
        ({"DURATION": "soon"}, "DURATION: `soon` is not a duration"),
        ({"RATE": "fast"}, "RATE: `fast` is not a number"),
        ({"MAX_VUS": "1.5"}, "MAX_VUS: 1.5 is not a whole number"),
        ({"DUB5_URL": "http://127.0.0.1:1"}, "http://127.0.0.1:1/v1/models answered"),
    ],
)
async def test_what_cannot_run_says_why(replica: Running, settings: dict[str, str], said: str) -> None:
    code, found, errors = await k6(settings.get("DUB5_URL", replica.url), "steady", **settings)
    assert code == BROKEN_SCRIPT
    assert said in errors
    assert not found.get("passed")


@pytest.mark.parametrize(
    ("answer", "outcome", "honest"),
    [
        (GOOD, "whole", True),
        (stream([HALF]), "cut", False),
        (stream([HALF, CLOSE]), "cut", False),
        (stream([HALF, frame({"error": ERROR})]), "broken", True),
        (whole(SHAPED, status=503, headers={"retry-after": "3"}), "refused", True),
        (whole(SHAPED, status=503), "refused", False),
        (whole(SHAPED, status=429, headers={"retry-after": "3"}), "refused", True),
        (whole(SHAPED, status=502), "failed", True),
        (whole({"oops": 1}, status=500), "failed", False),
        (refuse(404, "No such model."), "rejected", True),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\nHi!\n"), "cut", False),
        (raw(b"SSH-2.0-nonsense\r\n\r\n"), "lost", False),
    ],
)
async def test_what_became_of_a_request_is_told_rightly(answer: Script, outcome: str, honest: bool) -> None:
    async with Service(answer) as service:
        code, found, _ = await k6(service.url, "smoke", PERSONALITIES="one", COMPLEXITIES="short")
    assert code == (PASSED if outcome == "whole" else MISSED)
    assert outcomes(found) == {outcome: 1}
    assert found["metrics"]["chat_honest"]["rate"] == honest


async def test_a_key_is_shown() -> None:
    async with Service(GOOD) as service:
        await k6(service.url, "smoke", PERSONALITIES="one", COMPLEXITIES="short", DUB5_KEY="dub5-secret")
        assert {call.headers["authorization"] for call in service.calls} == {"Bearer dub5-secret"}


def test_nothing_is_fetched_at_run_time() -> None:
    for path in SCENARIOS.parent.rglob("*.js"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if " from '" in line:
                source = line.partition(" from '")[2].rstrip("';")
                assert source.startswith(("k6", "./", "../lib/")), f"{path.name}: {line}"
