"""`Cache-Status` of RFC 9211: what the cache did, for people and programs to read."""

from __future__ import annotations

from typing import Literal

import msgspec

Forward = Literal["bypass", "uri-miss", "stale", "request"]
"""Section 2.2: not consulted, nothing there, too old, or the request asked for a new one."""

Result = Literal["local", "shared", "stale", "collapsed", "miss", "bypass"]
"""The `result` label of `dub5_cache_lookups_total`."""


class CacheStatus(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One member of the header's list; `hit` and `fwd` exclude each other."""

    hit: bool = False
    fwd: Forward | None = None
    ttl: float | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None

    def __str__(self) -> str:
        parts = ["dub5"]
        if self.hit:
            parts.append("hit")
        if self.fwd is not None:
            parts.append(f"fwd={self.fwd}")
        if self.ttl is not None:
            parts.append(f"ttl={int(self.ttl // 1)}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.detail is not None:
            parts.append(f"detail={self.detail}")
        return "; ".join(parts)
