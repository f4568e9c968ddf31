"""`dub5 policy explain`: a policy that is in force. It looks on, and writes nothing.

It reads the policy, and what its class has shown as the operator stored it, with the samples that came since, and
decides once more.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from dub5_operator.crd import CachePolicySpec, Json
from dub5_operator.explain.cluster import log_in, read_policy
from dub5_operator.explain.reading import Explained, announced, announcement_of, read, shown
from dub5_operator.explain.refused import Refused
from dub5_operator.redis import Samples


async def explain_policy(redis: Any, name: str, namespace: str | None) -> Explained:
    """A policy that is in force. Refused where there is none, or nothing is known of its class. `redis` is an asyncio
    client with bytes for answers; `namespace` None: the pod's own, or the kubeconfig's."""
    info = await asyncio.to_thread(log_in)
    namespace = namespace or info.default_namespace or "default"
    found = await read_policy(info, namespace, name)
    status: Json = found.get("status") or {}
    try:
        spec = msgspec.convert(found.get("spec"), CachePolicySpec, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(f"CachePolicy {name} is of another release: {error}.") from None
    _require_in_force(name, status)
    samples = Samples(redis, time.time, of={spec.cache_class}, looks_on=True)
    await read(samples)
    configured = announced(announcement_of(samples), spec.cache_class)
    explained = shown(samples, spec, configured, float(status["ttlSeconds"]))
    if explained is None:
        raise Refused(
            f"No look-ups of the class {spec.cache_class} were sampled yet: there is nothing to tell by."
        )
    return msgspec.structs.replace(explained, status=status, policy=f"{namespace}/{name}", mode=spec.mode)


def _require_in_force(name: str, status: Mapping[str, Any]) -> None:
    conditions = status.get("conditions") or []
    ready = next((each for each in conditions if each.get("type") == "Ready"), None)
    if ready is None:
        raise Refused(f"CachePolicy {name} was not reconciled yet: no operator watches its namespace.")
    if ready.get("status") != "True":
        raise Refused(f"CachePolicy {name} is not in force: {ready.get('message')}")
    ttl = status.get("ttlSeconds")
    if not isinstance(ttl, (int, float)) or not 0 <= ttl < math.inf:
        raise Refused(f"CachePolicy {name} was reconciled by another release: its status has no ttlSeconds.")
