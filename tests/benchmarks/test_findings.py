"""What public reports say goes wrong in front of real providers, by the scripts of docs/reports/providers.md."""

from __future__ import annotations

from benchmarks.providers import findings
from benchmarks.providers.fake import fake
from testkit.client import client
from tests.harness import running


async def test_every_value_of_the_scripts_is_right() -> None:
    """Those that need no waiting: for a heartbeat, and for Retry-After, are tests of their own."""
    seen = findings.Seen()
    async with (
        client() as asking,
        fake(seen.answer) as provider,
        running(findings.settings(provider.url)) as service,
    ):
        script = findings.Script(asking.session, service.url, seen)
        figures = await findings.breaker(script, provider, pause=0.0)
        for part in (
            findings.replay,
            findings.prefix,
            findings.flip,
            findings.errors,
            findings.anthropic,
            findings.rest,
        ):
            figures += await part(script, provider)
    assert [each.line() for each in figures if not each.good] == []
