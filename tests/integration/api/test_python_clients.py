"""Clients in Python, each the real package in a pinned version, with no option but its base URL.

`tests/clients` has a script for each, and says what it is made to do. They are installed beside ours, not into it.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.clients.trial import ROOT, hold, trial

SCRIPTS = {
    "newest": [
        "anthropic_python",
        "langchain_of_anthropic",
        "langchain_of_openai",
        "litellm_python",
        "llm_python",
        "openai_agents",
        "openai_python",
        "pydantic_ai_python",
    ],
    "older": ["guidellm_python", "instructor_python", "llama_index_python"],
}
"""By environment, as in tests/clients/pyproject.toml."""

HOME = ROOT / ".venv/clients"
pytestmark = pytest.mark.skipif(not HOME.exists(), reason="`make test` installs them")


@pytest.mark.parametrize(
    ("environment", "script"), [(name, script) for name, scripts in SCRIPTS.items() for script in scripts]
)
async def test_every_call_is_right_and_paid_for_once(redis: str, environment: str, script: str) -> None:
    async with trial(redis) as here:
        seen = await here.run(
            str(HOME / environment / "bin/python"), "-m", f"tests.clients.{script}", here.url
        )
    await asyncio.to_thread(hold, seen)
