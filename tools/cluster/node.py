"""One node: containerd, kubelet, kube-proxy."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tools.cluster import mounts
from tools.cluster.layout import Node, command, filled
from tools.cluster.services import Services, is_socket

CONTROLLERS = Path("/sys/fs/cgroup")


def start(services: Services, node: Node) -> None:
    state = services.state
    folder = state.folder / node.name
    known = {"folder": state.folder, "node": node.name, "ip": node.ip}
    (folder / "cni").mkdir(parents=True)
    Path(node.containerd).parent.mkdir()
    make_control_group(f"{state.control_group}/{node.name}")
    for name, place in (("containerd.toml", "."), ("10-pods.conflist", "cni"), ("kubelet.yaml", ".")):
        text = filled(
            name,
            **known,
            containerd=node.containerd,
            subnet=node.pod_range,
            control_group=state.control_group,
        )
        (folder / place / name).write_text(text)
    ways = [*node.network, *mounts.of_a_node()]
    first = services.start(f"containerd-{node.index}", command("containerd", **known), ways)
    # The kubelet ends at once where it finds no containerd.
    services.wait_until(is_socket(node.containerd), f"containerd of {node.name} listens")
    beside = ["nsenter", f"--target={first}", "--mount", "--net"]
    for name in ("kubelet", "kube-proxy"):
        services.start(f"{name}-{node.index}", command(name, **known), beside)


def make_control_group(name: str) -> None:
    """In every hierarchy of version 1 (where a cpuset starts empty, and nothing may run in it), or in the one of 2."""
    for hierarchy in hierarchies():
        with contextlib.suppress(OSError):  # some are read-only
            (hierarchy / name).mkdir(parents=True, exist_ok=True)
    cpusets = CONTROLLERS / "cpuset"
    if cpusets.is_dir():
        group = cpusets
        for part in Path(name).parts:
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / part / file).write_text((group / file).read_text())
            group /= part


def hierarchies() -> list[Path]:
    if (CONTROLLERS / "cgroup.controllers").exists():
        return [CONTROLLERS]
    return [path for path in CONTROLLERS.iterdir() if path.is_dir()]
