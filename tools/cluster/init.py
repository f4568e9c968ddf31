"""Process 1 of the cluster: makes its network, starts its programs in order, then buries the dead.

It runs in mount, network and process namespaces of its own, which `holder` makes. Everything that it starts, down to
the containers, is in them too: when this process ends, for whatever reason, the kernel ends all of it, and mounts,
network devices and routes are gone with it.
"""

from __future__ import annotations

import json
import os
import sys
import time

from tools.cluster import keys, node
from tools.cluster.layout import State, Stop, command, filled, nodes
from tools.cluster.services import Services


def main() -> None:
    settings = json.loads(sys.argv[1])
    state = State(settings["name"])
    try:
        services = come_up(state, settings["nodes"], settings["hpa_sync"])
    except Exception as failure:
        text = str(failure) if isinstance(failure, Stop) else repr(failure)
        (state.folder / "failed").write_text(text)
        raise
    (state.folder / "ready").touch()
    bury(services)


def come_up(state: State, count: int, hpa_sync: str) -> Services:
    node.own_mounts()
    state.logs.mkdir()
    members = nodes(count)
    keys.make(state.folder, members)
    node.first_network()
    for member in members[1:]:
        node.further_network(member)
    services = Services(state)
    start_control_plane(services, hpa_sync)
    for member in members:
        node.start(services, member)
    start_dns(services)
    names = [f"node/{member.name}" for member in members]
    ready = ["wait", "--for=condition=Ready", "--timeout=1s", *names]
    services.wait_until(lambda: services.kubectl(*ready).returncode == 0, "the nodes are ready")
    return services


def start_control_plane(services: Services, hpa_sync: str) -> None:
    services.start("etcd", command("etcd"))
    services.start("kube-apiserver", command("kube-apiserver"))
    services.wait_until(
        lambda: services.kubectl("get", "--raw", "/readyz").returncode == 0, "the API server is ready"
    )
    services.start("kube-controller-manager", command("kube-controller-manager", hpa_sync=hpa_sync))
    services.start("kube-scheduler", command("kube-scheduler"))


def start_dns(services: Services) -> None:
    folder = services.state.folder
    (folder / "Corefile").write_text(filled("Corefile", folder=folder))
    services.start("coredns", command("coredns"))
    services.apply(filled("dns.yaml"))


def bury(services: Services) -> None:
    """Processes whose parents are gone come to us. One of our own programs should not end: it is written down."""
    ours = {process.pid: name for name, process in services.processes.items()}
    while ours:
        pid, status = os.wait()
        if pid in ours:
            code = os.waitstatus_to_exitcode(status)
            with (services.state.folder / "ended").open("a") as ended:
                ended.write(f"{time.strftime('%T')} {ours.pop(pid)} ended with {code}\n")


if __name__ == "__main__":
    main()
