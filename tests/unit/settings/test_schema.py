"""The schema says what the service says: about values, about defaults, and in the committed files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from dub5.errors import ConfigError
from dub5.settings.loader import convert, parse_yaml
from dub5.settings.model import Settings
from dub5.settings.schema import as_written, schema
from tests.settings_strategies import configurations

Json = dict[str, Any]

ROOT = Path(__file__).parents[3]
VALIDATOR = Draft202012Validator(schema())


def accepted(written: Json) -> bool:
    try:
        convert(written)
    except ConfigError:
        return False
    return True


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "server: {port: 0, max_body: 1 MiB, max_stream: 0.5}",
        "redis: {url: 'rediss://h', password: {env: PW}}",
        "redis: null",
        "providers: {demo: {kind: openai, api_key: {file: f}, headers: {a: b}, timeouts: {connect: 1s}}}",
        "auth: {keys: {env: K, file: null}}",
        "models: {m: {routes: [demo/x], price: {input: 1}}}",
        "personalities: {p: {stop: [a], locked: [seed], messages: [{role: user, content: hi}]}}",
        "cache: {classes: {c: {ttl: 1d, share: public, cacheable: never, max_temperature: 2}}}",
        "telemetry: {log_format: json}",
    ],
)
def test_both_accept(text: str) -> None:
    written = parse_yaml(text)
    VALIDATOR.validate(written)
    assert accepted(written)


@pytest.mark.parametrize(
    "text",
    [
        "x: 1",
        "server: null",
        "server: {prot: 1}",
        "server: {port: '1'}",
        "server: {port: 65536}",
        "server: {max_body: 1.5MiB}",
        "server: {max_body: -1}",
        "server: {max_stream: 10}\ndrain: {linger: -1}",
        "drain: {linger: '10'}",
        "drain: {linger: 1w}",
        "drain: {linger: 999999999}",
        "drain: {linger: true}",
        "redis: {timeout: 1ms}",
        "redis: {url: 'http://h'}",
        "providers: {demo: {}}",
        "providers: {demo: {kind: other}}",
        "providers: {demo: {kind: simulated, base_url: 'http://h'}}",
        "providers: {demo: {kind: simulated, tokens_per_second: 0}}",
        "providers: {demo: {kind: openai, base_url: h}}",
        "providers: {demo: {kind: openai, api_key: inline}}",
        "providers: {demo: {kind: openai, api_key: {}}}",
        "providers: {demo: {kind: openai, api_key: {env: A, file: b}}}",
        "providers: {demo: {kind: openai, headers: {a: 1}}}",
        "providers: {a b: {kind: simulated}}",
        "models: {}",
        "models: {m: {}}",
        "models: {m: {routes: []}}",
        "models: {m: {routes: demo/x}}",
        "personalities: {p: {temperature: 3}}",
        "personalities: {p: {locked: [mood]}}",
        "personalities: {p: {stop: [1]}}",
        "cache: {classes: {c: {share: all}}}",
        "auth: {anonymous: 1}",
    ],
)
def test_both_refuse(text: str) -> None:
    written = parse_yaml(text)
    assert not VALIDATOR.is_valid(written)
    assert not accepted(written)


@given(configurations())
def test_the_schema_refuses_nothing_that_the_service_takes(written: Json) -> None:
    if accepted(written):
        VALIDATOR.validate(written)


def test_each_optional_key_shows_its_default_as_people_write_it() -> None:
    definitions = schema()["$defs"]
    without = [
        f"{section}.{key}"
        for section, definition in definitions.items()
        for key, described in definition["properties"].items()
        if key not in definition["required"] and "default" not in described
    ]
    assert without == []
    assert definitions["ServerSettings"]["properties"]["max_body"]["default"] == "20MiB"
    assert definitions["Timeouts"]["properties"]["first_token"]["default"] == "5m"
    assert definitions["Settings"]["properties"]["providers"]["default"] == {"demo": {"kind": "simulated"}}


def test_the_defaults_shown_are_the_defaults() -> None:
    shown = {name: each["default"] for name, each in schema()["$defs"]["Settings"]["properties"].items()}
    VALIDATOR.validate(shown)
    assert convert(shown) == Settings()


@given(configurations())
def test_settings_written_out_read_back_the_same(written: Json) -> None:
    if accepted(written):
        settings = convert(written)
        assert convert(as_written(settings)) == settings


def test_every_key_is_described() -> None:
    definitions = schema()["$defs"]
    without = [
        f"{section}.{key}"
        for section, definition in definitions.items()
        for key, described in definition["properties"].items()
        if key != "kind" and not described.get("description")
    ]
    assert without == []


def test_generated_files_are_in_step() -> None:
    subprocess.run([sys.executable, "-m", "tools.generate", "--check"], cwd=ROOT, check=True)
