"""etcd, the API server, the controllers, the scheduler and cluster DNS."""

from __future__ import annotations

from tools.cluster.keys import SERVICE
from tools.cluster.layout import DNS_SERVICE, NODE_IP, SERVICE_RANGE
from tools.cluster.services import Services

ETCD = "http://127.0.0.1:2379"


def start(services: Services, hpa_sync: str) -> None:
    services.start("etcd", etcd())
    services.start("kube-apiserver", api_server())
    services.wait_until(
        lambda: services.kubectl("get", "--raw", "/readyz").returncode == 0, "the API server is ready"
    )
    services.start("kube-controller-manager", controller_manager(hpa_sync))
    services.start(
        "kube-scheduler", ["kube-scheduler", "--kubeconfig=scheduler.kubeconfig", "--leader-elect=false"]
    )


def etcd() -> list[str]:
    return [
        "etcd",
        "--data-dir=etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",  # the cluster does not outlive its processes
    ]


def api_server() -> list[str]:
    return [
        "kube-apiserver",
        f"--etcd-servers={ETCD}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--advertise-address={NODE_IP}",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        "--client-ca-file=pki/ca.crt",
        "--tls-cert-file=pki/apiserver.crt",
        "--tls-private-key-file=pki/apiserver.key",
        f"--service-account-issuer=https://{SERVICE}.cluster.local",
        "--service-account-key-file=pki/sa.pub",
        "--service-account-signing-key-file=pki/sa.key",
        "--kubelet-client-certificate=pki/kubelet-client.crt",
        "--kubelet-client-key=pki/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        # Aggregated APIs: prometheus-adapter and KEDA are such.
        "--enable-aggregator-routing",
        "--requestheader-client-ca-file=pki/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--proxy-client-cert-file=pki/front-proxy.crt",
        "--proxy-client-key-file=pki/front-proxy.key",
    ]


def controller_manager(hpa_sync: str) -> list[str]:
    return [
        "kube-controller-manager",
        "--kubeconfig=controller-manager.kubeconfig",
        "--leader-elect=false",
        "--use-service-account-credentials",
        "--root-ca-file=pki/ca.crt",
        "--service-account-private-key-file=pki/sa.key",
        "--cluster-signing-cert-file=pki/ca.crt",
        "--cluster-signing-key-file=pki/ca.key",
        f"--horizontal-pod-autoscaler-sync-period={hpa_sync}",
    ]


def start_dns(services: Services) -> None:
    """CoreDNS runs beside node 0; a Service without a selector points at it."""
    (services.state.folder / "Corefile").write_text(f"""\
.:53 {{
  bind {NODE_IP}
  errors
  kubernetes cluster.local {{
    kubeconfig {services.state.kubeconfig} dub5
  }}
}}
""")
    services.start("coredns", ["coredns", "-conf", "Corefile"])
    services.apply(f"""\
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system}}
spec:
  clusterIP: {DNS_SERVICE}
  ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: kube-dns, namespace: kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}}
addressType: IPv4
ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]
endpoints: [{{addresses: [{NODE_IP}], conditions: {{ready: true}}}}]
""")
