"""What stays of a run: everything that was measured as JSON, and a plot of the rates for people."""

from __future__ import annotations

import platform
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
from matplotlib import rc_context
from matplotlib.figure import Figure as Picture

from benchmarks.figures import Figure
from benchmarks.gateways import cores
from benchmarks.gateways.contestants import LITELLM, OTHERS, PORTKEY
from benchmarks.gateways.rounds import Bench, Round

_LIBRARIES = [
    "dub5",
    "uvicorn",
    "uvloop",
    "httptools",
    "litestar",
    "msgspec",
    "aiohttp",
    "httpx",
    "redis",
    "moka-py",
]
_PROGRAMS = {"redis-server": "--version", "wrk": "--version", "/usr/sbin/nginx": "-v", "node": "--version"}


def versions() -> dict[str, str]:
    """Of the machine and of everything that takes part, as far as it is there."""
    found = {
        "cpu": re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0],
        "cores": f"{cores.SERVER} for the server, {cores.OTHERS} for the load",
        platform.system(): ".".join(platform.release().split(".")[:2]),
        "python": f"{platform.python_version()} ({_built()})",
        **{name: version(name) for name in _LIBRARIES},
        "litellm": LITELLM,
        "portkey": PORTKEY,
    }
    for program, option in _PROGRAMS.items():
        if shutil.which(program):
            done = subprocess.run([program, option], capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
            found[Path(program).name] = number[0] if number else "?"
    return found


def _built() -> str:
    """How the interpreter was built. Debian and Ubuntu optimise theirs without saying so in the arguments."""
    given = sysconfig.get_config_var("CONFIG_ARGS") or ""
    options = [each for each in ("--enable-optimizations", "--with-lto") if each in given]
    if sys.base_prefix == "/usr":
        return "the system's"
    return f"built {' '.join(options)}" if options else "built without optimisation"


def fill_in(document: Path, about: Mapping[str, str], figures: Sequence[Figure], *, whole: bool) -> None:
    """Puts figures into the document's table: all of it anew where they are the `whole`, else the lines of the same."""
    text = document.read_text(encoding="utf-8")
    titles = r"(?<=\| what \| bar \| measured \|\n\|---\|---\|---\|\n)"
    head, table, rest = re.split(titles + r"((?:\|.*\n)+)", text, maxsplit=1)
    found = [*([] if whole else table.splitlines()), *(figure.line() for figure in figures)]
    lines = {tuple(line.split(" | ")[:2]): line for line in found}  # one thing may have several bars
    took_part = ", ".join(f"{name} {value}" for name, value in about.items())
    if whole:
        head = re.sub(r"(?s)(?<=Measured with ).*?(?=; no other)", lambda _: took_part, head)
    document.write_text(head + "\n".join(lines.values()) + "\n" + rest, encoding="utf-8")


def keep(path: Path, about: dict[str, str], figures: Sequence[Figure], bench: Bench) -> None:
    """`path`.json and `path`.svg."""
    everything = {
        "about": about,
        "table": figures,
        "rounds": _rates(bench.rounds),
        "repeated": _rates(bench.repeated),
        "others": bench.others,
    }
    encoded = msgspec.json.format(msgspec.json.encode(everything), indent=1)
    path.with_suffix(".json").write_bytes(encoded + b"\n")
    rounds = [
        each for each in bench.rounds if each.work and not each.workload.startswith(("growth", "sustained"))
    ]
    if rounds:
        with rc_context({"svg.fonttype": "none"}):
            _plot(rounds, about).savefig(path.with_suffix(".svg"))


def _rates(rounds: Sequence[Round]) -> list[dict[str, object]]:
    return [{**msgspec.to_builtins(each), "rate": each.rate} for each in rounds if each.work]


def _plot(rounds: Sequence[Round], about: dict[str, str]) -> Picture:
    """One group of bars for each workload: medians, with a line from least to most."""
    workloads: dict[str, dict[str, list[float]]] = {}
    for each in rounds:
        workloads.setdefault(each.workload, {}).setdefault(each.contestant, []).append(each.rate)
    heights = [len(rates) + 1 for rates in workloads.values()]
    picture = Picture(figsize=(8, 0.3 * sum(heights) + 0.5), layout="constrained")
    picture.suptitle(f"{about['cpu']}, one core for the server; Python {about['python']}", fontsize=9)
    grid = picture.subplots(len(workloads), 1, squeeze=False, height_ratios=heights)
    for (workload, rates), [axes] in zip(workloads.items(), grid, strict=True):
        ranked = sorted(rates.items(), key=lambda item: statistics.median(item[1]))
        for name, values in ranked:
            middle = statistics.median(values)
            ends = [[middle - min(values)], [max(values) - middle]]
            bar = axes.barh([name], middle, xerr=ends, color="#9aa5b1" if name in OTHERS else "#2f6fde")
            axes.bar_label(bar, fmt="{:,.0f}", padding=4, fontsize=8)
        axes.set_title(f"{workload}: per second of the server's CPU", fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.margins(x=0.15)
    return picture
