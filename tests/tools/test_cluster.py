"""What tools/cluster decides before it touches the machine."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from testkit.places import ROOT
from tools.cluster import host, images, main, programs
from tools.cluster.layout import Stop, nodes
from tools.cluster.programs import TOOLS, Tool

GO = Path(__file__).parents[2] / "tools/go"


def test_every_module_is_a_tool_and_every_tool_a_module() -> None:
    assert {path.name for path in GO.iterdir()} == {tool.folder.name for tool in TOOLS}


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if not tool.within], ids=lambda tool: tool.name)
def test_a_module_pins_all_that_is_built_from_it(tool: Tool) -> None:
    text = (tool.folder / "go.mod").read_text()
    named = set(re.findall(r"^(?:tool|\t)\s*(\S+)$", text, re.MULTILINE)) - {"("}
    assert set(tool.packages.values()) == named
    assert f"{tool.module} v{tool.version}/go.mod" in (tool.folder / "go.sum").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", tool.version)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_module_keeps_no_trace_of_a_machine(tool: Tool) -> None:
    assert "=> ." not in (tool.folder / "go.mod").read_text()
    assert "=> /" not in (tool.folder / "go.mod").read_text()


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """A module of our own, in another folder."""
    folder = tmp_path / "tools/go/etcd"
    folder.mkdir(parents=True)
    for file in ("go.mod", "go.sum"):
        (folder / file).write_bytes((GO / "etcd" / file).read_bytes())
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    return Tool("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"})


def test_programs_are_named_for_what_they_are_made_from(copied: Tool) -> None:
    before = copied.place
    assert before == copied.place
    module = copied.folder / "go.mod"
    module.write_text(module.read_text() + "\n// changed\n")
    assert copied.place != before


def test_a_program_of_our_own_is_named_for_its_source_too(copied: Tool) -> None:
    own = Tool("ours", copied.module, {"ours": "./ours"}, within=copied.name)
    source = own.folder / "ours/main.go"
    source.parent.mkdir()
    source.write_text("package main\n")
    before = own.place
    source.write_text("package main // changed\n")
    assert own.place != before


def test_a_module_without_the_version_is_refused(copied: Tool) -> None:
    (copied.folder / "go.mod").write_text("module nothing\n")
    with pytest.raises(Stop, match="names no version"):
        _ = copied.version


def test_a_go_that_is_too_old_is_told_by_go_itself(copied: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    (copied.folder / "go.mod").write_text("module future\n\ngo 1.999.0\n")
    monkeypatch.setenv("GOTOOLCHAIN", "local")
    monkeypatch.setattr(
        programs, "GO", [sys.executable, "-c", "import sys; sys.exit('requires go >= 1.999.0')"]
    )
    with pytest.raises(Stop, match=r"need a newer Go.*requires go >= 1\.999\.0"):
        programs.check_go(copied)


def test_no_go_at_all(copied: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GO", ["no-such-go"])
    with pytest.raises(Stop, match=r"Go 1\.26 or newer, and there is no go on PATH"):
        programs.check_go(copied)


def test_another_system_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Stop, match="needs Linux"):
        host.check()


def test_somebody_else_than_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Stop, match="needs root"):
        host.check()


def test_without_a_package_manager_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "there", lambda file: file == "ip")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Stop, match="runc containernetworking-plugins iptables conntrack openssl debootstrap"):
        host.install([package for package, file in host.PACKAGES.items() if not host.there(file)])


def test_nodes_have_nothing_in_common() -> None:
    three = nodes(3)
    for what in ("name", "ip", "pod_range", "containerd"):
        assert len({getattr(node, what) for node in three}) == 3


def test_the_image_changes_with_its_sources_and_not_with_what_python_leaves_there() -> None:
    before = images.product_sources()
    left = ROOT / "backend/dub5/__pycache__/left.pyc"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"left")
    try:
        assert images.product_sources() == before
    finally:
        left.unlink()


@pytest.mark.parametrize("command", ["build", "up", "down", "status", "load-image", "image", "run"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out
