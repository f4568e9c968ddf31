"""The servers that are measured: ours, the peers, the floors. Each runs alone on the server's core.

A peer is installed from its registry, in one pinned version, into an environment of its own outside the work tree
(`DUB5_BENCH_CACHE`, else `~/.cache/dub5-bench`), and is configured as its documentation advises for production. One
process, one core, no database.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import string
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.figures import progress
from benchmarks.gateways.cores import SERVER, pinned
from testkit.processes import free_port
from testkit.service import configuration

OTHERS = {"Portkey", "LiteLLM", "LiteLLM, Rust", "nginx", "bare uvicorn"}
LITELLM, PORTKEY = "1.106.2", "1.15.2"
_HONO = "1.13.8"
"""Of @hono/node-server: this Portkey takes any 1.x, but with newer ones it answers each stream with status 500."""

_STARTING, _ENDING = 300.0, 10.0
"""Seconds that a server may take to answer, and to leave."""


class Missing(RuntimeError):
    """A contestant that cannot run here; the message says why."""


class Running(msgspec.Struct, frozen=True):
    """A server that answers. `started` is how many seconds after its start it did."""

    name: str
    url: str
    pid: int
    headers: Mapping[str, str]
    started: float

    @property
    def host(self) -> str:
        return self.url.partition("//")[2]


class Contestant(msgspec.Struct, frozen=True):
    """How to start one: `command(folder, port)` may write its configuration into `folder`.

    `ready` is the path that answers with 200 when it may be used, on `port` or, where given, `ready_port`.
    """

    name: str
    command: Callable[[Path, int], list[str]]
    ready: str
    environment: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    ready_port: int | None = None

    @asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator[Running]:
        """Started, and stopped at the end; its output goes to `folder`."""
        port = free_port()
        here = folder / self.name.replace(" ", "-")
        here.mkdir(exist_ok=True)
        command = self.command(here, port)
        with (here / "output").open("wb") as output, pinned(SERVER):
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *command,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=output,
                env={**os.environ, **self.environment},
            )
        try:
            await self._until_ready(process, port, here / "output")
            yield Running(
                self.name, f"http://127.0.0.1:{port}", process.pid, self.headers, time.monotonic() - began
            )
        finally:
            await _stop(process)

    async def _until_ready(self, process: asyncio.subprocess.Process, port: int, output: Path) -> None:
        url = f"http://127.0.0.1:{self.ready_port or port}{self.ready}"
        async with aiohttp.ClientSession() as session, asyncio.timeout(_STARTING):
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.005)
        said = await asyncio.to_thread(output.read_text, errors="replace")
        raise Missing(f"{self.name} did not start: {said[-500:]}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            process.send_signal(number)
            async with asyncio.timeout(_ENDING):
                await process.wait()
                return


def dub5(
    name: str,
    provider: str,
    *,
    redis: int | None,
    pace: str = "",
    keys: Mapping[str, Any] | None = None,
    python: str = sys.executable,
    **sections: Any,
) -> Contestant:
    """Ours, `redis` by its port; sections of the configuration are added or replace.

    `keys` are tenants and what else a key has, by the key; `python` is the interpreter of another commit's environment.
    """
    operations = free_port()

    def command(folder: Path, port: int) -> list[str]:
        url = f"redis://127.0.0.1:{redis}" if redis is not None else None
        settings = configuration(f"{provider}{pace}/v1", url, **sections)
        if keys is not None:
            file = folder / "keys.json"
            digests = {hashlib.sha256(key.encode()).hexdigest(): about for key, about in keys.items()}
            file.write_text(json.dumps(digests), encoding="utf-8")
            settings["auth"] = {"keys": {"file": str(file)}}
        settings["server"] = {"port": port, "operations_port": operations}
        settings["drain"] = {"linger": "0s"}
        config = folder / "dub5.yaml"
        config.write_text(json.dumps(settings), encoding="utf-8")
        return [python, "-m", "dub5", "serve", "--config", str(config)]

    return Contestant(name, command, "/readyz", ready_port=operations)


def uvicorn() -> Contestant:
    """The floor of a hit."""
    return Contestant(
        "bare uvicorn",
        lambda _, port: [sys.executable, "-m", "benchmarks.gateways.floor", str(port)],
        "/",
    )


async def nginx(provider: str, _: str) -> Contestant:
    """The floor of passing through: one worker, connections to the provider kept."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise Missing("nginx is not installed (sudo apt-get install nginx-light)")

    def command(folder: Path, port: int) -> list[str]:
        text = string.Template(Path(__file__).with_name("nginx.conf").read_text(encoding="utf-8"))
        filled = text.substitute(folder=folder, port=port, provider=provider.partition("//")[2])
        (folder / "nginx.conf").write_text(filled, encoding="utf-8")
        return [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]

    return Contestant("nginx", command, "/")


async def litellm(provider: str, pace: str = "", *, rust: bool = False) -> Contestant:
    """One worker, no database, no cache, quiet. `rust`: by its core in Rust, for Messages to Anthropic only."""
    program = await python_package(f"litellm-{LITELLM}", [f"litellm[proxy]=={LITELLM}"], "litellm")

    def command(folder: Path, port: int) -> list[str]:
        model: dict[str, Any] = {"api_base": f"{provider}{pace}/v1", "api_key": "none"}
        model["model"] = "openai/benchmark"
        if rust:
            model |= {"model": "anthropic/benchmark", "api_base": f"{provider}{pace}", "rust": True}
        settings = {"model_list": [{"model_name": "small", "litellm_params": model}]}
        (folder / "litellm.yaml").write_text(json.dumps(settings), encoding="utf-8")
        return [
            str(program),
            *("--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)),
            *("--num_workers", "1", "--telemetry", "False"),
        ]

    return Contestant(
        "LiteLLM, Rust" if rust else "LiteLLM",
        command,
        "/health/liveliness",
        environment={
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no keys, as in the others
            **({"LITELLM_RUST": "true"} if rust else {}),
        },
    )


async def portkey(provider: str, pace: str = "") -> Contestant:
    """Told by headers whom to ask."""
    node, program = await _portkey()
    return Contestant(
        "Portkey",
        lambda _, port: [node, str(program), f"--port={port}", "--headless"],
        "/",
        environment={"NODE_ENV": "production"},
        headers={
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{provider}{pace}/v1",
            "authorization": "Bearer none",
        },
    )


def cache_folder() -> Path:
    """Where what is downloaded is kept."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DUB5_BENCH_CACHE") or Path(caches) / "dub5-bench")


async def python_package(folder: str, requirements: list[str], program: str) -> Path:
    """The path of a program from PyPI in a virtual environment of its own; Missing where it cannot be had."""
    home = cache_folder() / folder
    installed = home / "bin" / program
    if not (home / "complete").exists():
        progress(f"installing {', '.join(requirements)} into {home}")
        uv = str(Path(sys.executable).with_name("uv"))
        await _install(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home))
        python = str(home / "bin" / "python")
        await _install(uv, "pip", "install", "--quiet", "--python", python, *requirements)
        (home / "complete").touch()
    return installed


async def own_environment(interpreter: str) -> str:
    """Another interpreter, in an environment with what uv.lock names. Missing where it cannot be had."""
    root = Path(__file__).parents[2]
    lock = hashlib.sha256(b"\n".join([(root / "uv.lock").read_bytes(), bytes(root), interpreter.encode()]))
    home = cache_folder() / f"dub5-{lock.hexdigest()[:16]}"
    python = str(home / "bin" / "python")
    if not (home / "complete").exists():
        progress(f"setting up {interpreter} in {home}")
        uv, locked = str(Path(sys.executable).with_name("uv")), str(home / "locked.txt")
        install = (uv, "pip", "install", "--quiet", "--python", python)
        await _install(uv, "venv", "--quiet", "--clear", "--python", interpreter, str(home))
        export = ("export", "--quiet", "--frozen", "--no-emit-project", "--project", str(root))
        await _install(uv, *export, "--output-file", locked)
        await _install(*install, "--require-hashes", "--requirement", locked)
        await _install(*install, "--no-deps", "--editable", str(root))
        await _install(*install, f"uv=={version('uv')}")
        (home / "complete").touch()
    return python


async def _portkey() -> tuple[str, Path]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing("Node.js and npm are not installed")
    home = cache_folder() / f"portkey-{PORTKEY}-{_HONO}"
    if not (home / "complete").exists():
        progress(f"installing @portkey-ai/gateway {PORTKEY} into {home}")
        home.mkdir(parents=True, exist_ok=True)
        needs = {"@portkey-ai/gateway": PORTKEY, "@hono/node-server": _HONO}
        package = {"private": True, "dependencies": needs, "overrides": {"@hono/node-server": _HONO}}
        (home / "package.json").write_text(json.dumps(package), encoding="utf-8")
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        await _install(npm, "install", "--prefix", str(home), *quiet)
        (home / "complete").touch()
    return node, home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"


async def _install(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "UV_SYSTEM_CERTS": "true"},
    )
    _, said = await process.communicate()
    if process.returncode:
        raise Missing(f"{Path(command[0]).name} could not install it: {said.decode()[-300:].strip()}")
