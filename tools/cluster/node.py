"""One node: containerd, kubelet, kube-proxy."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tools.cluster import mounts
from tools.cluster.layout import DNS_SERVICE, POD_RANGE, Node
from tools.cluster.places import State
from tools.cluster.services import Services, is_socket

CONTROLLERS = Path("/sys/fs/cgroup")


def start(services: Services, node: Node) -> None:
    folder = services.state.folder / node.name
    (folder / "cni").mkdir(parents=True)
    Path(node.containerd).parent.mkdir()
    make_control_group(f"{services.state.control_group}/{node.name}")
    (folder / "containerd.toml").write_text(containerd_config(node, folder))
    (folder / "cni" / "10-pods.conflist").write_text(pod_network(node, folder))
    (folder / "kubelet.yaml").write_text(kubelet_config(services.state, node))

    containerd = ["containerd", "--config", str(folder / "containerd.toml")]
    first = services.start(f"containerd-{node.index}", containerd, [*node.network, *mounts.of_a_node()])
    # The kubelet ends at once where it finds no containerd.
    services.wait_until(is_socket(node.containerd), f"containerd of {node.name} listens")
    beside = ["nsenter", f"--target={first}", "--mount", "--net"]
    services.start(f"kubelet-{node.index}", kubelet(services.state, node), beside)
    services.start(f"kube-proxy-{node.index}", kube_proxy(services.state, node), beside)


def containerd_config(node: Node, folder: Path) -> str:
    return f"""\
version = 3
root = "{folder}/containerd"
state = "/run/{node.name}/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = "{node.containerd}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true  # where root lacks CAP_SYS_RESOURCE
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{folder}/cni"
"""


def pod_network(node: Node, folder: Path) -> str:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": node.pod_range}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(folder / "addresses"),
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps(
        {"cniVersion": "1.0.0", "name": "pods", "plugins": [{**bridge, "ipam": addresses}, ports]}
    )


def kubelet_config(state: State, node: Node) -> str:
    """Each node has its own control group: kubelets that share one end each other's pods."""
    return f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  x509: {{clientCAFile: {state.folder}/pki/ca.crt}}
  webhook: {{enabled: true}}
  anonymous: {{enabled: false}}
authorization: {{mode: Webhook}}
clusterDomain: cluster.local
clusterDNS: [{DNS_SERVICE}]
containerRuntimeEndpoint: unix://{node.containerd}
cgroupDriver: cgroupfs
cgroupRoot: /{state.control_group}/{node.name}
failCgroupV1: false
failSwapOn: false
resolvConf: /dev/null
tlsCertFile: {state.folder}/pki/{node.name}.crt
tlsPrivateKeyFile: {state.folder}/pki/{node.name}.key
evictionHard: {{memory.available: 100Mi}}
imageGCHighThresholdPercent: 100
shutdownGracePeriod: 0s
"""


def kubelet(state: State, node: Node) -> list[str]:
    return [
        "kubelet",
        f"--config={state.folder}/{node.name}/kubelet.yaml",
        f"--kubeconfig={state.folder}/{node.name}.kubeconfig",
        f"--hostname-override={node.name}",
        f"--node-ip={node.ip}",
        f"--root-dir={state.folder}/{node.name}/kubelet",
    ]


def kube_proxy(state: State, node: Node) -> list[str]:
    return [
        "kube-proxy",
        f"--kubeconfig={state.folder}/kube-proxy.kubeconfig",
        f"--hostname-override={node.name}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_RANGE}",
        "--conntrack-max-per-core=0",  # the machine's, not ours to set
    ]


def make_control_group(name: str) -> None:
    """In every hierarchy of version 1 (where a cpuset starts empty, and nothing may run in it), or in the one of 2."""
    for hierarchy in hierarchies():
        with contextlib.suppress(OSError):  # some are read-only
            (hierarchy / name).mkdir(parents=True, exist_ok=True)
    cpusets = CONTROLLERS / "cpuset"
    if cpusets.is_dir():
        group = cpusets
        for part in Path(name).parts:
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / part / file).write_text((group / file).read_text())
            group /= part


def hierarchies() -> list[Path]:
    if (CONTROLLERS / "cgroup.controllers").exists():
        return [CONTROLLERS]
    return [path for path in CONTROLLERS.iterdir() if path.is_dir()]
