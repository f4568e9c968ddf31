"""The parts in which an answer comes: what providers give, flights hand on, replicas send each other and clients are
written."""

from __future__ import annotations

from typing import Literal

import msgspec


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part of an answer: a `chunk`, the chunk that holds only token `usage`, or the `whole`."""

    kind: Literal["chunk", "usage", "whole"]
    raw: bytes
