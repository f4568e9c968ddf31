"""Metrics, log lines and traces of the service."""

import sys

# Where rich is installed structlog loads it, for tracebacks on a terminal that nothing here prints: 4 MiB of a replica.
_hidden = "rich" not in sys.modules
if _hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402, F401

if _hidden:
    del sys.modules["rich"]
