"""The Kubernetes API as commands use it in a pod: where it is, and one ConfigMap that a result is left in."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from dub5.cli.command import Failed

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod's token is, and the authority that the API's certificate is of."""

OF = "dub5.io/advice-of"
"""The annotation by which the chart says whose advice its ConfigMap is for."""

_TIMEOUT = 10.0
_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each further try where the API is away or busy: what was worked out for long waits for a minute."""


class Cluster(NamedTuple):
    """A Kubernetes API: its address, the token to show and how to know it."""

    url: str
    token: str = ""
    verify: ssl.SSLContext | bool = True


def in_cluster(environment: Mapping[str, str]) -> Cluster:
    """The API of the cluster that this runs in, with the pod's own token; Failed outside of one."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise Failed(
            "not in a cluster: say where its API is with --api, such as the address of `kubectl proxy`"
        )
    try:
        token = (ACCOUNT / "token").read_text(encoding="ascii").strip()
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    except OSError:
        raise Failed("this pod has no token: its service account must be mounted") from None
    return Cluster(f"https://{bracketed(host)}:{port}", token, context)


def bracketed(address: str) -> str:
    """As a URL has it."""
    return f"[{address}]" if ":" in address else address


class ConfigMap:
    """One that is there: it is patched only, for which the right can be given by its name.

    `cluster` is asked at each call, since a pod's token is renewed while it runs. With `of` it is changed only while
    its annotation OF says the same: a pod of a Job that an upgrade has replaced may be there for some time.
    """

    def __init__(
        self, name: str, namespace: str, cluster: Callable[[], Cluster], *, of: str | None = None
    ) -> None:
        self._name, self._namespace, self._cluster, self._of = name, namespace, cluster, of

    def patch(
        self,
        data: Mapping[str, str | None] | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        pauses: Sequence[float] = _PAUSES,
    ) -> None:
        """Set these keys and labels, or take away those that are None; without any, see whether that is allowed.

        It is tried again after each of `pauses` while the API is away. Failed where it stays so, or refuses.
        """
        body = {"data": data or {}, "metadata": {"labels": labels or {}}}
        for pause in pauses:
            try:
                return self._change(body)
            except _Away:
                time.sleep(pause)
        return self._change(body)

    def _change(self, body: dict[str, Any]) -> None:
        if self._of is None:
            self._patch(body)
            return
        # A patch without anything gives what is there, without a right to read it.
        now = self._patch({"metadata": {}}).metadata
        if now.annotations.get(OF) != self._of:
            raise Failed(
                f"ConfigMap {self._name} is of another Job by now: its annotation {OF} is not {self._of}"
            )
        # What another one has changed in between is refused, as a conflict.
        self._patch(body | {"metadata": body["metadata"] | {"resourceVersion": now.resource_version}})

    def _patch(self, body: dict[str, Any]) -> _Object:
        cluster = self._cluster()
        headers = {"content-type": "application/merge-patch+json"}
        if cluster.token:
            headers["authorization"] = f"Bearer {cluster.token}"
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/{self._name}"
        try:
            with httpx.Client(base_url=cluster.url, verify=cluster.verify, timeout=_TIMEOUT) as api:
                answer = api.patch(path, content=msgspec.json.encode(body), headers=headers)
        except httpx.InvalidURL:
            raise Failed(f"--api: {cluster.url} is no address, such as http://127.0.0.1:8001") from None
        except httpx.HTTPError as error:
            raise _Away(f"cannot reach the Kubernetes API: {str(error) or type(error).__name__}") from None
        if answer.status_code == 404:
            raise Failed(f"there is no ConfigMap {self._name} in {self._namespace}, or no such namespace")
        if answer.status_code != 200:
            kind = _Away if answer.status_code in {409, 429} or answer.status_code >= 500 else Failed
            raise kind(f"the Kubernetes API answered {answer.status_code}: {_reason(answer.content)}")
        try:
            return msgspec.json.decode(answer.content, type=_Object)
        except msgspec.MsgspecError as error:
            raise Failed(f"the Kubernetes API answered with no ConfigMap: {error}") from None


class _Away(Failed):
    """The API may answer later, or otherwise."""


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] = {}


class _Object(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class _Status(msgspec.Struct):
    message: str


def _reason(body: bytes) -> str:
    """The message of a Status, else the beginning of whatever it is."""
    try:
        return msgspec.json.decode(body, type=_Status).message[:500]
    except msgspec.MsgspecError:
        return body[:200].decode(errors="replace").strip()
