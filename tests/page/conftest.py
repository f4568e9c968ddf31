"""A real browser: the system's Chromium, headless, driven by Playwright.

Each test has a fresh profile, and fails if the page breaks its own security policy, logs an error that the test
does not expect, or asks any origin but its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from testkit.openai_server import FakeOpenAI

playwright = pytest.importorskip("playwright.async_api", reason="`make test` installs Playwright")

_TIMEOUT = 60_000
"""Milliseconds in which what is waited for must come: the machine may be busy with something else."""

playwright.expect.set_options(timeout=_TIMEOUT)

Open = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where it is."""
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if found is None:
        pytest.skip("neither Chromium nor Chrome is here; `make test` installs it")
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: str) -> AsyncIterator[Any]:
    """One for all tests of a module, which share its event loop."""
    sandbox = os.geteuid() != 0  # Chromium's does not work for root
    async with playwright.async_playwright() as driver:
        started = await driver.chromium.launch(executable_path=chromium, chromium_sandbox=sandbox)
        yield started
        await started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def fake() -> AsyncIterator[FakeOpenAI]:
    """A fake OpenAI."""
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
def opened(browser: Any) -> Open:
    """`async with opened(url, expected=[…], **context) as page`; `expected` are parts of errors that may be logged."""

    @asynccontextmanager
    async def opening(url: str, *, expected: tuple[str, ...] = (), **context: Any) -> AsyncIterator[Any]:
        profile = await browser.new_context(**context)
        page = await profile.new_page()
        page.set_default_timeout(_TIMEOUT)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda said: wrong.append(said.text) if said.type in {"error", "warning"} else None
        )
        page.on("request", lambda asked: None if asked.url.startswith(f"{url}/") else wrong.append(asked.url))
        await page.goto(f"{url}/")
        yield page
        await profile.close()
        assert [each for each in wrong if not any(part in each for part in expected)] == []

    return opening
