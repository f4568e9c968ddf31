"""One node: its network, its mounts, and containerd, kubelet and kube-proxy among them.

The cluster sees all of the file system, but some folders are its own, and some each node's: programs write into these
whatever they are told, and clear away what is not theirs.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from tools.cluster.layout import NODE_IP, Node, command, filled
from tools.cluster.services import Services, is_socket

OF_EACH_NODE = ("/var/lib/cni", "/var/lib/kubelet", "/var/log")
CONTROLLERS = Path("/sys/fs/cgroup")


def first_network() -> None:
    """A bridge carries the node's address: not every kernel has the module for dummy devices."""
    run("ip link set lo up")
    run("ip link add node0 type bridge")
    run(f"ip addr add {NODE_IP}/24 dev node0")
    run("ip link set node0 up")
    run("ip route add default dev node0")  # what no other route knows ends here
    run("sysctl -qw net.ipv4.ip_forward=1")


def further_network(node: Node) -> None:
    """Its own network namespace, joined to the bridge; each node knows the way to the other's pods."""
    inside = " ".join(node.network)
    run(f"ip netns add {node.name}")
    run(f"ip link add veth{node.index} type veth peer name node0 netns {node.name}")
    run(f"ip link set veth{node.index} master node0 up")
    run(f"ip route add {node.pod_range} via {node.ip}")
    run(f"{inside} ip link set lo up")
    run(f"{inside} ip addr add {node.ip}/24 dev node0")
    run(f"{inside} ip link set node0 up")
    run(f"{inside} ip route add default via {NODE_IP}")
    run(f"{inside} sysctl -qw net.ipv4.ip_forward=1")
    for other in range(1, node.index):
        run(f"{inside} ip route add {Node(other).pod_range} via {Node(other).ip}")


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def own_mounts() -> None:
    """/run, with every socket."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    for folder in OF_EACH_NODE:
        Path(folder).mkdir(parents=True, exist_ok=True)


def mounts_of_a_node() -> list[str]:
    """What to put before a node's first program, for mounts of its own. Kubelets expect them to be shared among us."""
    commands = ["mount --make-rshared /", *(f"mount -t tmpfs tmpfs {folder}" for folder in OF_EACH_NODE)]
    script = "; ".join([*commands, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation=private", "sh", "-ec", script, "sh"]


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
    ways = [*node.network, *mounts_of_a_node()]
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
