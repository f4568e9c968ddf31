"""Takes the pictures of the page in docs/images: `python -m tools.pictures`. `tools/setup.sh browser` gets the browser.

The conversation is real, with the simulated provider at its usual pace; the answers are what it says.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import Any

from testkit.places import ROOT
from testkit.service import serving

IMAGES = ROOT / "docs/images"
SETTINGS = {
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

    async with serving(SETTINGS) as service, async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            chromium_sandbox=os.geteuid() != 0,
        )
        await take(browser, service.url, "page.png", QUESTIONS, DESK)
        await take(browser, service.url, "page-phone.png", QUESTIONS[:1], PHONE)
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
