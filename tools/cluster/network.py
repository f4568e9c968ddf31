"""Bridge, addresses and routes. Runs in the cluster's own network namespace, that of node 0."""

from __future__ import annotations

import subprocess

from tools.cluster.layout import NODE_IP, Node


def first_node() -> None:
    """A bridge carries the node's address: not every kernel has the module for dummy devices."""
    run("ip link set lo up")
    run("ip link add node0 type bridge")
    run(f"ip addr add {NODE_IP}/24 dev node0")
    run("ip link set node0 up")
    run("ip route add default dev node0")  # what no other route knows ends here
    run("sysctl -qw net.ipv4.ip_forward=1")


def further_node(node: Node) -> None:
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
