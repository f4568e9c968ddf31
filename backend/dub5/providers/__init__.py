"""The providers of answers, and the way to one: `build` makes those that the configuration names."""

from __future__ import annotations

from collections.abc import Mapping

from dub5.providers.anthropic import AnthropicProvider
from dub5.providers.openai import OpenAIProvider
from dub5.providers.protocol import Call, Payload, Provider
from dub5.providers.simulated import SimulatedProvider
from dub5.settings import AnthropicSettings, AnyProvider, OpenAISettings, Settings

__all__ = ["Call", "Payload", "Provider", "build"]


def build(settings: Settings, secrets: Mapping[str, str]) -> dict[str, Provider]:
    """All configured providers by name; `secrets` has the keys of those that need one.

    Build them before the event loop serves: each HTTP provider reads the CA bundle from disk.
    """
    return {name: _provider(name, each, secrets.get(name, "")) for name, each in settings.providers.items()}


def _provider(name: str, settings: AnyProvider, key: str) -> Provider:
    match settings:
        case OpenAISettings():
            return OpenAIProvider(name, settings, key=key)
        case AnthropicSettings():
            return AnthropicProvider(name, settings, key=key)
    return SimulatedProvider(name, settings)
