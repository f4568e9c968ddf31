"""Keys are known by digest, reloaded when the file changes, and never shown."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
import structlog

from dub5.admission import keys as keys_module
from dub5.admission.keys import ANONYMOUS, Caller, KeyRing, moment, parse_keys
from dub5.errors import ConfigError, Forbidden, InvalidKey, ModelNotAllowed
from dub5.process.threads import DaemonThreads
from dub5.settings.model import MAX_FILE, AuthSettings, Source
from dub5.telemetry.metrics import Metrics

T = TypeVar("T")

NESTED = "[&a [x, x], " + ", ".join(f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdef")) + "]"
"""A list that takes megabytes when it is written out."""


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def ring(path: Path, text: str, metrics: Metrics | None = None) -> KeyRing:
    path.write_text(text)
    return KeyRing(AuthSettings(keys=Source(file=str(path))), {}, metrics or Metrics())


def test_a_known_key_is_its_tenant(tmp_path: Path) -> None:
    keys = ring(tmp_path / "keys", f"{digest('secret')}: {{tenant: acme, roles: [chat, tenant_admin]}}")
    for header in ("Bearer secret", "bearer secret", "Bearer  secret "):
        caller = keys.authenticate(header)
        assert (caller.tenant, caller.roles) == ("acme", {"chat", "tenant_admin"})
        assert caller.key_id == digest("secret")[:8]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic secret", "secret", "Bearer \udcff"]
)
def test_anything_else_is_refused_without_repeating_it(tmp_path: Path, header: str) -> None:
    keys = ring(tmp_path / "keys", f"{digest('secret')}: {{tenant: acme}}")
    with pytest.raises(InvalidKey) as caught:
        keys.authenticate(header)
    assert "wrong" not in caught.value.message
    assert "secret" not in caught.value.message


def test_what_was_sent_before_is_recognised_as_long_as_its_key_holds(tmp_path: Path) -> None:
    now, read = [0.0], []

    def reads(header: str) -> Callable[[], str]:
        def authorization() -> str:
            read.append(header)
            return header

        return authorization

    path = tmp_path / "keys"
    path.write_text(f"{digest('a')}: {{tenant: x}}\n{digest('b')}: {{tenant: y, expires: 1970-01-02}}")
    settings = AuthSettings(keys=Source(file=str(path)))
    keys = KeyRing(settings, {}, Metrics(), clock=lambda: now[0])
    for _ in range(2):
        assert keys.recognise(b"1", reads("Bearer a")).tenant == "x"
        assert keys.recognise(b"2", reads("Bearer b")).tenant == "y"
        with pytest.raises(InvalidKey):
            keys.recognise(b"3", reads("Bearer c"))
    assert read == ["Bearer a", "Bearer b", "Bearer c", "Bearer c"]
    now[0] = 86400.0
    with pytest.raises(InvalidKey, match="expired"):
        keys.recognise(b"2", reads("Bearer b"))
    path.write_text(f"{digest('b')}: {{tenant: z}}")
    asyncio.run(keys.reload_if_changed())
    assert keys.recognise(b"2", reads("Bearer b")).tenant == "z"
    with pytest.raises(InvalidKey):
        keys.recognise(b"1", reads("Bearer a"))


def test_the_digest_itself_is_no_key(tmp_path: Path) -> None:
    keys = ring(tmp_path / "keys", f"{digest('secret')}: {{tenant: acme}}")
    with pytest.raises(InvalidKey):
        keys.authenticate(f"Bearer {digest('secret')}")


def test_roles_are_required_and_admin_may_do_everything(tmp_path: Path) -> None:
    keys = ring(
        tmp_path / "keys",
        f"{digest('a')}: {{tenant: x, roles: [admin]}}\n{digest('c')}: {{tenant: x, roles: [chat]}}",
    )
    keys.authenticate("Bearer a").require("chat")
    with pytest.raises(Forbidden, match="tenant_admin"):
        keys.authenticate("Bearer c").require("tenant_admin")


@pytest.mark.parametrize(
    ("written", "allowed", "refused"),
    [
        ("", ["a", "", "b/c"], []),
        (", models: [small]", ["small"], ["smal", "smaller", "SMALL", "", "small\n"]),
        (", models: [a, b/c]", ["a", "b/c"], ["b", "c", "a|b/c"]),
        (
            ", models: ['router/*']",
            ["router/x", "router/x/y", "router/", "router/x\ny"],
            ["router", "x/router/y"],
        ),
        (", models: ['*:free']", ["a:free", ":free"], ["a:freed", "a"]),
        (", models: ['*']", ["a", ""], []),
        (", models: ['a.b']", ["a.b"], ["aXb"]),
    ],
)
def test_a_key_may_use_the_models_that_its_patterns_name(
    tmp_path: Path, written: str, allowed: list[str], refused: list[str]
) -> None:
    keys = ring(tmp_path / "keys", f"{digest('k')}: {{tenant: x, roles: [admin]{written}}}")
    caller = keys.authenticate("Bearer k")
    for model in allowed:
        caller.require_model(model)
    for model in refused:
        with pytest.raises(ModelNotAllowed) as caught:
            caller.require_model(model)
        assert (caught.value.status, caught.value.code) == (403, "model_not_allowed")


@pytest.mark.parametrize(
    ("written", "last"),
    [
        ("2027-01-31", "2027-01-30T23:59:59Z"),
        ("'2027-01-31'", "2027-01-30T23:59:59Z"),
        ("2027-01-31T12:00:00Z", "2027-01-31T11:59:59Z"),
        ("'2027-01-31T12:00:00Z'", "2027-01-31T11:59:59Z"),
        ("2027-01-31 12:00:00", "2027-01-31T11:59:59Z"),
        ("2027-01-31T12:00:00+02:00", "2027-01-31T09:59:59Z"),
    ],
)
def test_a_key_expires(tmp_path: Path, written: str, last: str) -> None:
    now = moment(last)
    (tmp_path / "keys").write_text(f"{digest('k')}: {{tenant: x, expires: {written}}}")
    keys = KeyRing(AuthSettings(keys=Source(file=str(tmp_path / "keys"))), {}, Metrics(), clock=lambda: now)
    assert keys.authenticate("Bearer k").tenant == "x"
    now += 1
    with pytest.raises(InvalidKey, match="expired at 2027-01-31T"):
        keys.authenticate("Bearer k")


@pytest.mark.parametrize(
    "more",
    [
        *("models: []", "models: small", "models: [1]", "models: ['']", "models: ['a*b*c']"),
        *(f"models: [{'x' * 201}]", f"models: [{', '.join(map(str, 'x' * 101))}]"),
        *(
            "expires: soon",
            "expires: 7",
            "expires: true",
            "expires: []",
            "expires: 90d",
            "expire: 2027-01-31",
            "expires: 0001-01-01T00:00:00+10:00",
            "expires: 9999-12-31T23:00:00-10:00",
        ),
    ],
)
def test_what_no_key_can_have_is_refused(more: str) -> None:
    with pytest.raises(ConfigError, match=r"^auth.keys: [0-9a-f]{8}…: "):
        parse_keys(f"{digest('k')}: {{tenant: x, {more}}}")


def test_without_keys_everybody_is_anonymous() -> None:
    assert KeyRing(AuthSettings(), {}, Metrics()).authenticate("Bearer whatever") is ANONYMOUS


def test_keys_may_come_from_the_environment() -> None:
    environment = {"KEYS": f"{digest('e')}: {{tenant: acme}}"}
    keys = KeyRing(AuthSettings(keys=Source(env="KEYS")), environment, Metrics())
    assert keys.authenticate("Bearer e").tenant == "acme"


def test_a_changed_file_takes_effect_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = ring(path, f"{digest('old')}: {{tenant: acme}}")
    path.with_suffix(".new").write_text(f"{digest('new')}: {{tenant: acme}}")
    path.with_suffix(".new").rename(path)
    asyncio.run(keys.reload_if_changed())
    assert keys.authenticate("Bearer new").tenant == "acme"
    with pytest.raises(InvalidKey):
        keys.authenticate("Bearer old")
    path.write_text("not: [a keys file")
    asyncio.run(keys.reload_if_changed())
    assert keys.authenticate("Bearer new").tenant == "acme"
    path.unlink()
    asyncio.run(keys.reload_if_changed())
    assert keys.authenticate("Bearer new").tenant == "acme"


def test_whether_the_last_change_was_taken_is_a_metric(tmp_path: Path) -> None:
    path, metrics = tmp_path / "keys", Metrics()
    good = f"{digest('good')}: {{tenant: acme}}"
    keys = ring(path, good, metrics)

    def loaded() -> float | None:
        asyncio.run(keys.reload_if_changed())
        return metrics.registry.get_sample_value("dub5_keys_last_reload_successful")

    assert loaded() == 1
    path.write_text("not: [a keys file")
    assert [loaded(), loaded()] == [0, 0]  # though it is not read a second time
    path.write_text(good + " ")
    assert loaded() == 1
    path.unlink()
    assert loaded() == 0
    path.write_text(good)
    assert loaded() == 1


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path, metrics = tmp_path / "keys", Metrics()
    good = f"{digest('good')}: {{tenant: acme}}"
    keys = ring(path, good, metrics)
    path.unlink()
    os.mkfifo(path)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            asyncio.run(keys.reload_if_changed())
    assert [line["reason"] for line in logs] == [
        f"auth.keys: cannot read {str(path)!r}: it is no regular file"
    ]
    assert metrics.registry.get_sample_value("dub5_keys_last_reload_successful") == 0
    path.unlink()
    path.write_text(f"{digest('new')}: {{tenant: acme}}")
    asyncio.run(keys.reload_if_changed())
    assert keys.authenticate("Bearer new").tenant == "acme"
    assert metrics.registry.get_sample_value("dub5_keys_last_reload_successful") == 1


def test_a_reading_that_hangs_is_logged_and_holds_up_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, metrics, over = tmp_path / "keys", Metrics(), threading.Event()
    keys = ring(path, f"{digest('old')}: {{tenant: acme}}", metrics)
    path.write_text(f"{digest('late')}:  {{tenant: acme}}")

    def hang(path: str, flags: int) -> int:
        over.wait()
        return os.open(path, flags)

    with monkeypatch.context() as patched:
        patched.setattr(keys_module, "_READ_TIMEOUT", 0.01)
        patched.setattr(keys_module, "_without_waiting", hang)
        with structlog.testing.capture_logs() as logs:
            asyncio.run(keys.reload_if_changed())
    assert [line["event"] for line in logs] == ["keys not reloaded"]
    assert metrics.registry.get_sample_value("dub5_keys_last_reload_successful") == 0
    assert keys.authenticate("Bearer old").tenant == "acme"
    path.write_text(f"{digest('new')}: {{tenant: acme}}")
    asyncio.run(keys.reload_if_changed())
    over.set()
    assert keys.authenticate("Bearer new").tenant == "acme"
    assert metrics.registry.get_sample_value("dub5_keys_last_reload_successful") == 1


def test_a_file_that_could_not_be_read_for_a_while_is_well_again_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, metrics = tmp_path / "keys", Metrics()
    keys = ring(path, f"{digest('old')}: {{tenant: acme}}", metrics)
    path.write_text(f"{digest('new')}: {{tenant: acme}}")

    def short(path: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(keys_module, "_without_waiting", short)
        asyncio.run(keys.reload_if_changed())
    assert metrics.registry.get_sample_value("dub5_keys_last_reload_successful") == 0
    asyncio.run(keys.reload_if_changed())
    assert keys.authenticate("Bearer new").tenant == "acme"
    assert metrics.registry.get_sample_value("dub5_keys_last_reload_successful") == 1


def test_a_file_that_is_too_large_is_logged_once_and_changes_nothing(tmp_path: Path) -> None:
    path, metrics = tmp_path / "keys", Metrics()
    good = f"{digest('good')}: {{tenant: acme}}"
    keys = ring(path, good, metrics)
    os.truncate(path, 400 * 2**20)
    tracemalloc.start()
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            asyncio.run(keys.reload_if_changed())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_FILE
    assert [line["reason"] for line in logs] == [f"auth.keys: {str(path)!r} is larger than 8 MiB"]
    assert keys.authenticate("Bearer good").tenant == "acme"
    with pytest.raises(ConfigError, match="is larger than 8 MiB"):
        KeyRing(AuthSettings(keys=Source(file=str(path))), {}, Metrics())
    path.write_text(f"{digest('new')}: {{tenant: acme}}")
    asyncio.run(keys.reload_if_changed())
    assert keys.authenticate("Bearer new").tenant == "acme"


def test_only_the_reading_has_a_time_limit_and_not_what_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float | None] = []
    limits_while_parsing: list[float | None] = []

    class Recording(DaemonThreads):
        async def read(self, read: Callable[[], T], timeout: float | None) -> T:
            limits.append(timeout)
            return await super().read(read, timeout)

    def parse(text: str) -> list[tuple[bytes, Caller]]:
        limits_while_parsing.append(limits[-1] if limits else None)
        return parse_keys(text)

    monkeypatch.setattr(keys_module, "DaemonThreads", Recording)
    monkeypatch.setattr(keys_module, "parse_keys", parse)
    path = tmp_path / "keys"
    keys = ring(path, f"{digest('old')}: {{tenant: acme}}")
    path.write_text(f"{digest('new')}:  {{tenant: acme}}")
    asyncio.run(keys.reload_if_changed())
    assert keys.authenticate("Bearer new").tenant == "acme"
    assert limits[0] is not None
    assert limits_while_parsing == [None, None]  # at the start, and now


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "sk-live-in-the-clear: {tenant: acme}",
        f"{'a' * 64}: acme",
        f"{'a' * 64}: {{}}",
        f"{'a' * 64}: {{tenant: 'two words'}}",
        f"{'a' * 64}: {{tenant: acme, roles: [root]}}",
        f"{'a' * 64}: {{tenant: acme, roles: []}}",
        f"{'a' * 64}: {{tenant: acme, rolls: [chat]}}",
        f"{'a' * 64}: {{tenant: acme, roles: {NESTED}}}",
    ],
)
def test_a_keys_file_in_error_says_where_and_repeats_no_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"auth\.keys") as caught:
        parse_keys(text)
    assert "sk-live" not in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        f'"{"AB" * 32}": {{tenant: acme}}\n"{"ab" * 32}": {{tenant: other}}',
        f"{'9' * 64}: {{tenant: acme}}\n'{'9' * 64}': {{tenant: other}}",
        f"{'ab' * 32}: {{tenant: acme}}\n{'ab' * 32}: {{tenant: other}}",
    ],
)
def test_one_key_has_one_tenant_however_it_is_spelled(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^auth\.keys: .*written twice"):
        parse_keys(text)
