"""How an explanation fails."""

from __future__ import annotations


class Refused(Exception):
    """There is nothing to show; the message is for people."""
