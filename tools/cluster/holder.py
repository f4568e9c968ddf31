"""The one process that a cluster hangs on, and the only one to end it by.

`up` starts the holder; the holder starts `init` as process 1 of namespaces of its own and dies with it; if the holder
is killed, the kernel kills init, and with init everything in the namespaces. So there is one process to know, and it
is known by a lock that it holds as long as it lives: no pid file can point at a stranger.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from testkit.places import ROOT
from tools.cluster.layout import State, Stop
from tools.cluster.node import hierarchies

NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]


def start(state: State, nodes: int, hpa_sync: str, owner: int | None) -> None:
    """Returns when the cluster is ready; raises Stop with the reason where it does not come up.

    `owner` is a process that the cluster must not outlive.
    """
    clean(state)
    state.folder.mkdir(parents=True)
    settings = json.dumps({"name": state.name, "nodes": nodes, "hpa_sync": hpa_sync, "owner": owner})
    with (state.folder / "holder.log").open("wb") as log:
        holder = subprocess.Popen(
            [sys.executable, "-m", "tools.cluster.holder", settings],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while not (state.folder / "ready").exists():
        if holder.poll() is not None:
            failed = state.folder / "failed"
            reason = failed.read_text() if failed.exists() else (state.folder / "holder.log").read_text()
            raise Stop(f"The cluster did not come up: {reason}\nIts logs are in {state.folder}.")
        time.sleep(0.05)


def main() -> None:
    """The holder itself."""
    settings = json.loads(sys.argv[1])
    state = State(settings["name"])
    lock = state.lock.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"Somebody else is starting or holding the cluster {state.name}.")
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    init = [sys.executable, "-m", "tools.cluster.init", sys.argv[1]]
    child = subprocess.Popen([*DIE_WITH_PARENT, *NAMESPACES, *init])
    if first_to_end([child.pid, settings["owner"]]) != child.pid:
        end(child.pid)
    child.wait()
    if not (state.folder / "failed").exists():
        clean(state)


def first_to_end(pids: list[int | None]) -> int:
    watched: dict[int, int] = {}
    poll = select.poll()
    for pid in filter(None, pids):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return pid
        watched[descriptor] = pid
        poll.register(descriptor, select.POLLIN)
    return watched[poll.poll()[0][0]]


def running(state: State) -> int | None:
    """The pid of the holder, or None."""
    with contextlib.suppress(FileNotFoundError), state.lock.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(lock.read() or 0) or None
    return None


def init_of(state: State) -> int:
    """The pid, as seen from here, of the cluster's process 1: the child of the holder's only child."""
    pid = running(state)
    for _ in range(2):
        found = children(pid) if pid else []
        pid = found[0] if found else None
    if pid is None:
        raise Stop(f"No cluster {state.name} is running. Start one: tools/cluster/cluster up")
    return pid


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def entrance(state: State, *, mounts: bool = False) -> list[str]:
    """What to put before a command that is to run in the cluster's network, or among its mounts and processes too."""
    kinds = ["--net", "--mount", "--pid"] if mounts else ["--net"]
    return ["nsenter", f"--target={init_of(state)}", *kinds]


def stop(state: State) -> bool:
    """Ends the cluster and waits until its last process is gone. False if there was none."""
    pid = running(state)
    if pid is not None:
        try:
            last = init_of(state)
        except Stop:
            last = pid
        watched = os.pidfd_open(last)
        end(pid)
        select.select([watched], [], [])
        os.close(watched)
    there = state.folder.exists()
    clean(state)
    return pid is not None or there


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def clean(state: State) -> None:
    """Removes what a cluster leaves on disk. Control groups can go when the last process in them has."""
    for hierarchy in hierarchies():
        give_up = time.monotonic() + 10
        while not removed(hierarchy / state.control_group) and time.monotonic() < give_up:
            time.sleep(0.1)
    shutil.rmtree(state.folder, ignore_errors=True)
    shutil.rmtree(state.folder, ignore_errors=True)


def removed(group: Path) -> bool:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return not group.exists()


if __name__ == "__main__":
    main()
