"""Clients in JavaScript, each the real package in a pinned version, with no option but where to ask.

`tests/clients/js` has the script that asks by each, and their versions. They are installed beside ours, not into it.
"""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest

from tests.clients.asking import ADA, CLAUDE, GPT, TOGETHER
from tests.clients.trial import ROOT, hold, trial

CLIENTS = (
    "openai",
    "@anthropic-ai/sdk",
    "@openai/agents",
    "@ai-sdk/openai",
    "@ai-sdk/anthropic",
    "@ai-sdk/openai-compatible",
    "@langchain/openai",
    "@langchain/anthropic",
)
HOME = ROOT / ".venv/js-clients"
NODE = shutil.which("node")
TRIAL = json.dumps({"MODELS": {"GPT": GPT, "CLAUDE": CLAUDE}, "ADA": ADA, "TOGETHER": TOGETHER})


@pytest.mark.skipif(
    NODE is None or not HOME.exists(), reason="`make test` installs them where there are node and npm"
)
@pytest.mark.parametrize("client", CLIENTS)
async def test_every_call_is_right_and_paid_for_once(
    redis: str, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = await asyncio.to_thread((ROOT / "tests/clients/js/ask.mjs").read_text, "utf-8")
    async with trial(redis) as here:
        for name, value in {
            "OPENAI_BASE_URL": f"{here.url}/v1",
            "OPENAI_API_KEY": "none",
            "ANTHROPIC_BASE_URL": here.url,
            "ANTHROPIC_API_KEY": "none",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",  # they go to OpenAI, wherever the questions go
            "TRIAL": TRIAL,
        }.items():
            monkeypatch.setenv(name, value)
        seen = await here.run(str(NODE), "--input-type=module", "--eval", script, client, cwd=HOME)
    await asyncio.to_thread(hold, seen)
