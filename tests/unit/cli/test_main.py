"""Each command loads what it needs and no more, and all of them are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dub5.cli
from dub5.cli.main import COMMANDS, main

LOADED = """
import json, sys
from dub5.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def loaded(*arguments: str) -> set[str]:
    """The modules that are there once a command line is read."""
    ended = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True
    )
    return set(json.loads(ended.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    ("command", "not_needed"),
    [
        (
            "operator",
            {"aiohttp", "dub5.api", "dub5.cache", "dub5.chat", "httpx", "litestar", "uvicorn", "uvloop"},
        ),
        (
            "policy",
            {
                "aiohttp",
                "dub5.api",
                "dub5.cache",
                "dub5.chat",
                "kopf",
                "litestar",
                "matplotlib",
                "numpy",
                "uvicorn",
            },
        ),
        ("config", {"aiohttp", "dub5.api", "httpx", "litestar", "redis", "uvicorn", "uvloop"}),
        ("cache", {"aiohttp", "dub5.api", "litestar", "redis", "uvicorn"}),
        (
            "keys",
            {"aiohttp", "dub5.api", "dub5.cache", "dub5.chat", "httpx", "litestar", "uvicorn", "uvloop"},
        ),
        ("serve", {"dub5.loadtest", "dub5_operator", "httpx", "kopf", "pygments", "rich"}),
    ],
)
def test_a_command_loads_nothing_of_the_others(command: str, not_needed: set[str]) -> None:
    modules = loaded(command, "--help")
    assert f"dub5.cli.{command}" in modules
    assert not modules & not_needed
    assert not modules & {f"dub5.cli.{other}" for other in COMMANDS.keys() - {command}}


@pytest.mark.parametrize("arguments", [("cache", "invalidate", "--tag", "\udcff"), ("\udcff",)])
def test_what_is_not_utf_8_is_wrong_usage(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments]) == 2
    assert "udcff" in capsys.readouterr().err


def test_help_loads_none_of_them() -> None:
    assert not loaded("--help") & {f"dub5.cli.{name}" for name in COMMANDS}


def test_each_command_is_a_module() -> None:
    folder = Path(dub5.cli.__path__[0])
    shared = {
        "__init__",
        "advice_configmap",
        "autoscale_page",
        "command",
        "kubernetes",
        "main",
        "operators_redis",
        "preflight",
        "standard_streams",
    }
    assert {path.stem for path in folder.glob("*.py")} - shared == COMMANDS.keys()
