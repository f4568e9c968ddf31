"""`dub5 config check` beyond the file: what would stop `serve` is an error, what is only not here is a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import certifi
import pytest

from dub5.cli import preflight
from dub5.cli.main import main
from dub5.errors import ConfigError
from dub5.settings.loader import convert

Json = dict[str, Any]

DIGEST = "a" * 64


def openai(**written: Any) -> Json:
    models = {"m": {"routes": ["acme/x"]}}
    return {"providers": {"acme": {"kind": "openai", **written}}, "models": models, "personalities": {}}


def check(written: Json, **environment: str) -> list[str]:
    return preflight.check(convert(written), environment)


def refusal(written: Json, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check(written, **environment)
    return caught.value.message


def test_nothing_to_say() -> None:
    assert check({}) == []
    assert check(openai(api_key={"env": "KEY"}, ca_file=certifi.where()), KEY="k") == []


def test_each_secret_that_is_not_here_is_a_warning(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    written = openai(
        api_key={"env": "KEY"},
        secret_headers={"x-gateway": {"env": "GATEWAY"}},
        proxy="http://proxy:3128",
        proxy_username="me",
        proxy_password={"file": nowhere},
    ) | {
        "auth": {"keys": {"env": "KEYS"}},
        "redis": {"url": "rediss://cache", "password": {"env": "PASSWORD"}},
    }
    warned = check(written, GATEWAY=" ")
    assert [each.partition(":")[0] for each in warned] == [
        "providers.acme.api_key",
        "providers.acme.secret_headers.x-gateway",
        "providers.acme.proxy_password",
        "auth.keys",
        "redis.password",
    ]
    assert warned[0] == (
        "providers.acme.api_key: the environment variable KEY is not set here, and serve does not start without it"
    )
    assert warned[2] == (
        f"providers.acme.proxy_password: there is no file {nowhere!r} here, and serve does not start without it"
    )


@pytest.mark.parametrize(
    ("written", "environment", "message"),
    [
        (openai(api_key={"file": "EMPTY"}), {}, "providers.acme.api_key: the file EMPTY is empty"),
        (
            openai(api_key={"file": "FOLDER"}),
            {},
            "providers.acme.api_key: cannot read FOLDER: IsADirectoryError",
        ),
        (
            openai(api_key={"env": "KEY"}),
            {"KEY": "zwölf"},
            "providers.acme.api_key: must be one line of printable ASCII",
        ),
        (
            openai(api_key={"env": "KEY"}, secret_headers={"X-Gateway": {"env": "GATEWAY"}}),
            {"KEY": "k", "GATEWAY": "one\ntwo"},
            "providers.acme.secret_headers.X-Gateway: must be one line of printable ASCII",
        ),
        (
            openai(ca_file="EMPTY"),
            {},
            "providers.acme.ca_file: cannot read EMPTY: holds no certificates in PEM",
        ),
        (
            {"personalities": {"p": {"messages": [{"role": "narrator"}]}}},
            {},
            "personalities.p.messages[0].role: Invalid enum value 'narrator'",
        ),
        (openai(ca_file="NOWHERE"), {}, "providers.acme.ca_file: cannot read NOWHERE: FileNotFoundError"),
        (
            openai(),
            {"HTTPS_PROXY": "socks5h://me:hidden@proxy:1080"},
            (
                "providers.acme.proxy: the environment variable HTTPS_PROXY: must be a proxy at http:// or https://; "
                "others, such as socks5://, are not known here"
            ),
        ),
        ({"auth": {"keys": {"file": "EMPTY"}}}, {}, "auth.keys: the file EMPTY is empty"),
        (
            {"auth": {"keys": {"env": "KEYS"}}},
            {"KEYS": f"{DIGEST}: {{roles: [chat]}}"},
            (
                "auth.keys: aaaaaaaa…: needs `tenant` (letters, digits, . _ -), and may have `roles`, `models` "
                "and `expires`"
            ),
        ),
        (
            {"redis": {"url": "rediss://cache", "ca_file": "NOWHERE"}},
            {},
            "redis.ca_file: cannot read NOWHERE: FileNotFoundError",
        ),
    ],
)
def test_what_is_here_and_cannot_be_used_is_an_error(
    tmp_path: Path, written: Json, environment: dict[str, str], message: str
) -> None:
    (tmp_path / "empty").touch()
    paths = {"EMPTY": str(tmp_path / "empty"), "FOLDER": str(tmp_path), "NOWHERE": str(tmp_path / "nowhere")}

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(each) for key, each in value.items()}
        return paths.get(value, value) if isinstance(value, str) else value

    for name, path in paths.items():
        message = message.replace(name, repr(path))
    assert refusal(placed(written), **environment) == message


def test_a_bundle_that_the_environment_names_and_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere"))
    assert refusal(openai()).startswith("SSL_CERT_FILE: cannot read ")


def test_a_variable_of_tracing_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check({"telemetry": {"tracing": True}}) == []
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    assert refusal({"telemetry": {"tracing": True}}).startswith("telemetry.tracing: an OTEL_* variable")


def test_tracing_without_its_library_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    assert check({"telemetry": {"tracing": True}}) == [
        "telemetry.tracing: the extra `otel` is not installed here, and serve does not start without it"
    ]


def test_the_command_warns_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KEY", raising=False)
    path = tmp_path / "dub5.yaml"
    path.write_text(
        "providers: {acme: {kind: openai, api_key: {env: KEY}}}\nmodels: {m: {routes: [acme/x]}}\n"
        "personalities: {p: {}, q: {}}\n"
    )
    assert main(["config", "check", str(path)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{path}: good. 1 provider, 1 model, 2 personalities.\n"
    assert said.err.count("\n") == 1
    assert said.err.startswith(
        "dub5: warning: providers.acme.api_key: the environment variable KEY is not set"
    )
