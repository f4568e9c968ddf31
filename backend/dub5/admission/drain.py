"""Whether this replica still takes work. Begun once, by SIGTERM, and never undone.

Pooled clients stay on a pod for longer than its endpoint is advertised. So for `linger` seconds new requests
are answered normally, each with `Connection: close`, which moves its client elsewhere; later ones get 503.
"""

from __future__ import annotations

from typing import Literal

State = Literal["serving", "lingering", "closed"]


class Drain:
    """`state` goes from serving over lingering to closed; `ready` is what /readyz says."""

    def __init__(self) -> None:
        self.state: State = "serving"

    @property
    def ready(self) -> bool:
        return self.state == "serving"

    def linger(self) -> None:
        if self.state == "serving":
            self.state = "lingering"

    def close(self) -> None:
        self.state = "closed"
