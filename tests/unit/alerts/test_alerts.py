"""Each alert fires where it should and stays quiet where it should, by Prometheus's own promtool; each has its runbook.

Series are written as promtool reads them: `0+60x100` begins with 0 and rises by 60 a hundred times.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from testkit.programs import which
from tests.documents.reference import metrics

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy/helm/dub5/alerts/dub5.yaml"
PROMTOOL = which("promtool")

GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
RECORDS: dict[str, str] = {
    rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule
}
HEADINGS = ["Symptom", "What it means to users", "Look here", "Do this", "Check that"]


class Case(NamedTuple):
    """Samples by series, `interval` apart, and when the alert is looked for."""

    fires: dict[str, str]
    quiet: dict[str, str]
    at: str = "2h"
    interval: str = "1m"


def pod(metric: str, labels: str = "") -> str:
    """The series of one replica."""
    return f'{metric}{{namespace="chat",pod="a",instance="a:9000"{"," if labels else ""}{labels}}}'


def chats(outcome: str, route: str = "chat/completions") -> str:
    return pod("dub5_http_requests_total", f'route="/v1/{route}",outcome="{outcome}"')


def failing(
    share: float, samples: int, outcome: str = "provider_error", route: str = "chat/completions"
) -> dict[str, str]:
    return {
        chats("ok", route): f"0+{1000 - 1000 * share:g}x{samples}",
        chats(outcome, route): f"0+{1000 * share:g}x{samples}",
    }


def late(share: float, samples: int) -> dict[str, str]:
    name, labels = "dub5_time_to_first_token_seconds", 'outcome="ok"'
    return {
        pod(f"{name}_bucket", f'{labels},le="10.0"'): f"0+{1000 - 1000 * share:g}x{samples}",
        pod(f"{name}_count", labels): f"0+1000x{samples}",
    }


def distribution(name: str, labels: str, *, below: str, above: str, share_above: float) -> dict[str, str]:
    """A histogram with two finite buckets."""
    join = "," if labels else ""
    return {
        pod(f"{name}_bucket", f'{labels}{join}le="{below}"'): f"0+{100 - 100 * share_above:g}x120",
        pod(f"{name}_bucket", f'{labels}{join}le="{above}"'): "0+100x120",
        pod(f"{name}_bucket", f'{labels}{join}le="+Inf"'): "0+100x120",
    }


def calls(outcome: str) -> str:
    return pod("dub5_provider_requests_total", f'provider="openai",model="small",outcome="{outcome}"')


def on(other: str, series: str) -> str:
    """The same series of another replica."""
    return series.replace('pod="a",instance="a:9000"', f'pod="{other}",instance="{other}:9000"')


def demand(figure: int, replicas: int, namespace: str = "chat") -> dict[str, str]:
    names = [f'{{namespace="{namespace}",pod="{number}"}}' for number in range(replicas)]
    capacity = {f"dub5_capacity_requests{name}": "200x120" for name in names}
    return capacity | {f"dub5_demand_requests{name}": f"{figure}x120" for name in names}


def lookups(result: str) -> str:
    return pod("dub5_cache_lookups_total", f'class="default",result="{result}"')


def compared(verdict: str) -> str:
    return pod("dub5_cache_revalidations_total", f'class="faq",source="refetch",verdict="{verdict}"')


def changing(share: float) -> dict[str, str]:
    """So much of what is compared has changed."""
    return {compared("same"): f"0+{10 - 10 * share:g}x600", compared("changed"): f"0+{10 * share:g}x600"}


def policy(*, stale: float, budget: float, bound_by: str = "Staleness") -> dict[str, str]:
    """What the operator tells of a policy for the class `faq`."""
    reasons = {reason: int(reason == bound_by) for reason in ("Staleness", "Data")}
    return {
        pod("dub5_operator_predicted_stale_ratio", 'policy="p"'): f"{stale}x600",
        pod("dub5_operator_stale_budget_ratio", 'policy="p",class="faq"'): f"{budget}x600",
        **{
            pod("dub5_operator_bound_by", f'policy="p",reason="{reason}"'): f"{value}x600"
            for reason, value in reasons.items()
        },
    }


def condition(name: str, status: str) -> str:
    """Of the policy `p`, as the operator tells it."""
    return pod("dub5_operator_condition", f'policy="p",condition="{name}",status="{status}"')


def waiting(reason: str, name: str = "dub5-7c9f8b6d5-x2x4z", container: str = "backend") -> str:
    """kube-state-metrics says why a container does not run; nothing while it does."""
    labels = f'namespace="chat",pod="{name}",container="{container}",reason="{reason}"'
    return f"kube_pod_container_status_waiting_reason{{{labels}}}"


def ready(name: str, container: str = "backend") -> str:
    return f'kube_pod_container_status_ready{{namespace="chat",pod="{name}",container="{container}"}}'


def wanted(name: str = "dub5") -> str:
    return f'kube_deployment_spec_replicas{{namespace="chat",deployment="{name}"}}'


def autoscaler(name: str) -> str:
    """That it has no figure."""
    labels = f'namespace="chat",horizontalpodautoscaler="{name}",condition="ScalingActive",status="false"'
    return f"kube_horizontalpodautoscaler_status_condition{{{labels}}}"


def progressing(status: str, name: str = "dub5") -> str:
    labels = f'namespace="chat",deployment="{name}",condition="Progressing",status="{status}"'
    return f"kube_deployment_status_condition{{{labels}}}"


FIRST_TOKEN = ("dub5_provider_time_to_first_token_seconds", 'provider="openai",outcome="ok"')
LAG = ("dub5_event_loop_lag_seconds", "")
CAPACITY = {pod("dub5_capacity_requests"): "200x120"}
BUILD = {pod("dub5_build_info", 'version="1"'): "1x120"}
CPU, MEMORY = pod("process_cpu_seconds_total"), pod("process_resident_memory_bytes")
ARRIVING, ARRIVING_LIMIT = pod("dub5_arriving_bytes"), {pod("dub5_arriving_limit_bytes"): "161061273x120"}
MEMORY_LIMIT = {pod("dub5_memory_limit_bytes"): "536870912x120"}
JOB = 'job="chat/dub5"'
DEMAND, STARTED = pod("dub5_demand_requests", JOB), pod("process_start_time_seconds")
UP, BUILT, CAPABLE = pod("up", JOB), pod("dub5_build_info", JOB), pod("dub5_capacity_requests", JOB)
BREAKER = pod("dub5_provider_breaker_state", 'provider="openai",model="small"')
FLIPPING = " ".join(["2", "1"] * 61)
PROBED = {calls("error"): "0+1x120"}
IDLE = {BREAKER: "2x60 1x60", calls("error"): "0+2x90 180x30"}
LOOKS = pod("dub5_operator_reconcile_seconds_count")
DUE, OTHER_DUE = (
    pod("dub5_operator_next_reconcile_timestamp_seconds", f'policy="{name}"') for name in ("p", "q")
)
EXPIRES = pod("dub5_cache_policy_expires_timestamp_seconds")
PUBLISHED = pod("dub5_cache_ttl_published", 'class="faq"')
FAILED_LOOKS = pod("dub5_operator_errors_total", 'policy="p"')
NAME = "dub5-7c9f8b6d5-x2x4z"
INACTIVE = autoscaler("dub5")
KEYS = pod("dub5_keys_last_reload_successful")
FAILING = pod("dub5_background_failing", 'task="policy-reader"')
FAILURES = pod("dub5_background_failures_total", 'task="policy-reader"')
CRASHING = "_x90 1 stale _x2 1x2 stale _ 1x4 stale _ 1x4 stale _ 1x4 stale _"
CONFIG_A, CONFIG_B = (pod("dub5_config_info", f'hash="{name}"') for name in "ab")

CASES: dict[str, Case] = {
    "Dub5AvailabilityFastBurn": Case(failing(0.08, 120), failing(0.06, 120)),
    "Dub5AvailabilitySlowBurn": Case(failing(0.04, 500), failing(0.02, 500), at="8h"),
    "Dub5AvailabilityCreepingBurn": Case(failing(0.008, 900), failing(0.004, 900), at="74h", interval="5m"),
    "Dub5FirstTokenFastBurn": Case(late(0.75, 120), late(0.7, 120)),
    "Dub5FirstTokenSlowBurn": Case(late(0.4, 500), late(0.2, 500), at="8h"),
    "Dub5FirstTokenCreepingBurn": Case(late(0.06, 900), late(0.04, 900), at="74h", interval="5m"),
    "Dub5ProviderErrors": Case(
        {calls("ok"): "0+80x120", calls("timeout"): "0+20x120"},
        {calls("ok"): "0+95x120", calls("timeout"): "0+5x120", calls("cancelled"): "0+50x120"},
    ),
    "Dub5ProviderSlow": Case(
        distribution(*FIRST_TOKEN, below="10.0", above="20.0", share_above=0.2),
        distribution(*FIRST_TOKEN, below="10.0", above="20.0", share_above=0.05),
    ),
    "Dub5BreakerOpen": Case({BREAKER: "2x120", **PROBED}, {BREAKER: "2x110 0x10", **PROBED}),
    "Dub5Cpu": Case({**CAPACITY, CPU: "0+57x120"}, {**CAPACITY, CPU: "0+40x120"}),
    "Dub5Memory": Case({**MEMORY_LIMIT, MEMORY: "480000000x120"}, {**MEMORY_LIMIT, MEMORY: "450000000x120"}),
    "Dub5ArrivingFull": Case(
        {**ARRIVING_LIMIT, ARRIVING: "120000000x120"}, {**ARRIVING_LIMIT, ARRIVING: "100000000x120"}
    ),
    "Dub5EventLoopLag": Case(
        distribution(*LAG, below="0.1", above="0.25", share_above=0.05),
        distribution(*LAG, below="0.1", above="0.25", share_above=0.005),
    ),
    "Dub5QueueLong": Case(
        {**CAPACITY, pod("dub5_queued_requests"): "150x120"},
        {**CAPACITY, pod("dub5_queued_requests"): "50x120"},
    ),
    "Dub5Shedding": Case(
        {pod("dub5_shed_total", 'reason="queue_full"'): "0+30x120"},
        {pod("dub5_shed_total", 'reason="queue_full"'): "0x60 3x60"},
    ),
    "Dub5DemandAtMaximum": Case(demand(190, replicas=10), demand(190, replicas=9)),
    "Dub5AutoscalingMetricMissing": Case(  # scrapes fail for an hour, and with them goes all that a replica tells
        {UP: "1x60 0x60", BUILT: "1x60 stale", DEMAND: "5x60 stale"},
        {UP: "1x116 0x4", BUILT: "1x116 stale", DEMAND: "5x116 stale"},
    ),
    "Dub5AutoscalerBlind": Case(
        {INACTIVE: "0x100 1x20"}, {INACTIVE: "0x112 1x8", autoscaler("shop"): "1x120"}
    ),
    "Dub5Absent": Case(  # without kube-state-metrics: the pods are gone for half an hour, for more than an hour
        {CAPABLE: "200x90 stale", UP: "1x90 stale"}, {CAPABLE: "200x50 stale", UP: "1x50 stale"}
    ),
    "Dub5RedisDown": Case(
        {pod("dub5_redis_up"): "0x120"},
        {pod("dub5_redis_up"): "0x120", 'dub5_redis_up{namespace="chat",pod="b"}': "1x120"},
    ),
    "Dub5HitRatioCollapsed": Case(
        {lookups("local"): "0+600x290 174000+100x300", lookups("miss"): "0+400x290 116000+900x300"},
        {lookups("local"): "0+600x600", lookups("miss"): "0+400x600"},
        at="26h",
        interval="5m",
    ),
    "Dub5StalenessOverBudget": Case(changing(0.2), changing(0.05), at="8h"),
    "Dub5OperatorNotReconciling": Case(  # one of two policies is overdue
        {LOOKS: "0+2x120", DUE: "60+60x120", OTHER_DUE: "60+60x60 3660x60"},
        {LOOKS: "0+2x120", DUE: "60+60x120", OTHER_DUE: "3600x60 7200x60"},
    ),
    "Dub5PolicyNotReady": Case(
        {condition("Ready", "false"): "0x90 1x30", condition("Ready", "true"): "1x90 0x30"},
        {
            condition("Ready", "false"): "0x110 1x10",
            condition("Ready", "unknown"): "1x120",
            condition("WithinBudget", "false"): "1x120",
        },
    ),
    "Dub5PolicyExpiring": Case(  # one of two replicas has read nothing new for six hours and a half
        {EXPIRES: "86400+60x720", on("b", EXPIRES): "86400x720"},
        {EXPIRES: "86400+60x720", on("b", EXPIRES): "86400+60x480 0x240"},
        at="6h30m",
    ),
    "Dub5BudgetInfeasible": Case(
        {condition("WithinBudget", "false"): "1x120"},
        {condition("WithinBudget", "false"): "0x100 1x20", condition("WithinBudget", "true"): "1x100 0x20"},
    ),
    "Dub5Restarts": Case({**BUILD, STARTED: "1x95 2x6 3x6 4x13"}, {**BUILD, STARTED: "1x100 2x20"}),
    "Dub5RolloutStuck": Case(  # a configuration that is refused: old replicas serve on, the new pod tells nothing
        {CONFIG_A: "1x120", waiting("CrashLoopBackOff"): CRASHING},
        {
            CONFIG_A: "1x120",
            waiting("ContainerCreating"): "1x120",
            waiting("CrashLoopBackOff", name="shop-7c9f8b6d5-x2x4z"): "1x120",
            waiting("CrashLoopBackOff", name="dub5-redis-0"): "1x120",
            waiting("CrashLoopBackOff", name="dub5-operator-7c9f8b6d5-x2x4z", container="operator"): "1x120",
            waiting("CrashLoopBackOff", container="sidecar"): "1x120",
        },
    ),
    "Dub5KeysNotReloaded": Case(
        {KEYS: "1x100 0x20", on("b", KEYS): "1x120"}, {KEYS: "1x80 0x30 1x10", on("b", KEYS): "1x117 0x3"}
    ),
    "Dub5BackgroundTaskFailing": Case(  # for minutes; once, and well again
        {FAILING: "0x100 1x20", FAILURES: "0x100 1+6x20"},
        {FAILING: "0x100 1 0x20", FAILURES: "0x100 1x20"},
    ),
    "Dub5ConfigurationsDiffer": Case({CONFIG_A: "1x120", CONFIG_B: "1x120"}, {CONFIG_A: "1x120"}),
}
MORE: list[tuple[str, Case]] = [
    # A chat is one in whatever form it is asked for; what counts tokens is none.
    *(
        (
            "Dub5AvailabilityFastBurn",
            Case(failing(0.08, 120, route=route), failing(0.5, 120, route="messages/count_tokens")),
        )
        for route in ("completions", "messages", "responses")
    ),
    (
        "Dub5AvailabilityFastBurn",
        Case(failing(0.08, 120, "shed"), failing(0.5, 120, "client_error")),
    ),
    ("Dub5RedisDown", Case({pod("dub5_redis_up"): "0x120"}, {pod("dub5_redis_up"): " ".join(["NaN"] * 121)})),
    (
        "Dub5BreakerOpen",  # it tries again each half minute, as long as it is wanted
        Case({BREAKER: FLIPPING, **PROBED}, {BREAKER: "0x118 2 0", **PROBED}),
    ),
    (
        "Dub5BreakerOpen",  # asked once in ten minutes; half-open since the last call, half an hour ago
        Case(
            {BREAKER: "1x120", calls("error"): "0x9 1x9 2x9 3x9 4x9 5x9 6x9 7x9 8x9 9x9 10x9 11x9 12x9"}, IDLE
        ),
    ),
    (
        "Dub5BreakerOpen",  # another replica calls it with success: one knows nothing of the other
        Case(
            IDLE | {on("b", BREAKER): FLIPPING, on("b", calls("error")): "0+2x120"},
            IDLE | {on("b", BREAKER): "0x120", on("b", calls("ok")): "0+100x120"},
        ),
    ),
    (
        "Dub5DemandAtMaximum",  # two releases: each has as many as it has
        Case(
            demand(190, replicas=10) | demand(190, replicas=9, namespace="else"),
            demand(190, replicas=9) | demand(190, replicas=9, namespace="else"),
        ),
    ),
    (
        "Dub5StalenessOverBudget",
        Case(policy(stale=0.02, budget=0.01), policy(stale=0.009, budget=0.01)),
    ),
    (
        "Dub5StalenessOverBudget",  # what a policy bears is its own business, and too little is no figure
        Case(
            policy(stale=0.6, budget=0.5) | changing(0.9),
            policy(stale=0.4, budget=0.5) | changing(0.9),
        ),
    ),
    (
        "Dub5StalenessOverBudget",
        Case(policy(stale=0.02, budget=0.01), policy(stale=0.02, budget=0.01, bound_by="Data")),
    ),
    (
        "Dub5BackgroundTaskFailing",  # a short task fails each minute; now and then
        Case({FAILURES: "0x60 0+1x60"}, {FAILURES: "0x60 1x20 2x20 3x20"}),
    ),
    (
        "Dub5RolloutStuck",  # no Secret that it names; it crashed for a minute, and came up
        Case(
            {waiting("CreateContainerConfigError"): "_x90 1x30"},
            {waiting("CrashLoopBackOff"): "_x112 1 stale"},
        ),
    ),
    (
        "Dub5RolloutStuck",  # no node has room for a new pod
        Case(
            {progressing("false"): "0x90 1x30", progressing("true"): "1x90 0x30"},
            {
                progressing("true"): "1x120",
                progressing("false"): "0x120",
                progressing("false", "shop"): "1x120",
            },
        ),
    ),
    (
        "Dub5AutoscalingMetricMissing",  # a new pod cannot be scraped; it can after a minute, and the old one is gone
        Case(
            {UP: "1x120", DEMAND: "5x120", on(NAME, UP): "_x90 0x30"},
            {
                UP: "1x90 stale",
                DEMAND: "5x90 stale",
                BUILT: "1x90 stale",
                on(NAME, UP): "_x90 0 1x30",
                on(NAME, DEMAND): "_x91 5x30",
            },
        ),
    ),
    (
        "Dub5AutoscalingMetricMissing",  # three replicas and two; a pod of which Prometheus knows nothing
        Case(
            {UP: "1x120", DEMAND: "5x120", ready(NAME): "1x120"},
            {UP: "1x120", DEMAND: "5x120", on("b", UP): "1x60 stale", on("b", DEMAND): "5x60 stale"},
        ),
    ),
    (
        "Dub5AutoscalingMetricMissing",  # it answers, but its demand is dropped; others, and a pod that does not start
        Case(
            {UP: "1x120", DEMAND: "5x60 stale", CAPABLE: "200x120"},
            {
                UP: "1x120",
                DEMAND: "5x120",
                on("dub5-operator-7c9f8b6d5-x2x4z", UP): "0x120",
                on("dub5-redis-0", UP): "0x120",
                on(NAME, UP).replace("chat/dub5", "shop"): "0x120",
                on("dub5-7c9f8b6d5-crsh2", UP): "0x120",
                ready("dub5-7c9f8b6d5-crsh2"): "0x120",
                ready("shop-7c9f8b6d5-x2x4z"): "1x120",
                ready("dub5-redis-0", "redis"): "1x120",
            },
        ),
    ),
    (
        "Dub5AutoscalerBlind",  # KEDA's; nothing is to be scaled
        Case(
            {autoscaler("keda-hpa-dub5"): "1x120", wanted(): "2x120"}, {INACTIVE: "1x120", wanted(): "0x120"}
        ),
    ),
    (
        "Dub5Absent",  # none has answered for seven hours; one of two does
        Case(
            {CAPABLE: "200x60 stale", DEMAND: "5x60 stale", UP: "1x60 0x420"},
            {
                CAPABLE: "200x60 stale",
                DEMAND: "5x60 stale",
                UP: "1x60 0x420",
                on("b", CAPABLE): "200x480",
                wanted(): "2x480",
            },
            at="8h",
        ),
    ),
    (
        "Dub5Absent",  # for seven hours there has been no pod of those that are wanted; none is wanted
        Case(
            {CAPABLE: "200x60 stale", UP: "1x60 stale", wanted(): "2x480"},
            {CAPABLE: "200x450 stale", UP: "1x450 stale", wanted(): "2x449 0x30"},
            at="8h",
        ),
    ),
    (
        "Dub5Absent",  # another Deployment is scaled to zero; gone for less than five minutes
        Case(
            {CAPABLE: "200x100 stale", UP: "1x100 stale", wanted("shop"): "0x120"},
            {CAPABLE: "200x116 stale", wanted("shop"): "2x120"},
        ),
    ),
    (
        "Dub5Absent",  # it was uninstalled: others in the namespace, and other pods of the job, are no sign of it
        Case(
            {CAPABLE: "200x450 stale", UP: "1x450 stale"},
            {
                CAPABLE: "200x60 stale",
                DEMAND: "5x60 stale",
                UP: "1x60 stale",
                wanted("shop"): "2x480",
                on("dub5-operator-7c9f8b6d5-x2x4z", UP): "1x480",
                on("shop-7c9f8b6d5-x2x4z", UP): "1x480",
            },
            at="8h",
        ),
    ),
    (
        "Dub5OperatorNotReconciling",  # it fails; there is none
        Case({DUE: "60+60x120", LOOKS: "0+2x120", FAILED_LOOKS: "0+1x120"}, {PUBLISHED: "0x120"}),
    ),
    (
        "Dub5OperatorNotReconciling",  # it is gone; it is there and has just begun
        Case({PUBLISHED: "1x120", LOOKS: "0+2x60 stale"}, {PUBLISHED: "1x120", LOOKS: "_x100 0+2x20"}),
    ),
]
BOTH = [*CASES.items(), *MORE]


def only(alert: str) -> dict[str, Any]:
    """The rules of this alert: it, and what is recorded for it. promtool takes its time for each that it is given."""
    names = [alert, *recorded(ALERTS[alert]["expr"])]
    kept = [
        {
            **group,
            "rules": [rule for rule in group["rules"] if {rule.get("alert"), rule.get("record")} & {*names}],
        }
        for group in GROUPS
    ]
    return {"groups": kept}


def recorded(expr: str) -> list[str]:
    """What `expr` has from other rules, and what those have."""
    names = [name for name in re.findall(r"[\w:]+", expr) if name in RECORDS]
    return names + [further for name in names for further in recorded(RECORDS[name])]


def promtool(tmp_path: Path, name: str, case: Case, *, fires: bool) -> str:
    """What promtool has to say against it; nothing where all is as it should be."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if fires else []
    asked = {
        "expr": f'count by (alertname) (ALERTS{{alertname="{name}",alertstate="firing"}})',
        "eval_time": case.at,
        "exp_samples": expected,
    }
    series = case.fires if fires else case.quiet
    test = {
        "interval": case.interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [asked],
    }
    rules, path = tmp_path / "rules.yaml", tmp_path / "test.yaml"
    rules.write_text(yaml.safe_dump(only(name)))
    written = {"rule_files": [str(rules)], "evaluation_interval": case.interval, "tests": [test]}
    path.write_text(yaml.safe_dump(written))
    run = subprocess.run([str(PROMTOOL), "test", "rules", path], capture_output=True, text=True, check=False)
    return "" if run.returncode == 0 else run.stdout + run.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")
@pytest.mark.parametrize("fires", [True, False], ids=["fires", "is quiet"])
@pytest.mark.parametrize(("name", "case"), BOTH, ids=[name for name, _ in BOTH])
def test_it(tmp_path: Path, name: str, case: Case, fires: bool) -> None:
    assert promtool(tmp_path, name, case, fires=fires) == ""


def test_every_alert_is_tried() -> None:
    assert CASES.keys() == ALERTS.keys()


@pytest.mark.parametrize("name", ALERTS)
def test_it_says_how_bad_it_is_what_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    text = (ROOT / rule["annotations"]["runbook_url"]).read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    assert parts[1::2] == HEADINGS
    assert all(len(part.strip()) > 10 for part in parts[2::2])


@pytest.mark.parametrize("document", ["README.md", "docs/alerts.md"])
def test_the_document_counts_them(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert re.findall(r"\b(\d+) alerts\b", text) == [str(len(ALERTS))]


def test_every_runbook_has_its_alert() -> None:
    assert {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")} == ALERTS.keys()


def test_the_runbook_says_what_each_background_task_does() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "backend/dub5").glob("**/*.py")]
    started = {
        name for text in sources for name in re.findall(r'\.(?:start|jobs|failures)\(\s*"([a-z-]+)"', text)
    }
    runbook = (ROOT / "docs/runbooks/Dub5BackgroundTaskFailing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*`) \|", runbook, flags=re.MULTILINE)[1:]  # the first is the head
    assert {name for row in rows for name in re.findall("`(.*?)`", row)} == started | {"other"}


def test_rules_and_runbooks_name_metrics_that_there_are() -> None:
    known = {each.name for each in (*metrics("The backend"), *metrics("The operator"))}
    texts = [RULES, *(ROOT / "docs/runbooks").glob("*.md")]
    for path in texts:
        for name in re.findall(r"\bdub5_[a-z_]+[a-z]", path.read_text(encoding="utf-8")):
            assert re.sub("_(bucket|count|sum)$", "", name) in known, path
