"""What `dub5 autoscale recommend` leaves in a ConfigMap when it runs as a Job, which has no reader.

`verdict` says in words what was found, `table` what was compared, `snippet` has the lines of values.yaml to change and
`schedule` the objects that go with them, where there are any; `begun` and `ended` are when. The label `dub5.io/advice`
says it in a word: the present values meet the objective, miss it, or there is no advice, for a reason that is the
verdict then. A run that was killed leaves `begun` after `ended`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from types import FrameType
from typing import Literal

from dub5.cli.command import Failed
from dub5.cli.kubernetes import ConfigMap
from dub5.errors import ConfigError

LABEL = "dub5.io/advice"

MOST = {"verdict": 100_000, "table": 500_000, "snippet": 150_000, "schedule": 150_000}
"""Bytes of each; a ConfigMap may have 1 MiB."""

_ENDED = "it was ended before it was done: after the Job's activeDeadlineSeconds, or with its node"


def leave(
    place: ConfigMap,
    state: Literal["meets", "misses"],
    verdict: str,
    table: str,
    snippet: str | None,
    schedule: str | None,
) -> None:
    """Failed where the ConfigMap cannot be changed."""
    texts = {"verdict": verdict, "table": table, "snippet": snippet, "schedule": schedule}
    data = {key: None if text is None else shortened(text, MOST[key]) for key, text in texts.items()}
    place.patch(data | {"ended": _now()}, {LABEL: state})


@contextlib.contextmanager
def reason_left(place: ConfigMap) -> Iterator[None]:
    """Leave in `place` why there is no advice where the block fails, or SIGTERM ends it.

    Before the block, Failed where `place` cannot be changed: not after an hour's work.
    """
    place.patch({"begun": _now()})

    def ended(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # At once: after it there may be a few seconds only, and a simulation in another process takes longer to end.
        leave_none(place, _ENDED, pauses=())
        for child in multiprocessing.active_children():
            child.kill()
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    except Exception as error:
        signal.signal(signal.SIGTERM, before)
        leave_none(place, _words(error))
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_none(place: ConfigMap, reason: str, **options: Sequence[float]) -> None:
    """Say that there is no advice, and why. Where the ConfigMap cannot be changed nothing is raised: the command ends
    with the failure that is its reason."""
    with contextlib.suppress(Failed):
        verdict = shortened(f"none, because {reason}", MOST["verdict"])
        none = {"verdict": verdict, "table": None, "snippet": None, "schedule": None, "ended": _now()}
        place.patch(none, {LABEL: "none"}, **options)


def _words(error: Exception) -> str:
    match error:
        case Failed():
            return str(error)
        case ConfigError():
            return error.message
        case BrokenProcessPool():
            return "a simulation was killed: it may have needed more memory than there is (advisor.resources)"
        case _:
            return f"of a defect, {type(error).__name__}: the Job's log says more"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def shortened(text: str, most: int) -> str:
    """At most so many bytes of UTF-8: whole lines, and then one that says how much is missing."""
    written = text.encode()
    if len(written) <= most:
        return text
    note = (
        f"# … and {len(written)} bytes in all, which are more than there is room for; the Job's log has them."
    )
    kept = written[: most - len(note.encode()) - 1]
    return kept[: kept.rfind(b"\n") + 1].decode() + note
