"""What a model takes is known by its name, wherever it is served."""

from __future__ import annotations

import pytest

from dub5.providers.claude_models import Claude, claude


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("claude-opus-4-1@20250805", "claude-opus-4-1"),
        ("claude-opus-4-20250514", "claude-opus-4-0"),
        ("Claude-Opus-5", "claude-opus-5"),
        ("claude-opus-6", "claude-opus-5-5"),
        ("claude-fable-5-1", "claude-mythos-5-2"),
        ("claude-3-5-sonnet-latest", "claude-3-5-haiku-20241022"),
        ("claude-instant-1", "claude-2.1"),
    ],
)
def test_one_model_has_many_names(name: str, like: str) -> None:
    assert claude(name) == claude(like)
    assert claude(name) != claude("my-own")


@pytest.mark.parametrize(
    ("name", "sampling", "thinking", "prefill", "forced", "most"),
    [
        ("claude-3-haiku-20240307", True, "disabled", True, True, 4096),
        ("claude-3-7-sonnet-latest", True, "enabled disabled", True, True, 64_000),
        ("claude-opus-4-0", True, "enabled disabled", True, True, 32_000),
        ("claude-opus-4-1", True, "enabled disabled", True, True, 32_000),
        ("claude-haiku-4-5", True, "enabled disabled", True, True, 64_000),
        ("claude-opus-4-6", True, "enabled adaptive disabled", False, True, 128_000),
        ("claude-opus-4-8", False, "adaptive disabled", False, True, 128_000),
        ("claude-haiku-5-5", False, "adaptive disabled", False, True, 128_000),
        ("claude-fable-5", False, "adaptive", False, True, 128_000),
        ("claude-fable-5-2", False, "adaptive", False, False, 128_000),
        ("claude-opus-5-5", False, "adaptive", False, False, 128_000),
        ("claude-sonnet-5-5", False, "adaptive between_tools", False, False, 128_000),
        ("my-own", True, "enabled adaptive disabled", False, True, None),
    ],
)
def test_generations_differ(
    name: str, sampling: bool, thinking: str, prefill: bool, forced: bool, most: int | None
) -> None:
    found: Claude = claude(name)
    assert (found.sampling, found.thinking) == (sampling, frozenset(thinking.split()))
    assert (found.prefill, found.forced, found.most) == (prefill, forced, most)
