"""Addresses, names and places of a cluster, and how it speaks to people.

Its own network, which nothing leads out of:

10.250.0.1x     node x, on a bridge in the network namespace of node 0
10.244.x.0/24   pods of node x
10.96.0.0/16    services

What it makes is kept in the cache, nothing of it in the work tree; `down` deletes a cluster's keys, logs and data.
"""

from __future__ import annotations

import string
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testkit.places import CACHE

NODE_IP = "10.250.0.10"
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
_HERE = Path(__file__).parent
_ALWAYS = {"ip": NODE_IP, "pod_range": POD_RANGE, "service_range": SERVICE_RANGE, "dns": DNS_SERVICE}
_COMMANDS = yaml.safe_load((_HERE / "services.yaml").read_text(encoding="utf-8"))


def filled(file: str, **values: Any) -> str:
    """A file of `files`, with its `$…` filled in."""
    text = (_HERE / "files" / file).read_text(encoding="utf-8")
    return string.Template(text).substitute(_ALWAYS | values)


def command(program: str, **values: Any) -> list[str]:
    """How a program is called."""
    words = (string.Template(word).substitute(_ALWAYS | values) for word in _COMMANDS[program])
    return [program, *words]


@dataclass(frozen=True)
class Node:
    """A containerd, a kubelet and a kube-proxy among mounts of their own; past the first, in a network of their own."""

    index: int

    @property
    def name(self) -> str:
        return f"node-{self.index}"

    @property
    def ip(self) -> str:
        return f"10.250.0.1{self.index}"

    @property
    def pod_range(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def containerd(self) -> str:
        """In a /run of the cluster's own: the path of a socket must be short."""
        return f"/run/{self.name}/containerd.sock"

    @property
    def network(self) -> list[str]:
        """What to put before a command that is to run in this node's network. The first node's is the cluster's own."""
        return ["nsenter", f"--net=/run/netns/{self.name}"] if self.index else []


def nodes(count: int) -> list[Node]:
    return [Node(index) for index in range(count)]


@dataclass(frozen=True)
class State:
    """The folder of the cluster called `name`, and the control group that its pods are in."""

    name: str

    @property
    def folder(self) -> Path:
        return CACHE / "clusters" / self.name

    @property
    def lock(self) -> Path:
        """Held as long as the cluster lives; beside the folder, so that it outlives it."""
        return self.folder.with_suffix(".lock")

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    @property
    def control_group(self) -> str:
        return f"dub5-{self.name}"


class Stop(Exception):
    """Ends the command with a sentence and exit code 1."""


def output(*command: str, fails: str, **options: Any) -> str:
    """What a program says; Stop with `fails` and the end of it where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise Stop(f"{fails}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    said: str = done.stdout
    return said.strip()


def say(message: str, end: str = "\n") -> None:
    print(message, end=end, flush=True, file=sys.stderr)
