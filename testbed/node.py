"""The one real node: containerd and runc, pods' network, kubelet, Services, NetworkPolicies, names, the edge."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from embedded.processes import run
from testbed import images
from testbed.bed import NODE_ADDRESS
from testbed.build import CNI_FOLDER
from testbed.control import NODE, apply_manifest
from testbed.plane import POD_NETWORK, words
from testbed.steps import step, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from testbed.bed import Bed
    from testbed.plane import Plane

PODS_HERE = "10.244.0.0/24"
# kube-network-policies marks a connection that it has let through, so that answers are not judged as connections of
# their own. The mark travels with its verdict, which kernels without CONFIG_NETFILTER_NETLINK_GLUE_CT drop silently:
# there, a pod that is isolated in both directions could not answer anybody. An answer exists only if the question was
# let through, so marking it here, just before it is looked at (srcnat - 5 = 95), opens nothing. The mark is the label
# 100, counted from the other end: 16 bytes, the first of which is the highest for it and the lowest for nft.
ANSWERS = """
table inet flowplane-answers
delete table inet flowplane-answers
table inet flowplane-answers {
  chain postrouting {
    type filter hook postrouting priority 94;
    ct direction reply ct state established ct label set 28
  }
}
"""
RESOLVER_OPTIONS = "options timeout:2 attempts:3"
# Plug-ins for file systems that nobody asks for; each says at length what it lacks.
UNUSED = (
    *(f"io.containerd.snapshotter.v1.{name}" for name in ("btrfs", "zfs", "devmapper", "erofs", "blockfile")),
    "io.containerd.differ.v1.erofs",
    "io.containerd.mount-handler.v1.erofs",
    "io.containerd.tracing.processor.v1.otlp",
)
CONTAINERD = """\
version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = {unused}
[grpc]
  address = "{socket}"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{pause}"
[plugins.'io.containerd.cri.v1.runtime']
  # Root of a small machine may lack CAP_SYS_RESOURCE; without this every pod fails there.
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "runc"
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "{network}"
[plugins.'io.containerd.internal.v1.opt']
  path = "{folder}/opt"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
"""


def start(bed: Bed, plane: Plane, archive: Path) -> None:
    """Start the node and return when pods run, names resolve and the edge answers. About 15 s."""
    with step("containerd answers"):
        _start_containerd(plane)
    with step("images imported"):
        import_images(plane, archive)
    with step("node ready"):
        _start_kubelet(bed, plane)
        _start_kube_proxy(plane)
        _start_network_policies(plane)
        plane.wait_for("the node registers", "get", "node", NODE, seconds=60)
        plane.wait_for("the node is ready", "wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=5s", seconds=90)
    with step("names resolve and the edge is ready"):
        _start_names_and_edge(plane)
        # In place: programs inside see this very file through a mount.
        bed.resolver.write_text(f"nameserver {plane.name_server}\n{RESOLVER_OPTIONS}\n")


def _start_containerd(plane: Plane) -> None:
    folder, network = plane.folder / "containerd", plane.folder / "cni"
    for one in (folder, network):
        one.mkdir(exist_ok=True)
    configuration = folder / "config.toml"
    configuration.write_text(
        CONTAINERD.format(
            folder=folder,
            socket=plane.containerd_socket,
            unused=json.dumps(UNUSED),
            pause=images.PAUSE,
            plugins=CNI_FOLDER,
            network=network,
        )
    )
    # One pair of interfaces for each pod and no bridge: whatever goes from pod to pod passes the node's own filters,
    # so Services and NetworkPolicies need no kernel module.
    ranges = {"type": "host-local", "dataDir": str(plane.folder / "addresses"), "ranges": [[{"subnet": PODS_HERE}]]}
    pairs = {"type": "ptp", "mtu": 1500, "ipMasq": False, "ipam": {**ranges, "routes": [{"dst": "0.0.0.0/0"}]}}
    (network / "10-testbed.conflist").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "testbed", "plugins": [pairs]})
    )
    path = os.pathsep.join((str(plane.programs.folder), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    plane.start("containerd", "--config", str(configuration), path=path)
    wait_until(lambda: _ctr_answers(plane), f"containerd answers (see {plane.logs})", seconds=120)


def _ctr_answers(plane: Plane) -> bool:
    return plane.containerd_socket.is_socket() and "Server" in _ctr(plane, "version")


def import_images(plane: Plane, archive: Path) -> None:
    """Before the kubelet starts: a pod whose image is missing waits longer each time it looks."""
    mark = plane.folder / "containerd" / f"imported-{archive.parent.name}"
    if not mark.exists():
        _ctr(plane, "--namespace", "k8s.io", "images", "import", "--local", str(archive))
        mark.touch()


def _ctr(plane: Plane, *arguments: str) -> str:
    argv = [str(plane.programs.box), "ctr", "--address", str(plane.containerd_socket), *arguments]
    return run(argv, purpose=f"ctr {' '.join(arguments)}", cwd=plane.folder)


def _start_kubelet(bed: Bed, plane: Plane) -> None:
    folder = plane.folder / "kubelet"
    folder.mkdir(exist_ok=True)
    # Pods ask the cluster's name server and nobody else.
    (plane.folder / "resolv.conf").touch()
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{bed.control_group}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{plane.containerd_socket}",
        "clusterDomain": "cluster.local",
        "clusterDNS": [plane.name_server],
        "resolvConf": str(plane.folder / "resolv.conf"),
        "podLogsDir": str(plane.folder / "pod-logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "address": NODE_ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "tlsCertFile": str(plane.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(plane.pki / "kubelet.key"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(plane.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "makeIPTablesUtilChains": False,  # kube-proxy uses nftables
        "maxPods": 200,
        "imageGCHighThresholdPercent": 100,  # an image that is removed cannot be had again
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
    }
    file = _write_once(folder / "config.json", configuration)
    plane.start(
        "kubelet",
        *words(
            config=str(file),
            kubeconfig=str(plane.folder / "kubelet.kubeconfig"),
            hostname_override=NODE,
            node_ip=NODE_ADDRESS,
            root_dir=str(folder),
            cert_dir=str(folder / "pki"),
            v="2",
        ),
    )


def _start_kube_proxy(plane: Plane) -> None:
    configuration = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(plane.folder / "kube-proxy.kubeconfig")},
        "clusterCIDR": POD_NETWORK,
        "bindAddress": NODE_ADDRESS,
        "nodePortAddresses": ["primary"],
        "healthzBindAddress": f"127.0.0.1:{plane.port(6)}",
        "metricsBindAddress": f"127.0.0.1:{plane.port(7)}",
        # Leave the kernel's own figures: they are the machine's.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    # kube-proxy ends when this file is written again, even with the same content.
    file = _write_once(plane.folder / "kube-proxy.json", configuration)
    plane.start("kube-proxy", *words(config=str(file), hostname_override=NODE))


def _start_network_policies(plane: Plane) -> None:
    plane.start(
        "network-policies",
        *words(
            kubeconfig=str(plane.kubeconfig),
            hostname_override=NODE,
            netfilter_bug_1766_fix="false",
            metrics_bind_address=f"127.0.0.1:{plane.port(8)}",
            fail_open="true",
        ),
    )
    rules = plane.folder / "answers.nft"
    rules.write_text(ANSWERS)
    run(["nft", "-f", str(rules)], purpose="Letting answers pass", cwd=plane.folder)


def _start_names_and_edge(plane: Plane) -> None:
    addresses = {"NAME_SERVER": plane.name_server, "EDGE": plane.edge}
    folder = str(plane.programs.folder)
    apply_manifest(plane, "dns.yaml", DOMAIN=plane.domain, IMAGE=images.PAUSE, PROGRAMS=folder, **addresses)
    apply_manifest(plane, "edge.yaml", IMAGE=images.EDGE, **addresses)
    for namespace, name in (("kube-system", "coredns"), ("flowplane-edge", "edge")):
        rollout = ("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=5s")
        plane.wait_for(f"{name} is ready", *rollout, seconds=90)


def _write_once(path: Path, content: Mapping[str, object]) -> Path:
    if not path.exists():
        path.write_text(json.dumps(content, indent=1))
    return path
