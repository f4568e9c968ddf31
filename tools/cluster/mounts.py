"""What the cluster sees of the file system: all of it, but some folders are its own, and some each node's.

Programs write into these whatever they are told, and clear away what is not theirs.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

OF_EACH_NODE = ("/var/lib/cni", "/var/lib/kubelet", "/var/log")


def of_the_cluster() -> None:
    """/run, with every socket."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    for folder in OF_EACH_NODE:
        Path(folder).mkdir(parents=True, exist_ok=True)


def of_a_node() -> list[str]:
    """What to put before a node's first program, for mounts of its own. Kubelets expect them to be shared among us."""
    commands = ["mount --make-rshared /", *(f"mount -t tmpfs tmpfs {folder}" for folder in OF_EACH_NODE)]
    script = "; ".join([*commands, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation=private", "sh", "-ec", script, "sh"]
