"""The documents' commands, run as they are written: in a copy of the sources, against a real server with a real Redis.

Which ones, and what is put in the place of addresses, is in tests/documents/table.py. Variables of a block last as long
as the block. curl fails where the answer is an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.documents.reading import (
    ROOT,
    Command,
    all_commands,
    blocks,
    by_block,
    commands,
    documents,
    first_block,
    read,
)
from tests.documents.table import HERE, INSTEAD, SERVES, SHOWN

BIN = Path(sys.executable).parent
K6 = BIN / "k6"
NOT_COPIED = shutil.ignore_patterns(
    ".venv", ".git", ".bench", "__pycache__", ".*_cache", ".hypothesis", ".coverage*", "reports"
)
CONFIG = {
    "providers": {"demo": {"kind": "simulated", "first_token": "10ms", "tokens_per_second": 2000}},
    "models": {"demo": {"routes": ["demo/simulated"]}},
}
RUN = {*HERE, *SERVES}
NEAR = 5  # lines: a file may be shown right behind the command that takes it
WITH_COMMANDS = [
    each for each in documents() if any(command.text in RUN for command in commands(each, read(each)))
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of them; only the virtual environment is the same."""
    copy = tmp_path_factory.mktemp("copy") / "dub5"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
    (copy / "dub5.yaml").unlink(missing_ok=True)  # one's own, which is not part of them
    (copy / ".venv").symlink_to(BIN.parent)
    ready = BIN.parent / ".ready"
    if not ready.exists():
        ready.touch()  # else make would set the environment up anew, for this copy
    return copy


class Session:
    """Somebody who reads a document with a shell at hand."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "KUBECONFIG"},
            # Nothing is activated: what is in .venv is found there only.
            "PATH": os.pathsep.join(each for each in os.get_exec_path() if Path(each) != BIN),
            "MAKEFLAGS": "-o .venv/.ready",  # it is not this copy's to set up
            "CURL_HOME": str(folder),
            "DUB5_SERVER__PORT": "0",
            "DUB5_SERVER__OPERATIONS_PORT": "0",
            "DUB5_DRAIN__LINGER": "0s",
            "OPENAI_API_KEY": "none",
            "ANTHROPIC_API_KEY": "none",
            "KEY": "none",
            "RATE": "5",
            "DURATION": "2s",
            "TTFT_P95": "20000",
        }
        (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")

    def serve(self, command: str, **environment: str) -> None:
        """Begins it, and has later commands speak with it."""
        process = self._stack.enter_context(
            subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._folder,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        # `make` begins a process of its own, so the whole group is ended.
        self._stack.callback(os.killpg, process.pid, signal.SIGTERM)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            found = re.search(r"Chat on (\S+)/v1, operations on (\S+)", line)
            if found:
                self.environment.update(URL=found[1], OPERATIONS=found[2])
                return
        pytest.fail(f"`{command}` does not serve: {''.join(said)}")

    def run(self, script: str, place: str) -> str:
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", script],
            cwd=self._folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{place}: {script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def service(sources: Path, redis_url: str) -> Iterator[dict[str, str]]:
    """Where a server is that has a Redis."""
    with contextlib.ExitStack() as stack:
        made = Session(sources, stack)
        (sources / "service.yaml").write_text(yaml.safe_dump({**CONFIG, "redis": {"url": redis_url}}))
        made.serve(".venv/bin/dub5 serve --config service.yaml")
        yield {name: made.environment[name] for name in ("URL", "OPERATIONS")}


@pytest.fixture
def session(sources: Path, service: dict[str, str]) -> Iterator[Session]:
    """With that server, until the document has one of its own."""
    with contextlib.ExitStack() as stack:
        made = Session(sources, stack)
        made.environment.update(service)
        yield made


def substituted(text: str) -> str:
    for written, instead in INSTEAD.items():
        text = text.replace(written, instead)
    return text


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_its_commands_run(document: str, session: Session, sources: Path) -> None:
    lines = read(document)
    if not K6.exists() and document == "docs/load-testing.md":
        pytest.skip("needs k6 in .venv")
    shown = {
        name: first_block(document, language) for (of, language), name in SHOWN.items() if of == document
    }
    for block in by_block(commands(document, lines)):
        for name in [each for each in shown if shown[each].line < block[0].line + NEAR]:
            (sources / name).write_text(f"{shown.pop(name).text}\n")
        perform(session, [each for each in block if each.text in RUN])
    (sources / "dub5.yaml").unlink(missing_ok=True)  # `make run` would take it


def perform(session: Session, block: list[Command]) -> None:
    script = ""
    for command in block:
        if command.text in SERVES:
            session.serve(substituted(command.text))
        else:
            script += f"{substituted(command.text)}\n"
    if script:
        session.run(script, block[0].place)


PYTHON = [
    each for document in documents() for each in blocks(document, read(document)) if each.language == "python"
]


@pytest.mark.parametrize("block", PYTHON, ids=[f"{each.document}:{each.line}" for each in PYTHON])
def test_its_python_runs_and_says_something(block: object, session: Session) -> None:
    assert isinstance(block, tuple)
    text = block[3].replace("http://127.0.0.1:8000", session.environment["URL"])
    assert session.run(f".venv/bin/python - <<'END'\n{text}\nEND\n", str(block[0])).strip()


def test_the_container_listens(session: Session) -> None:
    """With the variables that the documented `docker run` sets, and what the image's own are."""
    [command] = [each.text for each in all_commands() if each.text.startswith("docker run")]
    given = dict(re.findall(r"--env (\w+)=(\S+)", command))
    session.serve(".venv/bin/dub5 serve", **given)
    assert session.environment["URL"].startswith("http://0.0.0.0:")
