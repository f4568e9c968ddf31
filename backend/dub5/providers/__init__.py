"""The providers of answers, and the way to one: `build` makes those that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dub5.errors import ConfigError
from dub5.process.descriptors import Sockets
from dub5.providers.anthropic import AnthropicProvider
from dub5.providers.http import Access
from dub5.providers.openai import OpenAIProvider
from dub5.providers.protocol import Call, Payload, Provider
from dub5.providers.simulated import SimulatedProvider
from dub5.settings.addresses import Proxy, basic, named_proxy, proxy_from
from dub5.settings.model import (
    AnthropicSettings,
    AnyHttpProvider,
    AnyProvider,
    Settings,
    SimulatedSettings,
    Source,
    goes_directly,
    reader,
    root_of,
)

__all__ = ["Call", "Payload", "Provider", "Read", "build"]

Read = Callable[[str, Source], str]
"""Gives the secret of a setting, which is named by its path."""


def build(
    settings: Settings,
    environment: Mapping[str, str],
    read: Read | None = None,
    sockets: Sockets | None = None,
) -> dict[str, Provider]:
    """All configured providers by name. ConfigError where one could not be asked in this environment.

    `read` gets their secrets, from where `settings` say by default; `sockets` bounds their connections.
    Build them before the event loop serves: each HTTP provider reads its secrets and the CA bundle from disk.
    """
    read = read or reader(environment)
    return {
        name: _provider(name, each, read, environment, sockets) for name, each in settings.providers.items()
    }


def _provider(
    name: str, settings: AnyProvider, read: Read, environment: Mapping[str, str], sockets: Sockets | None
) -> Provider:
    if isinstance(settings, SimulatedSettings):
        return SimulatedProvider(name, settings)
    where = f"providers.{name}"
    key = "" if settings.api_key is None else read(f"{where}.api_key", settings.api_key)
    access = _access(where, settings, read, environment, sockets)
    if isinstance(settings, AnthropicSettings):
        return AnthropicProvider(name, settings, key=key, access=access)
    return OpenAIProvider(name, settings, key=key, access=access)


def _access(
    where: str,
    settings: AnyHttpProvider,
    read: Read,
    environment: Mapping[str, str],
    sockets: Sockets | None,
) -> Access:
    headers = {
        header: read(f"{where}.secret_headers.{header}", source)
        for header, source in settings.secret_headers.items()
    }
    return Access(headers, _proxy(where, settings, read, environment), sockets)


def _proxy(where: str, settings: AnyHttpProvider, read: Read, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way, the setting's before the environment's, with the credentials that hold for it."""
    if goes_directly(settings):
        return None
    try:
        if settings.proxy is not None:
            proxy: Proxy | None = named_proxy(settings.proxy)
        else:
            proxy = proxy_from(environment, root_of(settings).at(""))
    except ValueError as error:
        raise ConfigError(f"{where}.proxy: {error}") from None
    if proxy is None or settings.proxy_username is None or settings.proxy_password is None:
        return proxy
    password = read(f"{where}.proxy_password", settings.proxy_password)
    return Proxy(proxy.url, basic(settings.proxy_username, password))
