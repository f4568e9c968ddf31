"""As much of PyTorch as guidellm uses to read its questions one by one; the real one is a gigabyte.

guidellm imports this in each of its processes, where the folder is on PYTHONPATH.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class IterableDataset(Generic[T]):
    pass


class DataLoader(Generic[T]):
    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any], **_: object) -> None:
        self.dataset = dataset
        self._collate = collate_fn

    def __iter__(self) -> Iterator[Any]:
        return (self._collate([each]) for each in self.dataset)


class Tensor:
    pass


class Generator:
    def manual_seed(self, seed: int) -> None:
        pass


def get_worker_info() -> None:
    """There are no workers."""


def _module(name: str, **holds: object) -> ModuleType:
    module = sys.modules[f"torch.{name}"] = ModuleType(f"torch.{name}")
    vars(module).update(holds)
    return module


nn = _module("nn", Module=Tensor)
utils = _module("utils", data=_module("utils.data", get_worker_info=get_worker_info))
_module("utils.data.dataloader", DataLoader=DataLoader)
_module("utils.data.dataset", IterableDataset=IterableDataset)
