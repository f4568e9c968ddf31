"""The operator's way to Redis, for `dub5 operator` and `dub5 policy`: as the service has it, with more time."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dub5.errors import ConfigError
from dub5.redis.client import Client, connect
from dub5.redis.link import bounded
from dub5.settings.model import Settings, read_secret

TIMEOUT = 2.0
"""Seconds for one answer of Redis: no request waits for the operator, and a page of samples is large."""


def client_of(settings: Settings, environment: Mapping[str, str]) -> Client:
    """No connection is made yet. ConfigError where no Redis is configured."""
    redis = settings.redis
    if redis is None:
        raise ConfigError(
            "The operator reads and writes the service's Redis: name the service's file by --config, or its redis.url "
            "by DUB5_REDIS__URL."
        )
    password = None
    if redis.password is not None:
        password = read_secret("redis.password", redis.password, dict(environment))
    unhurried = msgspec.structs.replace(redis, timeout=type(redis.timeout)(TIMEOUT))
    return bounded(connect(unhurried, password))
