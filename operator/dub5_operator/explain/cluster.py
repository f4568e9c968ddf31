"""One object of the Kubernetes API, read once: as kopf logs in, without the rest of it."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import aiohttp
import kopf
import msgspec

from dub5_operator.crd import GROUP, POLICIES, VERSION, Json
from dub5_operator.explain.refused import Refused

TIMEOUT = 30.0
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def log_in() -> kopf.ConnectionInfo:
    """In a pod by its token, elsewhere by the kubeconfig. Refused where there is neither. Reads files."""
    options: Any = {"settings": kopf.OperatorSettings(), "logger": logging.getLogger(__name__)}
    try:
        found = kopf.login_with_service_account(**options) or kopf.login_with_kubeconfig(**options)
    except Exception as error:  # noqa: BLE001  # it takes the files to be as they should
        raise Refused(f"The kubeconfig cannot be used: {_words(error)}.") from None
    if found is None:
        raise Refused(
            "There is no cluster here: set KUBECONFIG, or run this in the operator's pod, "
            "kubectl exec deployment/dub5-operator -- dub5 policy explain NAME."
        )
    return found


async def read_policy(info: kopf.ConnectionInfo, namespace: str, name: str) -> Json:
    """A CachePolicy. Refused where it cannot be had."""
    for what, word in (("name", name), ("namespace", namespace)):
        if not _NAME.fullmatch(word):
            raise Refused(f"{word!r} is no {what} of Kubernetes: it is of small letters, digits, - and dots.")
    url = f"{info.server.rstrip('/')}/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{POLICIES}/{name}"
    try:
        connector = aiohttp.TCPConnector(ssl=await asyncio.to_thread(info.as_ssl_context))
        async with (
            aiohttp.ClientSession(
                connector=connector,
                headers=info.as_http_headers(),
                timeout=aiohttp.ClientTimeout(TIMEOUT),
                trust_env=info.trust_env,
            ) as session,
            session.get(url, proxy=info.proxy_url) as response,
        ):
            status, body = response.status, await response.read()
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
        raise Refused(f"The Kubernetes API does not answer: {_words(error)}.") from None
    try:
        found = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        found = {}
    if status == 200 and found:
        return found
    if status == 404 and (found.get("details") or {}).get("name") == name:
        raise Refused(f"There is no CachePolicy {name} in the namespace {namespace}.")
    if status == 404:
        raise Refused("The cluster knows no CachePolicy: the chart has it with operator.enabled=true.")
    raise Refused(f"The Kubernetes API answers {status}: {found.get('message') or 'no reason given'}.")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
