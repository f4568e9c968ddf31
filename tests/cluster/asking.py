"""Clients in the cluster that know which of their answers are stale, and what the operator says meanwhile."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

from testkit.cluster.kube import eventually
from testkit.cluster.release import Release
from testkit.cluster.stage import NAMESPACE, Stage


def ticker_policy(budget: float, **more: Any) -> dict[str, Any]:
    """For class `ticker`, of which a TTL is found within a minute or so; `more` is of its spec."""
    return {
        "apiVersion": "dub5.io/v1alpha1",
        "kind": "CachePolicy",
        "metadata": {"name": "ticker"},
        "spec": {
            "cacheClass": "ticker",
            "mode": "Auto",
            "staleness": {"budget": f"{budget:.0%}"},
            "ttl": {"min": "1s", "max": "1m", "initial": "2s"},
            "step": {"every": "10s"},
            **more,
        },
    }


def ticker_values(ttl: float, **model: Any) -> dict[str, Any]:
    """Two replicas and an operator. Answers of model `ticker` are kept for `ttl` seconds where no policy says more."""
    ticker = {"routes": ["standin/any"], "cache_class": "ticker", **model}
    return {
        "autoscaling": {"mode": "none"},
        "replicas": 2,
        "operator": {"enabled": True, "resources": {"requests": {"cpu": "10m", "memory": "96Mi"}}},
        "config": {"models": {"ticker": ticker}, "cache": {"classes": {"ticker": {"ttl": f"{ttl:.0f}s"}}}},
    }


class Asking:
    """pods/asking.py at work, and what it has seen so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.seen: dict[str, Any] = {}
        self._process = process
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.seen = json.loads(line)

    def since(self, before: dict[str, Any]) -> dict[str, int]:
        return {name: self.seen[name] - before[name] for name in ("hits", "stale", "misses", "failed")}

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._reader.join()


@contextlib.contextmanager
def clients(release: Release, stage: Stage, model: str) -> Iterator[Asking]:
    """At work in the stage's pod until they are stopped."""
    command = ["exec", "--stdin", "--namespace", NAMESPACE, "load", "--", "env", f"KEY={release.key()}"]
    command += ["python", "/code/asking.py", release.url, model]
    pipe = subprocess.PIPE
    with subprocess.Popen(stage.kube.command(*command), stdin=pipe, stdout=pipe, text=True) as process:
        asking = Asking(process)
        try:
            eventually(lambda: asking.seen, "the clients report")
            yield asking
        finally:
            process.kill()  # it has ended by itself after `stop`; its pod's part ends with its input


def status(release: Release, kind: str = "cachepolicies", name: str = "ticker") -> dict[str, Any]:
    """What the operator says of an object of ours; empty as long as it has not."""
    path = f"/apis/dub5.io/v1alpha1/namespaces/{release.namespace}/{kind}/{name}"
    found: dict[str, Any] = (release.kube.get(path) or {}).get("status", {})
    return found


def conditions(reported: dict[str, Any]) -> dict[str, str]:
    return {each["type"]: each["status"] for each in reported.get("conditions", [])}
