"""What `dub5 config check` tries beyond the file: all that `dub5 serve` would make of it, without serving.

The file may be checked elsewhere than where it will be used. So a secret that is not there is a warning; one that is
there and cannot be used is an error, as is everything else that would stop `serve`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from dub5 import providers
from dub5.admission.keys import parse_keys
from dub5.chat.personalities import compile_all
from dub5.providers.http import trusted
from dub5.redis.client import connect
from dub5.settings.model import Settings, Source, read_secret
from dub5.telemetry.record import build_tracer

_STAND_IN = "absent"


def check(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """Warnings, each a sentence. ConfigError where `serve` could not start. Not to be called in an event loop."""
    warnings: list[str] = []

    def read(where: str, source: Source) -> str:
        missing = _missing(source, environment)
        if missing is None:
            return read_secret(where, source, environment)
        warnings.append(f"{where}: {missing} here, and serve does not start without it")
        return _STAND_IN

    providers.build(settings, environment, read)
    compile_all(settings.personalities, settings.default_model)
    if settings.auth.keys is not None:
        text = read("auth.keys", settings.auth.keys)
        if text != _STAND_IN:
            parse_keys(text)
    _check_redis(settings, read)
    if settings.telemetry.tracing and find_spec("opentelemetry") is None:
        warnings.append(
            "telemetry.tracing: the extra `otel` is not installed here, and serve does not start without it"
        )
    else:
        asyncio.run(build_tracer(settings.telemetry).stop())
    return warnings


def _missing(source: Source, environment: Mapping[str, str]) -> str | None:
    if source.env is not None:
        there = bool(environment.get(source.env, "").strip())
        return None if there else f"the environment variable {source.env} is not set"
    return None if _exists(source.file or "") else f"there is no file {source.file!r}"


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # there may be something: reading it says why not
        return True


def _check_redis(settings: Settings, read: providers.Read) -> None:
    redis = settings.redis
    if redis is None:
        return
    password = None if redis.password is None else read("redis.password", redis.password)
    if redis.ca_file is not None:
        trusted("redis.ca_file", redis.ca_file)
    connect(redis, password)
