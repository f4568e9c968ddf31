"""Where the cluster keeps what it makes: nothing of it in the work tree.

State   one cluster that runs: keys, logs, data. `down` deletes it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testkit.places import CACHE


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
