"""etcd, the API server, the controllers, the scheduler and cluster DNS."""

from __future__ import annotations

from tools.cluster.layout import command, filled
from tools.cluster.services import Services


def start(services: Services, hpa_sync: str) -> None:
    services.start("etcd", command("etcd"))
    services.start("kube-apiserver", command("kube-apiserver"))
    services.wait_until(
        lambda: services.kubectl("get", "--raw", "/readyz").returncode == 0, "the API server is ready"
    )
    services.start("kube-controller-manager", command("kube-controller-manager", hpa_sync=hpa_sync))
    services.start("kube-scheduler", command("kube-scheduler"))


def start_dns(services: Services) -> None:
    folder = services.state.folder
    (folder / "Corefile").write_text(filled("Corefile", folder=folder))
    services.start("coredns", command("coredns"))
    services.apply(filled("dns.yaml"))
