"""The advisor's autoscaler against Kubernetes' own controller: the first figure of docs/reports/autoscaling-advisor.md.

    python -m benchmarks.advisor_hpa                       # 10,000 histories; some ten minutes of one core
    python -m benchmarks.advisor_hpa --histories 200 --seed 50000
    python -m benchmarks.advisor_hpa --histories 120 --keep tests/benchmarks/advisor-hpa.json.xz    # for the tests

The controller is kube-controller-manager's, unchanged, in virtual time: tools/go/kubernetes/hpa-oracle, which
`tools/setup.sh hpa-oracle` builds where there is Go. Both are given the same histories (histories.py); compared are,
turn by turn, what the scale and the status say, the greatest proposal, why the scale was changed, each condition's
status and reason, and each metric's value. Prints how many decisions exercised what, and each history that differs;
exits with 1 where one does, or where something of the algorithm was not exercised.
"""

from __future__ import annotations

import asyncio
import lzma
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from benchmarks.advisor_hpa.histories import History, Outcome, count, differences, make, outcome, replay
from benchmarks.figures import Figure, progress
from testkit.commands import parser
from testkit.places import ROOT

ORACLE = ROOT / ".venv/bin/hpa-oracle"
AT_ONCE = 500
"""Histories that the controller is given at a time."""
CAUSES = {
    "All metrics below target": "all metrics below target",
    "Current number of replicas above Spec.MaxReplicas": "above maxReplicas",
    "Current number of replicas below Spec.MinReplicas": "below minReplicas",
}
EXERCISED = [
    *(
        "with behavior",
        "without behavior",
        "a policy of Pods",
        "a policy of Percent",
        "a tolerance of its own",
    ),
    *("select Max", "select Min", "select Disabled", "several metrics", "several metrics, and one unusable"),
    *("Pods by averageValue", "Object by value", "Object by averageValue"),
    *("External by value", "External by averageValue"),
    *("Resource by averageUtilization", "Resource by averageValue"),
    *("ContainerResource by averageUtilization", "ContainerResource by averageValue"),
    *("unready pods", "missing pods", "ignored pods", "a ratio that changes nothing"),
    *("up: metric above target", "down: all metrics below target"),
    *("down: above maxReplicas", "up: below minReplicas"),
    *("AbleToScale True: ScaleUpStabilized", "AbleToScale True: ScaleDownStabilized"),
    *("ScalingLimited True: ScaleUpLimit", "ScalingLimited True: ScaleDownLimit"),
    *("ScalingLimited True: TooManyReplicas", "ScalingLimited True: TooFewReplicas"),
    *("ScalingActive False: ScalingDisabled", "ScaledToZero True: ScaledToZero"),
    *(f"ScalingActive False: FailedGet{kind}Metric" for kind in ("Pods", "Object", "External", "Resource")),
]
"""What has to be among the features, or histories are made too narrowly."""


class Kept(msgspec.Struct):
    """Histories, and what the controller of a release of Kubernetes made of them."""

    kubernetes: str
    histories: list[History]
    outcomes: list[list[Outcome]]


def kubernetes() -> str:
    """The release whose controller it is."""
    pinned = (ROOT / "tools/go/kubernetes/go.mod").read_text(encoding="utf-8")
    return pinned.partition("k8s.io/kubernetes v")[2].split()[0]


def write(file: Path, kept: Kept) -> None:
    """Keeps histories for `read`."""
    file.write_bytes(lzma.compress(msgspec.json.encode(kept), preset=9))


def read(file: Path) -> Kept:
    """Histories that `--keep` wrote."""
    return msgspec.json.decode(lzma.decompress(file.read_bytes()), type=Kept)


def comparable(outcomes: list[Outcome]) -> list[Outcome]:
    """The controller's, in our words: it logs a cause as a sentence, and a proposal before it is brought up to 0."""
    for each in outcomes:
        if each.cause is not None:
            above = "metric above target" if each.cause.endswith(" above target") else None
            each.cause = CAUSES.get(each.cause, above)
        if each.proposed is not None:
            each.proposed = max(0, each.proposed)
    return outcomes


async def controller(seeds: range) -> AsyncIterator[tuple[int, History, list[Outcome]]]:
    """What Kubernetes' controller makes of the histories of these seeds."""
    for begin in range(seeds.start, seeds.stop, AT_ONCE):
        some = range(begin, min(begin + AT_ONCE, seeds.stop))
        histories = [make(seed) for seed in some]
        lines = b"".join(msgspec.json.encode(history) + b"\n" for history in histories)
        process = await asyncio.create_subprocess_exec(ORACLE, stdin=PIPE, stdout=PIPE)
        answers, _ = await process.communicate(lines)
        if process.returncode:
            raise SystemExit(f"the controller ended with {process.returncode} at one of the seeds {some}")
        for seed, history, line in zip(some, histories, answers.splitlines(), strict=True):
            yield seed, history, comparable(msgspec.json.decode(line, type=list[Outcome]))


async def compare(seeds: range, keep: Path | None) -> bool:
    """Prints the figures; whether all decisions are equal and nothing of the algorithm was left out."""
    exercised: Counter[str] = Counter()
    different = decisions = wrong = 0
    kept = Kept(kubernetes(), [], [])
    async for seed, history, theirs in controller(seeds):
        exercised += count(history)
        unequal = unequal_steps(history, theirs)
        decisions += len(history.steps)
        wrong += len(unequal)
        different += bool(unequal)
        if unequal:
            print(f"seed {seed}: {', '.join(unequal[:3])}")
        if keep is not None:
            kept.histories.append(history)
            kept.outcomes.append(theirs)
        progress(f"{seed - seeds.start + 1} of {len(seeds)} histories, {different} of them different")
    progress("")
    if keep is not None:
        write(keep, kept)
    print("\n| decisions | what they exercised |\n|---|---|")
    for what, number in sorted(exercised.items()):
        print(f"| {number:,} | {what} |")
    narrow = [what for what in EXERCISED if not exercised[what]]
    print("".join(f"\nnot exercised: {what}" for what in narrow))
    print("| what | bar | measured |\n|---|---|---|")
    equal = f"{len(seeds) - different:,} of {len(seeds):,} histories, {decisions - wrong:,} of {decisions:,} decisions"
    what = f"equal to the controller's of Kubernetes {kept.kubernetes}"
    print(Figure(what, "all", equal, not different).line())
    return not different and not narrow


def unequal_steps(history: History, theirs: list[Outcome]) -> list[str]:
    """Where two differ, and in what."""
    unequal = []
    for index, ((_, step, decision), their) in enumerate(zip(replay(history), theirs, strict=True)):
        ours = outcome(decision)
        if (
            not step.status_replicas and ours.metrics and their.metrics
        ):  # a share of none: the processor's choice
            their.metrics = [
                (percent, None if milli is None or ours.metrics[place][1] is None else milli)
                for place, (percent, milli) in enumerate(their.metrics)
            ]
        if fields := differences(ours, their):
            values = "; ".join(f"{name} {getattr(ours, name)} not {getattr(their, name)}" for name in fields)
            unequal.append(f"step {index}: {values}")
    return unequal


async def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--histories", type=int, default=10_000, metavar="N")
    arguments.add_argument("--seed", type=int, default=0, metavar="FIRST")
    arguments.add_argument("--keep", type=Path, metavar="FILE")
    given = arguments.parse_args()
    await (await asyncio.create_subprocess_exec("tools/setup.sh", "hpa-oracle", cwd=ROOT)).wait()
    if not ORACLE.exists():
        return 1
    return 0 if await compare(range(given.seed, given.seed + given.histories), given.keep) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
