"""A real Prometheus and a real Alertmanager, on free loopback ports, for as long as a block lasts.

async with Alertmanager(directory, config, url, ["pager"]) as alertmanager, Prometheus(directory, …) as prometheus:
    await prometheus.get("query", query="up")
    await prometheus.until("up == 1")

Skipped where they are missing; `make test` unpacks Debian's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from testkit.programs import which

TIMEOUT = 60.0
"""Seconds after which a test that waits for something has failed."""

Json = Any


PROMETHEUS = which("prometheus")
ALERTMANAGER = which("prometheus-alertmanager", "alertmanager")


class _Program:
    """One of them; `said` is its log."""

    def __init__(self, name: str, path: str | None, directory: Path) -> None:
        assert path is not None, f"there is no {name}: tools/setup.sh gets it"
        self.said: list[str] = []
        self._command = [path]
        self._config = directory / f"{name}.json"  # JSON is YAML
        self._data = directory / name
        self._address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def _start(self, config: Json, *arguments: str) -> None:
        await asyncio.to_thread(self._config.write_text, json.dumps(config))
        command = [*self._command, f"--config.file={self._config}", "--web.listen-address=127.0.0.1:0"]
        self._process = await asyncio.create_subprocess_exec(
            *command, *arguments, stderr=asyncio.subprocess.PIPE
        )
        self._reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(TIMEOUT):
                self.address = await self._address
                self.client = httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT)
                while (await self.client.get("/-/ready")).status_code != 200:  # noqa: ASYNC110  # in another process
                    await asyncio.sleep(0.05)
        except BaseException:
            await self._kill()
            raise

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.said.append(line.decode())
            found = re.search(r'msg="Listening on".* address=(\S+)', self.said[-1])
            if found and not self._address.done():
                self._address.set_result(found[1])
        if not self._address.done():
            self._address.set_exception(RuntimeError("".join(self.said)))

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self._kill()

    async def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading


class Alertmanager(_Program):
    """Sends what its `config` says to webhooks: those of the receiver `name` to `url`/name."""

    def __init__(self, directory: Path, config: Json, url: str, receivers: Iterable[str]) -> None:
        super().__init__("alertmanager", ALERTMANAGER, directory)
        hooks = {name: [{"url": f"{url}/{name}", "send_resolved": True}] for name in receivers}
        made = [{"name": name, "webhook_configs": each} for name, each in hooks.items()]
        at_once = {"group_wait": "0s", "group_interval": "1s"}
        self._what = {**config, "route": {**config["route"], **at_once}, "receivers": made}

    async def __aenter__(self) -> Self:
        await self._start(self._what, f"--storage.path={self._data}", "--cluster.listen-address=")
        return self


class Prometheus(_Program):
    """Scrapes `targets` (labels by URL, by job) each second; `more` is further configuration.

    It evaluates rules twice as often, keeps exemplars and takes remote writes.
    """

    def __init__(
        self, directory: Path, targets: Mapping[str, Mapping[str, dict[str, str]]], **more: Json
    ) -> None:
        super().__init__("prometheus", PROMETHEUS, directory)
        scraped = [
            {
                "job_name": job,
                "static_configs": [
                    {"targets": [url.removeprefix("http://")], "labels": labels}
                    for url, labels in those.items()
                ],
            }
            for job, those in targets.items()
        ]
        pace = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"}
        self._what = {"global": pace, "scrape_configs": scraped, **more}

    async def __aenter__(self) -> Self:
        await self._start(
            self._what,
            f"--storage.tsdb.path={self._data}",
            "--enable-feature=exemplar-storage",
            "--web.enable-remote-write-receiver",
        )
        return self

    async def get(self, path: str, **parameters: str) -> Json:
        """`data` of an answer of its API."""
        response = await self.client.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    async def query(self, query: str) -> Json:
        """An instant vector."""
        return (await self.get("query", query=query))["result"]

    async def until(self, query: str) -> Json:
        """Wait until the query gives something."""
        async with asyncio.timeout(TIMEOUT):
            while not (found := await self.query(query)):  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.1)
        return found
