"""A real API server for tests of the operator: etcd and kube-apiserver, without a kubelet.

They are taken from PATH, or from where the cluster tests keep what they build; tests that need them are skipped where
there are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml
from redis.asyncio import Redis
from redis.driver_info import DriverInfo

from dub5_operator.crd import GROUP, VERSION, invalidations_definition, policies_definition
from testkit.processes import free_port
from testkit.programs import which

NAMESPACE = "chat"
_TIMEOUT = 60.0


class ApiServer:
    """Where it is, and tokens: of an administrator, and of the operator with the rights that the chart gives."""

    def __init__(self, url: str, ca_file: Path, admin: str, operator: str) -> None:
        self.url, self.ca_file, self.admin, self.operator = url, ca_file, admin, operator

    def client(self) -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        headers = {"authorization": f"Bearer {self.admin}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, verify=context, timeout=60)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    etcd, apiserver = which("etcd"), which("kube-apiserver")
    if etcd is None or apiserver is None:
        pytest.skip("needs etcd and kube-apiserver: on PATH, or as `make test-cluster` builds them")
    directory = tmp_path_factory.mktemp("kubernetes")
    with contextlib.ExitStack() as stack:
        store = f"http://127.0.0.1:{free_port()}"
        peer = f"http://127.0.0.1:{free_port()}"
        _start(
            stack,
            directory / "etcd.log",
            etcd,
            f"--data-dir={directory / 'etcd'} --unsafe-no-fsync --listen-client-urls={store} "
            f"--advertise-client-urls={store} --listen-peer-urls={peer} --initial-advertise-peer-urls={peer} "
            f"--initial-cluster=default={peer}",
        )
        port = free_port()
        server = ApiServer(f"https://127.0.0.1:{port}", *_write_secrets(directory))
        _start(
            stack,
            directory / "apiserver.log",
            apiserver,
            f"--etcd-servers={store} --bind-address=127.0.0.1 --secure-port={port} --authorization-mode=RBAC "
            f"--tls-cert-file={directory}/server.pem --tls-private-key-file={directory}/server.key "
            f"--token-auth-file={directory}/tokens.csv --service-account-issuer=https://kubernetes.default.svc "
            f"--service-account-key-file={directory}/server.key --profiling=false "
            f"--service-account-signing-key-file={directory}/server.key --service-cluster-ip-range=10.0.0.0/24",
        )
        _wait_ready(server)
        _install(server)
        yield server


def _start(stack: contextlib.ExitStack, log: Path, program: str, options: str) -> None:
    output = stack.enter_context(log.open("wb"))
    process = subprocess.Popen([program, *options.split()], stdout=output, stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def _write_secrets(directory: Path) -> tuple[Path, str, str]:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(str(directory / "server.key"))
    certificate.cert_chain_pems[0].write_to_path(str(directory / "server.pem"))
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    admin, operator = secrets.token_hex(16), secrets.token_hex(16)
    tokens = f'{admin},admin,1,"system:masters"\n{operator},dub5-operator,2\n'
    (directory / "tokens.csv").write_text(tokens)
    return directory / "ca.pem", admin, operator


def _wait_ready(server: ApiServer) -> None:
    """Before the event loop of any test; a test that waits for it inside would hold its loop."""
    deadline = time.monotonic() + _TIMEOUT
    while True:
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            _call(server, "GET", "/readyz")
            return
        if time.monotonic() > deadline:
            pytest.fail("kube-apiserver did not become ready")
        time.sleep(0.2)


def _call(server: ApiServer, method: str, path: str, body: Any = None) -> None:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    headers = {"authorization": f"Bearer {server.admin}"}
    answer = httpx.request(method, server.url + path, json=body, headers=headers, verify=context, timeout=60)
    if answer.is_error:
        raise RuntimeError(answer.text)


def _install(server: ApiServer) -> None:
    """The definitions, a namespace, and the operator's rights: what the chart installs."""
    _call(server, "POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for definition in map(yaml.safe_load, (policies_definition(), invalidations_definition())):
        _call(server, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    rights = {"metadata": {"name": "dub5-operator"}, "rules": RULES}
    subject = {"kind": "User", "name": "dub5-operator", "apiGroup": "rbac.authorization.k8s.io"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "dub5-operator"}
    binding = {"metadata": {"name": "dub5-operator"}, "roleRef": reference, "subjects": [subject]}
    base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
    _call(server, "POST", f"{base}/roles", rights)
    _call(server, "POST", f"{base}/rolebindings", binding)
    deadline = time.monotonic() + _TIMEOUT
    for plural in ("cachepolicies", "cacheinvalidations"):
        while True:
            with contextlib.suppress(RuntimeError):
                _call(server, "GET", f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{plural}")
                break
            assert time.monotonic() < deadline, "definitions are not served"
            time.sleep(0.1)


RULES: list[dict[str, Any]] = [
    {
        "apiGroups": [GROUP],
        "resources": ["cachepolicies", "cacheinvalidations"],
        "verbs": ["get", "list", "watch", "patch"],
    },
    {
        "apiGroups": [GROUP],
        "resources": ["cachepolicies/status", "cacheinvalidations/status"],
        "verbs": ["patch"],
    },
    {"apiGroups": [GROUP], "resources": ["cacheinvalidations"], "verbs": ["delete"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]
"""What the operator may do, and no more. The chart's Role says the same."""


@pytest.fixture
async def client(redis: str) -> AsyncIterator[Redis]:
    """The tests' own connection to the real Redis."""
    client = await asyncio.to_thread(Redis.from_url, redis, driver_info=DriverInfo(lib_version="1"))
    async with client:
        yield client


@pytest.fixture(autouse=True)
def no_proxy() -> None:
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
