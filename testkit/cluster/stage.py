"""What surrounds the product: a stand-in for its provider, with a counter, and clients that keep their connections."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testkit.cluster.ground import Images
from testkit.cluster.kube import Kube, eventually, manifest
from testkit.places import ROOT

NAMESPACE = "dub5-stage"
CODE = {
    **{name: Path("testkit", name) for name in ("provider.py", "http_server.py", "openai_server.py")},
    "load.py": Path("testkit/cluster/pods/load.py"),
    "arriving.py": Path("testkit/cluster/pods/arriving.py"),
    "asking.py": Path("testkit/cluster/pods/asking.py"),
    "leaving.js": Path("testkit/cluster/pods/leaving.js"),
}
REACH = "import httpx, sys; print(httpx.get(sys.argv[1] + '/v1/models', timeout=5))"


class Stage:
    """One provider and one pod to make load from, in a namespace of their own."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube

    @classmethod
    @contextlib.contextmanager
    def built(cls, kube: Kube, images: Images, placement: str) -> Iterator[Stage]:
        kube.apply(manifest("provider.yaml", namespace=NAMESPACE, image=images.dub5, placement=placement))
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "code", "namespace": NAMESPACE},
                "data": {name: (ROOT / path).read_text(encoding="utf-8") for name, path in CODE.items()},
            }
        )
        kube.kubectl(
            "wait",
            "--namespace",
            NAMESPACE,
            "--for=condition=Ready",
            "pod/provider",
            "pod/load",
            "--timeout=120s",
        )
        yield cls(kube)
        kube.kubectl("delete", "namespace", NAMESPACE)  # the next run makes it anew

    def pace(self, **fields: float) -> None:
        """How the provider answers from now on: see testkit/provider.py."""
        self._provider("/settings", fields)

    def calls(self) -> Counter[str]:
        """How often each question has reached the provider."""
        return Counter(self._provider("/calls", {})["questions"])

    def _provider(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.kube.api.post(
            f"/api/v1/namespaces/{NAMESPACE}/pods/provider:8080/proxy{path}", json=body
        )
        answer.raise_for_status()
        return answer.json()

    @contextlib.contextmanager
    def load(self, url: str, key: str) -> Iterator[Load]:
        """Clients of `url`, none at first. Nodes learn a little late where a new Service leads: that is waited for."""
        eventually(lambda: self.exec("python", "-c", REACH, url), f"{url} answers")
        command = [
            "exec",
            "--stdin",
            "--namespace",
            NAMESPACE,
            "load",
            "--",
            "env",
            f"KEY={key}",
            "python",
            "/code/load.py",
            url,
        ]
        with subprocess.Popen(
            self.kube.command(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            load = Load(process)
            try:
                yield load
            finally:
                process.kill()  # it has ended by itself after `finish`; its pod's part ends with its input

    def exec(self, *command: str, stdin: str = "") -> str:
        return self.kube.kubectl(
            "exec", "--stdin", "--namespace", NAMESPACE, "load", "--", *command, stdin=stdin
        )


@dataclass
class Load:
    """What the clients have seen so far."""

    process: subprocess.Popen[str]
    live: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    hurt: Counter[int] = field(default_factory=Counter)
    """How many troubles each client has had."""

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.live = event["live"]
            outcome = event.get("outcome")
            if outcome:
                self.outcomes[outcome] += 1
                if outcome != "whole":
                    self.hurt[event["client"]] += 1
                    self.failures.append(f"{outcome}, {event['status']}: {event['reason']}")

    def set(self, clients: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{clients}\n")
        self.process.stdin.flush()

    def wait_for(self, outcomes: int) -> None:
        """Until that many more streams have ended."""
        target = self.outcomes.total() + outcomes
        eventually(lambda: self.outcomes.total() >= target, f"{outcomes} streams end")

    def finish(self) -> None:
        """Lets the streams that are there run to their end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=180)
        self._reader.join()

    def assert_whole(self, at_least: int = 1) -> None:
        """Every stream reached [DONE], and no request was refused."""
        assert self.failures == [], f"{self.outcomes}: {self.failures[:5]}"
        assert self.outcomes["whole"] >= at_least
