"""Keys and certificates of one cluster, good for 30 days, and the kubeconfigs that use them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.cluster.layout import API_SERVICE, NODE_IP, Node, filled

SERVICE = "kubernetes.default.svc"
API_NAMES = [
    *(
        "DNS:localhost",
        "DNS:kubernetes",
        "DNS:kubernetes.default",
        f"DNS:{SERVICE}",
        f"DNS:{SERVICE}.cluster.local",
    ),
    *("IP:127.0.0.1", f"IP:{NODE_IP}", f"IP:{API_SERVICE}"),
]
CLIENTS = {  # who may call the API server, and as whom
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
}
OF_THE_API_SERVER = {
    "front-proxy": "/CN=front-proxy-client",
    "kubelet-client": "/O=system:masters/CN=kubelet-client",
}
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
EXTENSIONS = """\
basicConstraints=CA:FALSE
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""  # RFC 5280 asks for the last; Python 3.13 refuses a certificate without it


def make(folder: Path, nodes: list[Node]) -> None:
    """Writes folder/pki, and a kubeconfig for each client into `folder`."""
    pki = folder / "pki"
    pki.mkdir()
    authority(pki)
    openssl(pki, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", "sa.key")
    openssl(pki, "pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub")
    certificate(pki, "apiserver", "/CN=kube-apiserver", API_NAMES)
    for name, subject in {**CLIENTS, **OF_THE_API_SERVER}.items():
        certificate(pki, name, subject)
    for node in nodes:
        names = [f"DNS:{node.name}", f"IP:{node.ip}"]
        certificate(pki, node.name, f"/O=system:nodes/CN=system:node:{node.name}", names)
    for name in [*CLIENTS, *(node.name for node in nodes)]:
        (folder / f"{name}.kubeconfig").write_text(filled("kubeconfig", folder=folder, name=name))


def authority(pki: Path) -> None:
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    subject = ["-subj", "/CN=test-ca", "-days", "30"]
    openssl(pki, "req", "-x509", *NEW_KEY, "-keyout", "ca.key", "-out", "ca.crt", *subject, *usage)


def certificate(pki: Path, name: str, subject: str, names: list[str] | None = None) -> None:
    extensions = pki / f"{name}.ext"
    extensions.write_text(EXTENSIONS + (f"subjectAltName={','.join(names)}\n" if names else ""))
    request = f"{name}.csr"
    openssl(pki, "req", *NEW_KEY, "-keyout", f"{name}.key", "-out", request, "-subj", subject)
    signer = [
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "30",
        "-extfile",
        extensions.name,
    ]
    openssl(pki, "x509", "-req", "-in", request, "-out", f"{name}.crt", *signer)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)
