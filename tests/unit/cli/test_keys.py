"""`dub5 keys`: what the file has afterwards, and that nothing else in it is lost."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dub5.admission.keys import Caller, parse_keys
from dub5.cli.main import main

A, B = (hashlib.sha256(name.encode()).hexdigest() for name in "ab")
FILES = {
    "one line each": (
        f"# Ours\n{A}: {{tenant: acme}}  # a shop\n\n# Theirs\n{B}: {{tenant: other, roles: [admin]}}\n"
    ),
    "blocks": f"{A}:\n  tenant: acme\n  roles:\n    - chat\n# Theirs\n{B}:\n  tenant: other\n  roles: [admin]\n",
    "no line feed at the end": f'"{A}": {{tenant: acme}}\n"{B}": {{tenant: other, roles: [admin]}}',
    "one line in all": f"{{{A}: {{tenant: acme}}, {B}: {{tenant: other, roles: [admin]}}}}\n",
    "indented": f" {A}: {{tenant: acme}}\n {B}: {{tenant: other, roles: [admin]}}\n",
    "in upper case": f"{A.upper()}: {{tenant: acme}}\n{B.upper()}: {{tenant: other, roles: [admin]}}\n",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "keys.yaml"


def callers(text: str) -> dict[str, Caller]:
    return {digest.hex(): caller for digest, caller in parse_keys(text)}


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["keys", "new", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_a_key_is_made_and_shown_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = made(capsys, "--tenant", "acme")
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert callers(here.read_text()) == {digest: Caller("acme", digest, frozenset({"chat"}))}
    assert key not in here.read_text()
    assert main(["keys", "list"]) == 0
    assert key not in capsys.readouterr().out
    assert made(capsys, "--tenant", "acme") != key
    assert len(callers(here.read_text())) == 2


def test_all_that_a_key_may_have(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--role", "chat", "--role", "tenant_admin", "--model", "router/*", "--model", "yes"]
    made(capsys, "--tenant", "acme", *arguments, "--expires", "2999-01-31")
    (caller,) = callers(here.read_text()).values()
    assert caller.roles == {"chat", "tenant_admin"}
    assert (caller.models, caller.expires) == (("router/*", "yes"), 32_474_736_000)
    assert main(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    for word in (caller.key_id, "acme", "chat,tenant_admin", "router/*,yes", "2999-01-31T00:00:00Z"):
        assert word in shown
    assert caller.identity not in shown


@pytest.mark.parametrize("name", FILES)
def test_a_new_key_leaves_the_others_as_they_are(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = FILES[name]
    here.write_text(before)
    here.chmod(0o640)
    key = made(capsys, "--tenant", "new")
    after = callers(here.read_text())
    assert after.pop(hashlib.sha256(key.encode()).hexdigest()).tenant == "new"
    assert after == callers(before)
    assert here.stat().st_mode & 0o777 == 0o640
    if name not in {"one line in all", "indented"}:
        assert here.read_text().startswith(before)
    assert [path.name for path in here.parent.iterdir()] == ["keys.yaml"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("revoked", "kept"), [(A, B), (B, A)])
def test_a_revoked_key_is_gone_and_no_other(here: Path, name: str, revoked: str, kept: str) -> None:
    here.write_text(FILES[name])
    assert main(["keys", "revoke", revoked[:8].upper()]) == 0
    assert callers(here.read_text()) == {kept: callers(FILES[name])[kept]}
    assert ("# Theirs" in here.read_text()) is ("# Theirs" in FILES[name])


def test_a_link_leads_to_the_file_that_is_changed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = here.with_name("real.yaml")
    real.write_text(FILES["blocks"])
    here.symlink_to(real)
    made(capsys, "--tenant", "new")
    assert here.is_symlink()
    assert len(callers(real.read_text())) == 3


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (FILES["blocks"], ["revoke", "1" * 8]),
        (FILES["blocks"], ["revoke", A[:7]]),
        (FILES["blocks"], ["revoke", A[:8], B[:8]]),  # the service would go on with both
        (f"{A}: {{tenant: acme}}\n{A[:60]}0000: {{tenant: b}}\n", ["revoke", A[:8]]),
        ("nonsense", ["new", "--tenant", "acme"]),
        ("- a", ["list"]),
        (f"{A}: {{tenant: acme}}\n{A.upper()}: {{tenant", ["revoke", A[:8]]),
        (None, ["list"]),
        (None, ["revoke", A[:8]]),
        (None, ["new", "--tenant", "a", *(["--model", "x"] * 1001)]),
    ],
)
def test_what_cannot_be_done_leaves_the_file_as_it_was(
    here: Path, text: str | None, arguments: list[str]
) -> None:
    if text is not None:
        here.write_text(text)
    assert main(["keys", *arguments]) == 1
    assert (here.read_text() if here.exists() else None) == text
    assert [path for path in here.parent.iterdir() if path != here] == []


def test_a_second_command_waits_its_turn(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here.with_name("keys.yaml.new").touch()
    assert main(["keys", "new", "--tenant", "acme"]) == 1
    assert "keys.yaml.new" in capsys.readouterr().err
    assert not here.exists()


@pytest.mark.parametrize("name", FILES)
def test_the_secret_has_the_whole_file(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    here.write_text(FILES[name])
    printed = made(capsys, "--tenant", "new", "--secret", "dub5-callers", "--namespace", "chat")
    secret: dict[str, Any] = yaml.safe_load(printed)
    assert (secret["kind"], secret["metadata"]) == ("Secret", {"name": "dub5-callers", "namespace": "chat"})
    assert callers(secret["stringData"]["keys.yaml"]) == callers(here.read_text())
    assert len(callers(here.read_text())) == 3
    assert main(["keys", "revoke", A[:8], "--secret", "dub5-callers"]) == 0
    secret = yaml.safe_load(capsys.readouterr().out)
    assert A not in callers(secret["stringData"]["keys.yaml"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--tenant", "a b"],
        ["--tenant", "a", "--role", "king"],
        ["--tenant", "a", "--expires", "soon"],
        ["--tenant", "a", "--expires", "2027-02-30"],
        ["--tenant", "a", "--expires", "2020-01-31"],
        ["--tenant", "a", "--model", "x**y"],
    ],
)
def test_wrong_usage(here: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", "new", *arguments])
    assert ended.value.code == 2
    assert not here.exists()
