"""What `model` in a request may name: a personality, or a model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from dub5.chat.personalities import Personality
from dub5.errors import ProviderError, UnknownModel
from dub5.providers.call import Model
from dub5.providers.patterns import ModelPattern
from dub5.settings.model import CacheClass, ModelSettings


class Target(msgspec.Struct, frozen=True):
    """What answers a request, and how the answer is kept.

    `kind` is what `model` makes, `context_window` its tokens of prompt and answer: None where that is not known. At the
    gate its calls take slots of `slots_of`: the model, or where that is a pattern the one that was named, or one model
    that hangs would take those of all.
    """

    name: str
    model: Model
    personality: Personality | None
    class_name: str
    cache_class: CacheClass
    slots_of: str
    kind: Literal["chat", "embedding"] | None = "chat"
    context_window: int | None = None


class Catalog:
    """Every name that `model` may have: those of the configuration, and what its patterns stand for just now."""

    def __init__(
        self,
        models: Mapping[str, Model],
        personalities: Mapping[str, Personality],
        classes: Mapping[str, CacheClass],
        settings: Mapping[str, ModelSettings],
        patterns: Sequence[ModelPattern] = (),
    ) -> None:
        """`settings` are those of `models`. Of several `patterns` for one name the first that has it counts.

        `targets` are the names that are known now: most requests need no more than to look there.
        """
        self.models = models
        self.personalities = personalities
        self._settings = settings
        self._patterns = patterns
        self.classes = {"default": CacheClass(), **classes}
        self.targets = {name: self._target(name, model, None) for name, model in models.items()}
        for name, personality in personalities.items():
            self.targets[name] = self._target(name, models[personality.model], personality)

    def __getitem__(self, name: str) -> Target:
        """UnknownModel where there is no such name; ProviderError where a provider has yet to say whether there is."""
        target = self.targets.get(name)
        return self._passed_through(name) if target is None else target

    def names(self) -> list[str]:
        """Personalities first: they are what people should pick."""
        passed = (name for pattern in self._patterns for name in pattern.names())
        return list(dict.fromkeys([*self.personalities, *self.models, *passed]))

    def _passed_through(self, name: str) -> Target:
        for pattern in self._patterns:
            model = pattern.model(name)
            if model is not None:
                known, settings = pattern.described(name), pattern.settings
                window = settings.context_window or known.context_window
                kind = known.kind if settings.kind == "chat" else settings.kind
                class_name = model.cache_class
                return Target(name, model, None, class_name, self.classes[class_name], name, kind, window)
        for pattern in self._patterns:
            provider = pattern.waits_for(name)
            if provider is not None:
                raise ProviderError(
                    f"The provider {provider} has not said yet which models it has.",
                    provider=provider,
                    retry_after=1,
                    scope="request",
                )
        raise UnknownModel(name)

    def _target(self, name: str, model: Model, personality: Personality | None) -> Target:
        class_name = personality.cache_class if personality is not None else model.cache_class
        known = self._settings[model.name]
        kept = self.classes[class_name]
        return Target(
            name, model, personality, class_name, kept, model.name, known.kind, known.context_window
        )
