"""Coding agents' command lines at a small task, before providers that play their part of it.

An agent is told to mend a file, and run it. Whatever it asks, the provider has it read the file, edit it, run it, and
say that it is done: by as many results of tools as the conversation has. So what the agent does is real, and what the
model would do is given.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from testkit import anthropic_server as claude
from testkit import openai_server as gpt
from testkit.http_server import Call, Wire

BROKEN, MENDED = "print(sum([1, 2]) == 4)\n", "print(sum([1, 2]) == 3)\n"
TASK = "Mend check.py so that it prints True, and run it."
DONE = "It prints True now."

HOME = Path(__file__).parents[2] / ".venv/agents"
"""Where `tools/setup.sh agents` puts them."""
NOWHERE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
"""What is not asked of this machine is asked of a proxy that is not there."""

Json = dict[str, Any]
Step = tuple[str, Json]
"""A tool of the agent, and its arguments."""


class Agent(NamedTuple):
    """`program` is where npm puts it; `command` what comes between it and the task."""

    program: str
    command: tuple[str, ...]
    environment: Mapping[str, str]

    async def work(self, folder: Path, home: Path, url: str) -> str:
        """Do the task in `folder`, with what it keeps in `home`; what it said in the end. It reaches `url` alone."""
        fill = {"home": home, "url": url}
        program = await asyncio.to_thread(next, (HOME / "node_modules").glob(self.program))
        process = await asyncio.create_subprocess_exec(
            str(program),
            *(each.format(**fill) for each in self.command),
            TASK,
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                **NOWHERE,
                **{name: value.format(**fill) for name, value in self.environment.items()},
            },
        )
        said, complained = await process.communicate()
        assert process.returncode == 0, (said + complained).decode()[-3000:]
        return said.decode()


CODEX = Agent(
    ".bin/codex",
    (
        *("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
        *("-c", "model_provider=dub5", "-c", "model=gpt"),
        *("-c", 'model_providers.dub5={{name="DUB5", base_url="{url}/v1", env_key="DUB5_KEY"}}'),
        *("-c", "check_for_update_on_startup=false", "-c", "analytics.enabled=false"),
        *("-c", "web_search=disabled"),  # a tool that only OpenAI has
    ),
    {"CODEX_HOME": "{home}", "DUB5_KEY": "none"},
)
CLAUDE_CODE = Agent(
    "@anthropic-ai/claude-code-*/claude",  # which npm's script would put in place of a stub
    ("--allowedTools", "Read,Edit,Bash", "--print"),
    {
        "ANTHROPIC_BASE_URL": "{url}",
        "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    },
)


class Tasks:
    """What a provider has an agent do in `folder`, by the tools that the agent offers."""

    def __init__(self, folder: Path) -> None:
        file = str(folder / "check.py")
        shell = ("cat check.py", "sed -i s/4/3/ check.py", "python3 check.py")
        self._by_shell: list[Step] = [("exec_command", {"cmd": command}) for command in shell]
        self._by_tools: list[Step] = [
            ("Read", {"file_path": file}),
            ("Edit", {"file_path": file, "old_string": "4", "new_string": "3"}),
            ("Bash", {"command": "python3 check.py"}),
        ]

    async def as_openai(self, call: Call, wire: Wire) -> None:
        done = sum(message["role"] == "tool" for message in call.body["messages"])
        step = self._step(done, {tool["function"]["name"] for tool in call.body["tools"]})
        if step is None:
            await gpt.say(DONE)(call, wire)
        else:
            await gpt.call_tool(step[0], json.dumps(step[1]), id=f"call_{done}")(call, wire)

    async def as_anthropic(self, call: Call, wire: Wire) -> None:
        """Without a look at the rest: what Anthropic's own program asks for may be newer than our rules."""
        turns = [turn["content"] for turn in call.body["messages"] if isinstance(turn["content"], list)]
        done = sum(block["type"] == "tool_result" for turn in turns for block in turn)
        step = self._step(done, {tool["name"] for tool in call.body["tools"]})
        if step is None:
            await claude.say(DONE)(call, wire)
        else:
            await claude.use_tool(*step, id=f"toolu_{done}")(call, wire)

    def _step(self, done: int, tools: set[str]) -> Step | None:
        steps = self._by_tools if "Read" in tools else self._by_shell
        return steps[done] if done < len(steps) else None
