"""The commands of the documents: what stands in blocks of shell and Python, and in the running text as `make check`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SHELL = ("sh", "bash", "shell", "console")
PROGRAMS = (
    *("make", "dub5", "curl", "k6", "python", "python3", "pip", "uv", "npm", "npx", "go"),
    *("docker", "podman", "kind", "kubectl", "helm", "promtool", "redis-cli"),
    *(r"tools/\S+", r"\.venv/bin/\S+"),
)

_FENCE = re.compile(r"^\s*```\s*(\w*)\s*$")
_INLINE = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(rf"(?:(?:{'|'.join(PROGRAMS)}) +\S|\.ci/run)")
_COMMENT = re.compile(r"(?:^|\s+)#(?:\s|$)")


class Block(NamedTuple):
    """A fenced block; `line` is that of its first line, counted from 1."""

    document: str
    line: int
    language: str
    text: str


class Command(NamedTuple):
    """One command. Those of one block have the same `block`, the line on which it begins."""

    document: str
    line: int
    block: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def documents() -> list[str]:
    """Reports and decisions tell what was; all others tell what to do."""
    found = [
        *ROOT.glob("*.md"),
        *(path for path in ROOT.glob("docs/**/*.md") if path.parts[-2] not in ("adr", "load", "reports")),
        *ROOT.glob("deploy/helm/dub5/*.md"),
        *ROOT.glob("deploy/k6/**/*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.name != "CHANGELOG.md")


def read(document: str) -> list[str]:
    return (ROOT / document).read_text(encoding="utf-8").splitlines()


def blocks(document: str, lines: list[str]) -> Iterator[Block]:
    opened, language = 0, ""
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if fence and opened:
            yield Block(document, opened + 1, language, "\n".join(lines[opened : number - 1]))
            opened = 0
        elif fence:
            opened, language = number, fence[1]


def commands(document: str, lines: list[str]) -> list[Command]:
    """All that a shell is to run, in order."""
    found: list[Command] = []
    fenced: set[int] = set()
    for block in blocks(document, lines):
        length = block.text.count("\n") + 1
        fenced |= set(range(block.line, block.line + length))
        found += _of_block(block)
    for number, line in enumerate(lines, 1):
        for text in [] if number in fenced else _INLINE.findall(line):
            if _COMMAND.match(text):
                found.append(Command(document, number, number, text))
    return sorted(found, key=lambda each: each.line)


def _of_block(block: Block) -> Iterator[Command]:
    """Lines that end in a backslash go on; where lines begin with a prompt, all others are output."""
    prompted = [line for line in block.text.splitlines() if line.lstrip().startswith("$ ")]
    if block.language not in SHELL and not (block.language == "" and prompted):
        return
    begun = 0
    parts: list[str] = []
    for number, written in enumerate(block.text.splitlines(), block.line):
        line = written.strip()
        if prompted and not parts:
            if not line.startswith("$ "):
                continue
            line = line[2:]
        begun = begun if parts else number
        parts.append(_without_comment(line).removesuffix("\\").strip())
        if line.endswith("\\"):
            continue
        text = " ".join(parts)
        if text and not text.startswith("#"):
            yield Command(block.document, begun, block.line, text)
        parts = []


def _without_comment(line: str) -> str:
    """A `#` within quotes begins none."""
    for found in _COMMENT.finditer(line):
        before = line[: found.start()]
        if before.count("'") % 2 == before.count('"') % 2 == 0:
            return before
    return line


def all_commands() -> list[Command]:
    return [each for document in documents() for each in commands(document, read(document))]


def by_block(found: list[Command]) -> list[list[Command]]:
    return [list(group) for _, group in groupby(found, key=lambda each: each.block)]


def first_block(document: str, language: str) -> Block:
    return next(each for each in blocks(document, read(document)) if each.language == language)


def promql(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Queries in the running text, with their lines: what names one of our series, and `up`."""
    for number, line in enumerate(lines, 1):
        for text in _INLINE.findall(line):
            if re.search(r"\bdub5(_|:)[a-z]", text) or text == "up":
                yield number, text
