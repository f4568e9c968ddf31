"""Durations as people read them: in the status, in reasons, in tables."""

from __future__ import annotations


def written(duration: float) -> str:
    """Seconds as people write them, to three digits: `1m2s`, `4.5s`, `2h30m`; a printer column has to be read."""
    if duration < 60:
        return f"{float(f'{duration:.3g}'):g}s"
    whole = round(duration) if duration < 3600 else 60 * round(duration / 60)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)
