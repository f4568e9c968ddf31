"""Entries of `models` whose name has a `*`: they stand for whatever the providers of their routes list.

    models:
      "*":        {routes: [vllm/*]}                  `llama3:8b` is what vllm calls so
      "router/*": {routes: [openrouter/*, demo/x]}    `router/meta-llama/llama-3` is OpenRouter's `meta-llama/llama-3`

What the `*` is in a caller's word it is in the routes; one without a `*` is a fallback for all. All models of an entry
share its name in metrics, its price and its retry budget; each has its own health, and its own answers in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from dub5.providers.call import Model, RetryBudget, Route, revision
from dub5.providers.listing import ListedModel, ModelLists
from dub5.settings.model import AnyProvider, ModelSettings


class ModelPattern:
    """One such entry. `name` is that of the settings, with its `*`."""

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        lists: ModelLists,
        providers: Mapping[str, AnyProvider],
        build: Callable[[ModelSettings], Model],
    ) -> None:
        """`build` makes the Model for the same settings with other routes; `providers` are their settings."""
        self.name = name
        self.settings = settings
        self._before, _, self._after = name.partition("*")
        self._lists = lists
        self._providers = providers
        self._build = build
        self._budget = RetryBudget()
        self._models: dict[str, Model] = {}
        self._changes = -1

    def model(self, name: str) -> Model | None:
        """What answers a caller who asks for `name`; None where no provider lists it."""
        if self._changes != self._lists.changes:  # bounded: only what is listed is kept
            self._models.clear()
            self._changes = self._lists.changes
        model = self._models.get(name)
        if model is None:
            model = self._made(name)
            if model is not None:
                self._models[name] = model
        return model

    def described(self, name: str) -> ListedModel:
        """What the first provider that lists `name` says of it."""
        part = self._part(name) or ""
        for provider, upstream in self._wild():
            listed = (self._lists.of(provider) or {}).get(upstream.replace("*", part))
            if listed is not None:
                return listed
        return ListedModel(name)

    def names(self) -> Iterator[str]:
        """What callers may ask for, in the order of the routes."""
        for provider, upstream in self._wild():
            before, _, after = upstream.partition("*")
            for listed in self._lists.of(provider) or ():
                part = _between(before, listed, after)
                if part is not None:
                    yield f"{self._before}{part}{self._after}"

    def waits_for(self, name: str) -> str | None:
        """A provider that may have `name`, and has not said yet what it has."""
        if self._part(name) is None:
            return None
        return next((provider for provider, _ in self._wild() if self._lists.of(provider) is None), None)

    def routes(self) -> Iterator[Route]:
        """Of all that were asked for since the lists last changed."""
        for model in self._models.values():
            yield from model.routes

    def _wild(self) -> Iterator[tuple[str, str]]:
        for route in self.settings.routes:
            provider, _, upstream = route.partition("/")
            if "*" in upstream:
                yield provider, upstream

    def _part(self, name: str) -> str | None:
        return _between(self._before, name, self._after)

    def _made(self, name: str) -> Model | None:
        part = self._part(name)
        if part is None:
            return None
        every = {route.replace("*", part): route for route in self.settings.routes}
        able = [route for route, written in every.items() if "*" not in written or self._has(route)]
        if not any("*" in every[route] for route in able):
            return None
        weights = {route.replace("*", part): weight for route, weight in self.settings.weights.items()}
        model = self._build(
            msgspec.structs.replace(
                self.settings,
                routes=able,
                weights={route: weight for route, weight in weights.items() if route in able},
            )
        )
        model.budget = self._budget
        # Of all routes, whether they are listed now or not: else replicas would have different names for one answer.
        parts = (route.partition("/") for route in every)
        model.revision = revision((self._providers[provider], upstream) for provider, _, upstream in parts)
        return model

    def _has(self, route: str) -> bool:
        provider, _, upstream = route.partition("/")
        return upstream in (self._lists.of(provider) or ())


def _between(before: str, text: str, after: str) -> str | None:
    """What stands between them, one character at least; None where they are not at its ends."""
    end = len(text) - len(after)
    if end <= len(before) or not text.startswith(before) or not text.endswith(after):
        return None
    return text[len(before) : end]
