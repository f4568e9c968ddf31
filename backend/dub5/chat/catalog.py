"""What `model` in a request may name: a personality, or a model itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from dub5.chat.personalities import Personality
from dub5.errors import UnknownModel
from dub5.providers.call import Model
from dub5.settings.model import CacheClass, ModelSettings


class Target(msgspec.Struct, frozen=True):
    """What answers a request, and how the answer is kept.

    `kind` is what `model` makes, `context_window` its tokens of prompt and answer: None where that is not known.
    """

    name: str
    model: Model
    personality: Personality | None
    class_name: str
    cache_class: CacheClass
    kind: Literal["chat", "embedding"] | None = "chat"
    context_window: int | None = None


class Catalog:
    """Every name that `model` may have, resolved once at start-up."""

    def __init__(
        self,
        models: Mapping[str, Model],
        personalities: Mapping[str, Personality],
        classes: Mapping[str, CacheClass],
        settings: Mapping[str, ModelSettings],
    ) -> None:
        """`settings` are those of `models`."""
        self.models = models
        self.personalities = personalities
        self._settings = settings
        self.classes = {"default": CacheClass(), **classes}
        self._targets = {name: self._target(name, model, None) for name, model in models.items()}
        for name, personality in personalities.items():
            self._targets[name] = self._target(name, models[personality.model], personality)

    def __getitem__(self, name: str) -> Target:
        """UnknownModel where there is no such name."""
        target = self._targets.get(name)
        if target is None:
            raise UnknownModel(name)
        return target

    def names(self) -> list[str]:
        """Personalities first: they are what people should pick."""
        return [*self.personalities, *self.models]

    def _target(self, name: str, model: Model, personality: Personality | None) -> Target:
        class_name = personality.cache_class if personality is not None else model.cache_class
        told = self._settings[model.name]
        return Target(
            name, model, personality, class_name, self.classes[class_name], told.kind, told.context_window
        )
