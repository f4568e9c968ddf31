"""Takes the pictures of the page in docs/images: `python -m tools.pictures`. `tools/setup.sh browser` gets the browser.

The conversation is real, with the simulated provider at its usual pace; the answers are what it says.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from dub5.server.replica import Replica
from dub5.settings.loader import convert

IMAGES = Path(__file__).resolve().parent.parent / "docs/images"
CONFIG = {
    "server": {"port": 0, "operations_port": 0},
    "providers": {"demo": {"kind": "simulated"}},
    "models": {"small": {"routes": ["demo/simulated"], "price": {"input": 0.15, "output": 0.60}}},
}
DESK = {"viewport": {"width": 1000, "height": 800}, "color_scheme": "light"}
PHONE = {
    "viewport": {"width": 390, "height": 780},
    "color_scheme": "dark",
    "device_scale_factor": 1.5,
    "is_mobile": True,
    "has_touch": True,
}
QUESTIONS = ("Why is the sky blue?", "And at night?")


async def converse(page: Any, questions: tuple[str, ...]) -> None:
    await page.wait_for_selector("#model:enabled")
    for question in questions:
        await page.fill("#question", question)
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".again")
        await page.click(".again")
        await page.wait_for_selector(".again")


async def take(
    browser: Any, url: str, name: str, questions: tuple[str, ...], context: dict[str, Any]
) -> None:
    profile = await browser.new_context(**context)
    page = await profile.new_page()
    await page.goto(url)
    await converse(page, questions)
    await page.screenshot(path=IMAGES / name)
    await profile.close()


async def main() -> None:
    from playwright.async_api import async_playwright  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    replica = await asyncio.to_thread(Replica, convert(CONFIG), {})
    serving = asyncio.create_task(replica.run())
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            chromium_sandbox=os.geteuid() != 0,
        )
        await take(browser, replica.url, "page.png", QUESTIONS, DESK)
        await take(browser, replica.url, "page-phone.png", QUESTIONS[:1], PHONE)
        await browser.close()
    replica.leave(linger=False)
    await serving


if __name__ == "__main__":
    asyncio.run(main())
