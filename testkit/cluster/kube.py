"""A cluster as the tests see it: kubectl, Helm, and the API server over a socket that `kubectl proxy` opens.

The API server also carries HTTP to pods and services, so the tests need no way into the cluster's network.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template
from typing import Any, TypeVar

import httpx
import yaml

Found = TypeVar("Found")

MANIFESTS = Path(__file__).parent / "manifests"
TIMEOUT = 120.0  # seconds: what has not happened by then will not


class CommandFailed(AssertionError):
    """A command ended with another code than 0; what it said is the message."""


class Overdue(AssertionError):
    """What was waited for has not happened in time."""


class Kube:
    """`entrance` goes before each command, where the cluster has a network of its own."""

    def __init__(self, kubeconfig: str, kubectl: str, helm: str, entrance: list[str] | None = None) -> None:
        self._entrance = entrance or []
        self.kubeconfig, self.kubectl_program, self.helm_program = kubeconfig, kubectl, helm
        self._kubectl = [kubectl, "--kubeconfig", kubeconfig]
        self._helm = [helm, "--kubeconfig", kubeconfig]
        self.api: httpx.Client
        self.socket: Path

    @contextlib.contextmanager
    def connected(self, folder: Path) -> Iterator[Kube]:
        """Opens the API server's socket in `folder`."""
        self.socket = folder / "api.sock"
        command = self.command("proxy", f"--unix-socket={self.socket}")
        proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            eventually(self.socket.is_socket, "kubectl proxy listens")
            transport = httpx.HTTPTransport(uds=str(self.socket))
            with httpx.Client(transport=transport, base_url="http://localhost", timeout=30) as self.api:
                yield self
        finally:
            proxy.terminate()
            proxy.wait()

    def command(self, *arguments: str) -> list[str]:
        return [*self._entrance, *self._kubectl, *arguments]

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return run(self.command(*arguments), stdin)

    def helm(self, *arguments: str, stdin: str = "") -> str:
        return run([*self._entrance, *self._helm, *arguments], stdin)

    def shell(self, script: str, folder: Path, environment: dict[str, str]) -> str:
        """What a script of bash prints, run where the cluster's network is. What fails in it ends it, and what it left
        in the background too."""
        whole = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
        bash = [*self._entrance, "bash", "-euxo", "pipefail", "-c", whole]
        return run(bash, folder=folder, environment=environment, timeout=2 * TIMEOUT)

    def apply(self, manifest: str | dict[str, Any]) -> None:
        text = manifest if isinstance(manifest, str) else yaml.safe_dump(manifest)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def get(self, path: str) -> Any:
        """An object or a list by its path; None where there is none."""
        answer = self.api.get(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        return answer.json()

    def list(self, namespace: str, kind: str, selector: str = "") -> list[dict[str, Any]]:
        arguments = ["--selector", selector] if selector else []
        found = self.kubectl("get", kind, "--namespace", namespace, "--output", "json", *arguments)
        items: list[dict[str, Any]] = json.loads(found)["items"]
        return items

    def pod_text(self, namespace: str, pod: str, port: int, path: str) -> str:
        """What a pod answers, asked through the API server; raises where it does not."""
        answer = self.api.get(f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}")
        answer.raise_for_status()
        return answer.text


def run(
    command: list[str],
    stdin: str = "",
    *,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
        timeout=timeout,
    )
    if done.returncode:
        shown = " ".join(word for word in command if not word.startswith(("--kubeconfig", "/")))
        raise CommandFailed(f"{shown}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def eventually(condition: Callable[[], Found], what: str, timeout: float = TIMEOUT) -> Found:
    """What `condition` returns as soon as it is true. What it raises while a server is away counts as not yet."""
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            last = found = condition()
        except (httpx.HTTPError, CommandFailed) as away:
            last = away
        else:
            if found:
                return found
        if time.monotonic() > deadline:
            raise Overdue(f"not within {timeout:.0f} s: {what}; last seen: {last}")
        time.sleep(0.25)


def stays(value: Callable[[], Found], seconds: float, what: str) -> Found:
    """The value, which must not change for that long: for claims that something does not happen."""
    first = value()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = value()
        assert now == first, f"{what}: {first} became {now}"
        time.sleep(0.25)
    return first


def manifest(name: str, **words: str) -> str:
    """A file of manifests/ with its $words filled in."""
    return Template((MANIFESTS / name).read_text(encoding="utf-8")).substitute(words)
