"""Whether the arguments of a call are whole, while they come in parts. No I/O."""

from __future__ import annotations

import re

from dub5.providers.chunks import is_object

_MARKS = re.compile(r'\\.?|["{}]', re.DOTALL)
_BLANKS = " \t\r\n"
"""Of JSON."""


class Account:
    """Of `parts`, to which whoever has them adds. It may be asked after each of very many: each is read once, and they
    are joined once, where the first brace is closed."""

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts
        self._read = 0  # of them
        self._depth = 0
        self._quoted = False
        self._escape = ""  # a backslash at the end of what was read: it goes with what follows
        self._ended = self._whole = False

    def is_whole(self) -> bool:
        """Whether they are an object that is complete."""
        new = "".join(self._parts[self._read :])
        self._read = len(self._parts)
        if self._ended:
            self._whole = self._whole and not new.strip(_BLANKS)
        elif new:
            self._ended = self._ends_in(new)
            self._whole = self._ended and is_object(self._parts)
        return self._whole

    def _ends_in(self, new: str) -> bool:
        marks = _MARKS.findall(self._escape + new)
        self._escape = "\\" if marks[-1:] == ["\\"] else ""
        for mark in marks:
            if mark == '"':
                self._quoted = not self._quoted
            elif not self._quoted and mark in "{}":
                self._depth += 1 if mark == "{" else -1
                if self._depth <= 0:
                    return True
        return False
