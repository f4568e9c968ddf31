"""What was learnt, in a form that can be stored: plain arrays of numbers by name, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

State = Mapping[str, NDArray[Any]]

MOST_STORED = 1e12
"""Of times and counts: more than any is, and what replicas take in a published document."""

ROUNDED = 1e-6
"""By which part of itself a sum may be above one that it is a part of."""


def check(
    state: State,
    name: str,
    kind: Any,
    shape: tuple[int, ...],
    *,
    finite: bool = True,
    most: float = math.inf,
) -> None:
    """ValueError where an array is of another kind or shape, or has a number that is negative, above `most` or, unless
    that may be, not finite; KeyError where it is not there."""
    found = state[name]
    if found.dtype != kind or found.shape != shape:
        raise ValueError(f"{name} is of another kind")
    if finite and found.dtype.kind == "f" and not (np.isfinite(found) & (found >= 0) & (found <= most)).all():
        raise ValueError(f"{name} has numbers that cannot be")
