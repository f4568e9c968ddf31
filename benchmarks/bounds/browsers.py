"""A web page of another site, in a Chromium on the machine of a service without keys: what it brings about there.

First across origins, then as DNS rebinding leaves it: with a name of its own that leads to the service. What it could
bring about are calls of the provider, answers that are stored, purged or replaced, and answers that it can read; the
count of requests that arrived shows that it tried. Last, a page of an allowed origin does its work.
"""

from __future__ import annotations

from benchmarks.figures import Figure, progress
from testkit.client import Client, client
from testkit.foreign_page import CLIENT, STREAM, Foreign, attack, foreign, has_openai_client
from testkit.service import Service, configuration, replicas, scraped
from testkit.stand_in import Provider, provider

_KEPT = "Is this kept?"


async def measure() -> list[Figure]:
    async with provider() as asked, client() as asking, foreign() as site:
        await asked.set(first_token=0.0, tokens=1)
        async with replicas(1, configuration(asked.base_url, None)) as [service]:
            stage = _Stage(site, service, asked, asking)
            kinds = "form, text, blob, typed array, worker, sendBeacon and others"
            what = f"foreign page in Chromium {site.browser.version}: {kinds}"
            figures = [await stage.attacked(what, service.url, service.operations_url)]
            for listener, url in (("public", service.url), ("operations", service.operations_url)):
                site.target = url
                what = f"the same after DNS rebinding to the {listener} listener"
                figures.append(await stage.attacked(what, site.origin, site.origin))
        settings = configuration(asked.base_url, None, server={"allowed_origins": [site.origin]})
        async with replicas(1, settings) as [service]:
            figures.append(await _allowed(site, service))
    return figures


class _Stage:
    """One service, attacked."""

    def __init__(self, site: Foreign, service: Service, asked: Provider, asking: Client) -> None:
        self._site = site
        self._service = service
        self._asked = asked
        self._asking = asking

    async def attacked(self, what: str, target: str, operations: str) -> Figure:
        progress(what)
        kept = await self._asking.ask(self._service.url, _KEPT)
        calls, seen = await self._asked.calls(), await scraped(self._service)
        async with self._site.page() as page:
            attempts = await attack(page, target, operations)
        after = await scraped(self._service)
        again = await self._asking.ask(self._service.url, _KEPT)
        effects = {
            "served": int(_served(after) - _served(seen)),
            "calls of the provider": await self._asked.calls() - calls,
            "answers stored": int(_sum(after, "dub5_cache_entries") - _sum(seen, "dub5_cache_entries")),
            "answers purged or replaced": int(not again.hit or again.text != kept.text),
            "answers read": len(attempts.read),
        }
        arrived = int(_arrived(after) - _arrived(seen))
        return Figure(
            what,
            "0 side effects",
            f"{attempts.tried} attempts, {arrived} requests arrived: "
            + ", ".join(f"{count} {name}" for name, count in effects.items()),
            not any(effects.values()) and arrived > 0,
        )


def _arrived(seen: dict[str, float]) -> float:
    """Requests, and those that were refused before they were one."""
    return _sum(seen, "dub5_http_requests_total") + _sum(seen, "dub5_connections_refused_total")


def _served(seen: dict[str, float]) -> float:
    return sum(
        value
        for name, value in seen.items()
        if name.startswith("dub5_http_requests") and 'outcome="ok"' in name
    )


def _sum(seen: dict[str, float], name: str) -> float:
    return sum(value for sample, value in seen.items() if sample.partition("{")[0] == name)


async def _allowed(site: Foreign, service: Service) -> Figure:
    async with site.page() as page:
        status, text, cache, _ = await page.evaluate(STREAM, [service.url])
        streamed = status == 200 and "[DONE]" in text and "dub5" in cache
        library = await page.evaluate(CLIENT, [service.url]) if has_openai_client() else None
    said = {None: "openai-node is not installed here", "": "openai-node: nothing"}
    return Figure(
        "page of an allowed origin: a stream by fetch, and one by openai-node",
        "both whole",
        f"fetch: {'whole, with Cache-Status' if streamed else text[:100]}; "
        + said.get(library, "openai-node: whole"),
        streamed and library != "",
    )
