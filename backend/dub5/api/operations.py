"""The operations listener: `/livez`, `/readyz`, `/metrics`. Never on the public port, which has `/health`.

Trouble with Redis or a provider does not make a replica unready: it degrades, and taking every replica out
of the load balancer at once would turn a slow cache into an outage.
"""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.di import NamedDependency

from dub5.admission.drain import Drain
from dub5.errors import Overloaded, shutting_down
from dub5.telemetry.metrics import Metrics


@get("/livez", media_type=MediaType.TEXT)
async def livez() -> str:
    """The event loop turns."""
    return "alive\n"


@get("/readyz")
async def readyz(drain: NamedDependency[Drain]) -> Response[str]:
    """Traffic may come; 503 from the moment that draining begins."""
    text, status = ("ready\n", 200) if drain.ready else ("draining\n", 503)
    return Response(text, status_code=status, media_type=MediaType.TEXT)


@get("/health", media_type=MediaType.TEXT)
async def health(drain: NamedDependency[Drain]) -> str:
    """For load balancers and load tools, which ask the port that they use: as `/readyz`, and says no more."""
    if not drain.ready:
        raise shutting_down()
    return "ok\n"


@get("/metrics")
async def exposition(request: Request[Any, Any, Any], metrics: NamedDependency[Metrics]) -> Response[bytes]:
    """Prometheus text, or OpenMetrics where asked for."""
    try:
        body, content_type = await metrics.exposition(request.headers.get("accept", ""))
    except TimeoutError:
        raise Overloaded("The metrics could not be read in time.", retry_after=1) from None
    return Response(body, headers={"content-type": content_type})
