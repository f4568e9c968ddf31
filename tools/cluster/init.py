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

from tools.cluster import control_plane, keys, mounts, network, node
from tools.cluster.layout import nodes
from tools.cluster.places import State
from tools.cluster.report import Stop
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
    mounts.of_the_cluster()
    state.logs.mkdir()
    members = nodes(count)
    keys.make(state.folder, members)
    network.first_node()
    for member in members[1:]:
        network.further_node(member)
    services = Services(state)
    control_plane.start(services, hpa_sync)
    for member in members:
        node.start(services, member)
    control_plane.start_dns(services)
    names = [f"node/{member.name}" for member in members]
    ready = ["wait", "--for=condition=Ready", "--timeout=1s", *names]
    services.wait_until(lambda: services.kubectl(*ready).returncode == 0, "the nodes are ready")
    return services


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
