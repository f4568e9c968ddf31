"""What the machine must have: Linux, root, a few Debian packages."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tools.cluster.layout import Stop, output, say

# A program of each package; CNI plugins are on no PATH.
PACKAGES = {
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "iproute2": "ip",
    "openssl": "openssl",
    "debootstrap": "debootstrap",
    "buildah": "buildah",
    "gcc": "cc",
    "libc6-dev": "/usr/include/stdlib.h",
}
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def check() -> None:
    """Says what is missing in one sentence, and installs packages where that is possible."""
    if sys.platform != "linux":
        raise Stop(
            "The cluster is made of Linux namespaces: it needs Linux. On another system set KUBECONFIG to a cluster."
        )
    if os.geteuid() != 0:
        raise Stop(
            "The cluster needs root, for namespaces, mounts and control groups. Run it as root or set KUBECONFIG."
        )
    os.environ["PATH"] = PATH
    install([package for package, file in PACKAGES.items() if not there(file)])


def there(file: str) -> bool:
    return Path(file).exists() if file.startswith("/") else shutil.which(file, path=PATH) is not None


def install(packages: list[str]) -> None:
    if not packages:
        return
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise Stop(f"The cluster needs these programs, by the names of Debian's packages: {names}.")
    say(f"The cluster needs {names}: installing with apt-get.")
    quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        output("apt-get", *command, fails=f"Could not install {names}", env=quietly)
