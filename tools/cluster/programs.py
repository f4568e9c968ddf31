"""The programs of a cluster, built from the Go modules in tools/go.

Each tool has a go.mod and go.sum of its own there, since some need replace lines that others must not have; those two
files say which version is built, and from what. Programs are kept in the cache under a digest of them: a change
builds anew, and going back finds the old ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from testkit.places import CACHE, ROOT, alone
from tools.cluster.layout import Stop, say

GO = ["go"]


@dataclass(frozen=True)
class Tool:
    """A folder of tools/go, as programs.yaml says."""

    name: str
    module: str
    packages: dict[str, str]
    flags: str = ""
    within: str = ""
    """For a program of our own: the folder whose go.mod it has, and a folder of its name in it."""

    @property
    def folder(self) -> Path:
        return ROOT / "tools" / "go" / (self.within or self.name)

    @property
    def version(self) -> str:
        found = re.search(rf"\s{re.escape(self.module)} v(\S+)", (self.folder / "go.mod").read_text())
        if found is None:
            raise Stop(f"{self.folder}/go.mod names no version of {self.module}.")
        return found[1]

    @property
    def place(self) -> Path:
        """The folder of its programs, named for everything that they are made from."""
        own = sorted((self.folder / self.name).glob("*.go")) if self.within else []
        made_from = [path.read_bytes() for path in (self.folder / "go.mod", self.folder / "go.sum", *own)]
        digest = hashlib.sha256(b"".join([*made_from, self.flags.encode()])).hexdigest()
        return CACHE / "programs" / f"{self.name}-{self.version}-{digest[:12]}"

    def missing(self) -> list[str]:
        return [program for program in self.packages if not (self.place / program).is_file()]


TOOLS = [
    Tool(name, **each)
    for name, each in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).items()
]
BY_NAME = {tool.name: tool for tool in TOOLS}
CLUSTER = ["kubernetes", "etcd", "containerd", "coredns"]


def program(name: str) -> Path:
    """The path of a built program."""
    for tool in TOOLS:
        if name in tool.packages:
            path = tool.place / name
            if not path.is_file():
                raise Stop(f"{name} is not built yet. Run: tools/cluster/cluster build {tool.name}")
            return path
    raise Stop(f"no tool in tools/go builds {name}.")


def build(names: list[str]) -> None:
    """Builds what is missing of these tools, one program after the other: each takes every core there is."""
    for tool in (BY_NAME[name] for name in names):
        if tool.missing():
            check_go(tool)
            tool.place.mkdir(parents=True, exist_ok=True)
            with alone(tool.place / ".lock"):
                for name in tool.missing():
                    build_one(tool, name)


def check_go(tool: Tool) -> None:
    """Go itself knows whether it is new enough for a go.mod, and may fetch a newer one where it is allowed to."""
    try:
        done = subprocess.run([*GO, "version"], cwd=tool.folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Stop(
            "The programs of the cluster are built with Go 1.26 or newer, and there is no go on PATH."
        ) from None
    if done.returncode:
        raise Stop(f"The programs of the cluster need a newer Go. {done.stderr.strip()}")


def build_one(tool: Tool, name: str) -> None:
    """Builds under another name first: what has the right name is whole, whenever we are stopped."""
    major, minor = tool.version.split(".")[:2]
    flags = "-s -w " + tool.flags.format(version=tool.version, major=major, minor=minor)
    unfinished = tool.place / f".{name}"
    say(f"building {name} {tool.version}", end=" ")
    began = time.monotonic()
    command = [*GO, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(unfinished)]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    try:
        done = subprocess.run(
            [*command, tool.packages[name]],
            cwd=tool.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            say("")
            errors = [line for line in done.stderr.splitlines() if not line.startswith("go: downloading")]
            raise Stop("\n".join([f"{name} could not be built:", *errors]))
        unfinished.rename(tool.place / name)
    finally:
        unfinished.unlink(missing_ok=True)
    say(f"{time.monotonic() - began:.0f} s")
