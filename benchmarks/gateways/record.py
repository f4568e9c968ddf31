"""What stays of a run: everything that was measured as JSON, and a plot of the rates for people."""

from __future__ import annotations

import asyncio
import contextlib
import html
import platform
import re
import shutil
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks.figures import Figure
from benchmarks.gateways import cores
from benchmarks.gateways.contestants import LITELLM, PORTKEY
from benchmarks.gateways.rounds import Bench, Round

_LIBRARIES = (
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
)
_WIDTH, _BAR, _NAMES, _FIGURES = 760, 22, 190, 150


async def versions() -> dict[str, str]:
    """Of the machine and of everything that takes part, as far as it is there."""
    found = {
        "cpu": _cpu(),
        "cores": f"{cores.SERVER} for the server, {cores.OTHERS} for the load",
        platform.system(): ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "litellm": LITELLM,
        "portkey": PORTKEY,
    }
    for name, command in {
        "redis-server": ["redis-server", "--version"],
        "wrk": ["wrk", "--version"],
        "nginx": ["/usr/sbin/nginx", "-v"],
        "node": ["node", "--version"],
    }.items():
        said = await _said(command)
        if said:
            found[name] = said
    return found


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


async def _said(command: Sequence[str]) -> str:
    """The first number with a dot that a program says of itself."""
    if shutil.which(command[0]) is None:
        return ""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    number = re.search(r"\d+\.\d+(\.\d+)?", said.decode(errors="replace"))
    return number[0] if number else ""


def keep(path: Path, about: dict[str, str], figures: Sequence[Figure], bench: Bench) -> None:
    """`path`.json and `path`.svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    everything = {
        "about": about,
        "table": figures,
        "rounds": _rates(bench.rounds),
        "repeated": _rates(bench.repeated),
        "others": bench.others,
    }
    encoded = msgspec.json.format(msgspec.json.encode(everything), indent=1)
    path.with_suffix(".json").write_bytes(encoded + b"\n")
    compared = [each for each in bench.rounds if each.work and not each.workload.startswith("growth")]
    path.with_suffix(".svg").write_text(_plot(compared, about), encoding="utf-8")


def _rates(rounds: Sequence[Round]) -> list[dict[str, object]]:
    return [{**msgspec.to_builtins(each), "rate": each.rate} for each in rounds if each.work]


def _plot(rounds: Sequence[Round], about: dict[str, str]) -> str:
    """One group of bars for each workload: medians, with a line from least to most."""
    parts: list[str] = []
    top = 40
    for workload in dict.fromkeys(each.workload for each in rounds):
        rates: dict[str, list[float]] = {}
        for each in rounds:
            if each.workload == workload:
                rates.setdefault(each.contestant, []).append(each.rate)
        parts.append(_text(8, top + 14, f"{workload}: per second of the server's CPU", bold=True))
        top += _BAR
        most = max(max(values) for values in rates.values())
        for name, values in sorted(rates.items(), key=lambda item: -statistics.median(item[1])):
            parts += _bar(top, name, values, (_WIDTH - _NAMES - _FIGURES) / most)
            top += _BAR
        top += 16
    title = _text(8, 20, f"{about['cpu']}, one core for the server; Python {about['python']}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" font-family="sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="white"/>{title}{"".join(parts)}</svg>\n'
    )


def _bar(top: int, name: str, values: Sequence[float], scale: float) -> list[str]:
    middle = statistics.median(values)
    colour = "#9aa5b1" if name in {"Portkey", "LiteLLM", "nginx", "bare uvicorn"} else "#2f6fde"
    least, most = (f"{_NAMES + value * scale:.1f}" for value in (min(values), max(values)))
    y = top + 9
    return [
        _text(8, top + 14, name),
        f'<rect x="{_NAMES}" y="{top + 2}" width="{max(1.0, middle * scale):.1f}" height="15" fill="{colour}"/>',
        f'<line x1="{least}" y1="{y}" x2="{most}" y2="{y}" stroke="black"/>',
        _text(_NAMES + max(values) * scale + 8, top + 14, f"{middle:,.0f}"),
    ]


def _text(x: float, y: float, words: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{weight}>{html.escape(words)}</text>'
