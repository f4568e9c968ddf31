"""tools/cluster itself: it leaves nothing behind, wherever it is killed, and comes up again after that."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testkit.cluster.kube import eventually
from testkit.places import ROOT
from tools.cluster import holder, node
from tools.cluster.layout import State

pytestmark = pytest.mark.skipif("KUBECONFIG" in os.environ, reason="the cluster is not ours")

STATE = State(f"tool-{os.getpid()}")


def cluster(*arguments: str) -> list[str]:
    return [str(ROOT / "tools/cluster/cluster"), "--name", STATE.name, *arguments]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    links = names_of_links()
    yield
    holder.stop(STATE)
    STATE.lock.unlink(missing_ok=True)
    assert traces() == []
    assert names_of_links() == links


def names_of_links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def traces() -> list[str]:
    """What is left of the cluster: processes, mounts, control groups, files."""
    folder = str(STATE.folder)
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if folder in line]
    groups = [str(path) for path in node.hierarchies() if (path / STATE.control_group).exists()]
    return [*processes(), *mounts, *groups, *([folder] if STATE.folder.exists() else [])]


def processes() -> list[str]:
    """Those that name the cluster, as its holder does, and those that work in its folder, as its programs do."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours to see
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if STATE.name in words or str(STATE.folder) in str((path / "cwd").readlink()):
                found.append(words)
    return found


STAGES: dict[str, Callable[[], bool]] = {
    "at first": STATE.folder.exists,
    "while the API server starts": (STATE.logs / "kube-apiserver.log").exists,
    "while nodes start": (STATE.logs / "kubelet-0.log").exists,
    "when it is ready": (STATE.folder / "ready").exists,
}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_it_leaves_nothing_running_and_comes_up_again(stage: str) -> None:
    with subprocess.Popen(cluster("up"), stderr=subprocess.DEVNULL) as up:
        eventually(STAGES[stage], stage)
        up.kill()
    pid = eventually(lambda: holder.running(STATE), "the holder holds its lock")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: processes() == [], "all of its processes are gone")
    subprocess.run(cluster("up"), check=True)
    subprocess.run(cluster("status"), check=True)
    assert len(processes()) > 8  # the control: this is how they are found
    subprocess.run(cluster("down"), check=True)
    assert traces() == []


def test_it_ends_with_the_process_that_it_is_tied_to() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        subprocess.run(cluster("up", "--while", str(owner.pid)), check=True)
        assert owner.stdin is not None
        owner.stdin.write(b"\n")
    eventually(lambda: traces() == [], "nothing is left")


def test_down_without_a_cluster_is_no_fault() -> None:
    done = subprocess.run(cluster("down"), check=True, capture_output=True, text=True)
    assert done.stderr == f"No cluster {STATE.name} was running.\n"


def test_two_do_not_get_the_same_name() -> None:
    subprocess.run(cluster("up"), check=True)
    done = subprocess.run(cluster("up"), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.split(".")[0]) == (
        1,
        f"The cluster {STATE.name} is running already",
    )
