"""What is recommended, written out: floors by hour, for either mode."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from dub5.advisor import advice as words
from dub5.advisor import schedule
from dub5.advisor.schedule import cron_jobs, spans, triggers
from dub5.advisor.search import (
    HELD,
    TUNED,
    Advice,
    Bounds,
    Choice,
    Judged,
    Objective,
    Verdict,
    present,
    space_of,
)
from dub5.advisor.values import Values, of_values
from tests.unit.advisor.test_schedule import WORKDAYS, days


def advice_with(choice: Choice, values: Values) -> Advice:
    def verdicts(of: Choice) -> dict[str, Verdict]:
        return {part: Verdict(of, [Judged(1.0, 0.0, 0.0, 0.0, 5)]) for part in (TUNED, HELD)}

    now = verdicts(present(values))
    return Advice(Objective(), now, verdicts(choice), list(now.values()), now, TUNED, [], hpa="chat")


def test_floors_are_written_out_for_either_mode() -> None:
    hpa, keda = (of_values({"autoscaling": {"mode": mode}}) for mode in ("hpa", "keda"))
    by_hour: dict[str, Any] = {"floors": WORKDAYS, "minReplicas": 2}
    advice = advice_with(msgspec.structs.replace(present(hpa), **by_hour), hpa)
    objects = list(yaml.safe_load_all(words.schedule(advice, hpa)))
    assert objects == cron_jobs(schedule.changes(WORKDAYS, 2), "chat", words.KUBECTL)
    assert words.snippet(advice, hpa) == []
    assert "To be applied" in words.text(advice, hpa)
    assert words.schedule(advice, keda) == ""
    written = yaml.safe_load("\n".join(words.snippet(advice, keda)))
    assert written["autoscaling"]["keda"]["triggers"] == triggers(spans(WORKDAYS, 2))


def test_floors_are_searched_where_hours_come_back() -> None:
    values = of_values()
    assert space_of(days([1.0, 2.0] * 24), values, 0.33, Bounds()).peaks
    assert not space_of(days([1.0, 2.0] * 12), values, 0.33, Bounds()).peaks


def test_what_differs_and_what_is_cut_is_said() -> None:
    values = of_values()
    choice = msgspec.structs.replace(present(values), up=(300, 10, 15), down=(100, 60))
    advice = advice_with(choice, values)
    assert advice.best is not None
    best = {
        part: Verdict(choice, [Judged(0.5, 0.0, 0.0, 0.0, 5, cut=2), Judged(1.5, 0.0, 0.0, 0.0, 5)])
        for part in advice.best
    }
    said = words.text(msgspec.structs.replace(advice, best=best, notes=["A note."]), values)
    assert "2 streams reach server.max_stream" in said
    assert "1.00 (0.50 to 1.50)" in said
    assert "up 300 % or 10 in 15 s, down 100 % in 60 s" in said
    assert "A note." in said
