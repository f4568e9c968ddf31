"""A connection's other side, where bytes are fed to a protocol without a socket."""

from __future__ import annotations

import asyncio
from typing import Any


class Taking(asyncio.Transport):
    """Takes all that is written, at once; what becomes of that is a subclass's."""

    def __init__(self, extra: dict[str, Any] | None = None) -> None:
        super().__init__(extra)
        self.closed = False

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    resume_reading = pause_reading
