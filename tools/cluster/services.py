"""The programs that run in the cluster: started in order, each with a log of its own, each waited for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tools.cluster.layout import State, Stop
from tools.cluster.programs import program

TIMEOUT = 120.0  # seconds, for a step of coming up; it takes one or two


class Services:
    """What has been started, by name."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], entrance: list[str] | None = None) -> int:
        """Starts a program of ours, `command[0]`, with `entrance` before it, and returns its pid."""
        path = program(command[0])
        # containerd looks for its shim on PATH.
        environment = {**os.environ, "PATH": f"{path.parent}:{os.environ['PATH']}"}
        with (self.state.logs / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*(entrance or []), str(path), *command[1:]],
                cwd=self.state.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.processes[name].pid

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Fails if a program ends meanwhile, with the last of what it said."""
        give_up = time.monotonic() + TIMEOUT
        while not condition():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise Stop(
                        f"{name} ended with {process.returncode} before {what}:\n{self.last_words(name)}"
                    )
            if time.monotonic() > give_up:
                raise Stop(f"{what}: not within {TIMEOUT:.0f} s. See {self.state.logs}.")
            time.sleep(0.1)

    def last_words(self, name: str) -> str:
        lines = (self.state.logs / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-10:])

    def kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(program("kubectl")), "--kubeconfig", str(self.state.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def apply(self, manifest: str) -> None:
        done = self.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
        if done.returncode:
            raise Stop(done.stderr)


def is_socket(path: str) -> Callable[[], bool]:
    return lambda: Path(path).is_socket()
