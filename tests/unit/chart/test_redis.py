"""The bundled Redis: its command line, tried on a real server."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

import pytest
import redis as redis_py

from testkit.chart import merged
from tests.unit.chart.support import nested, render

OWN = {"mode": "external", "external": {"url": "redis://a"}}
NAMED = nested("redis.bundled.image.digest", f"sha256:{'a' * 64}")


def test_there_is_one_of_it_that_keeps_nothing() -> None:
    spec = render().one("StatefulSet", "dub5-redis")["spec"]
    assert spec["replicas"] == 1
    assert "volumeClaimTemplates" not in spec
    assert "dub5-redis" not in render(nested("redis", OWN)).of("StatefulSet")


def test_a_real_server_takes_its_arguments(tmp_path: Path) -> None:
    container = render(nested("redis.bundled.maxmemory", "64mb")).pods()["dub5-redis"]["containers"][0]
    given = [argument.replace("$(REDIS_PASSWORD)", "secret word") for argument in container["args"]]
    place = tmp_path / "redis.sock"
    command = ["redis-server", *given, "--port", "0", "--unixsocket", str(place), "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            with _client(place, "secret word") as client:
                _wait(client)
                configured = client.config_get("*")
            with _client(place, None) as stranger, pytest.raises(redis_py.AuthenticationError):
                stranger.ping()
        finally:
            server.terminate()
    assert configured["maxmemory"] == str(64 * 2**20)
    assert configured["maxmemory-policy"] == "volatile-lfu"
    assert configured["save"] == ""
    assert configured["appendonly"] == "no"


def _client(place: Path, password: str | None) -> contextlib.closing[redis_py.Redis]:
    return contextlib.closing(redis_py.Redis(unix_socket_path=str(place), password=password))


def _wait(client: redis_py.Redis) -> None:
    for _ in range(500):
        with contextlib.suppress(redis_py.ConnectionError):
            client.ping()
            return
        time.sleep(0.01)  # it says nowhere else that its socket is there
    pytest.fail("redis-server did not start")


def test_its_image_and_program_can_be_another_ones() -> None:
    values = merged(NAMED, nested("redis.bundled.command", ["redis-server"]))
    container = render(values).pods()["dub5-redis"]["containers"][0]
    assert container["command"] == ["redis-server"]
    assert container["image"] == f"docker.io/valkey/valkey@sha256:{'a' * 64}"
