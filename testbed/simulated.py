"""Simulated nodes: pods there become ready at once and run nothing, so hundreds of clusters fit on one machine.

Asked through the API server on the engine's management port, each of them answers as a broker that is well and alone
(`engines.py`): whoever looks after engines finds nothing to do, as with real ones.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING

from embedded.processes import run
from testbed.plane import SIMULATED_NETWORK, words
from testbed.steps import step

if TYPE_CHECKING:
    from testbed.plane import Plane

# A pod comes here only when it asks for the label and tolerates the taint: a real one never lands here by chance.
LABEL = {"type": "simulated"}
TAINT = "kwok.x-k8s.io/node"
# Of pods that are to come to such a node.
SCHEDULING = {"nodeSelector": LABEL, "tolerations": [{"key": TAINT, "operator": "Exists"}]}
NETWORK = str(ipaddress.ip_interface(SIMULATED_NETWORK).network)
SIZE = {"cpu": "64", "memory": "512Gi", "pods": "1000"}


def start(plane: Plane, nodes: int) -> None:
    """Start the simulator and see that there are this many nodes. About 1 s."""
    with step(f"{nodes} simulated nodes"):
        plane.start(
            "kwok",
            *words(
                kubeconfig=str(plane.kubeconfig),
                config=str(plane.programs.stages),
                manage_all_nodes="false",
                manage_nodes_with_annotation_selector=f"{TAINT}=fake",
                cidr=SIMULATED_NETWORK,
                node_ip=SIMULATED_NETWORK.partition("/")[0],
                node_lease_duration_seconds="40",
                server_address=f"127.0.0.1:{plane.port(5)}",
            ),
        )
        plane.start("engines", SIMULATED_NETWORK)
        # Every address of the network is this machine's, so whoever asks a pod asks the one server behind all of them.
        route = ["ip", "route", "replace", "local", NETWORK, "dev", "lo"]
        run(route, purpose="Leading simulated pods' addresses here", cwd=plane.folder)
        names = [f"simulated-{number}" for number in range(nodes)]
        plane.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [_node(name) for name in names]}))
        ready = ("wait", "--for=condition=Ready", "--timeout=5s", *(f"node/{name}" for name in names))
        plane.wait_for("the simulated nodes are ready", *ready, seconds=60)


def _node(name: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {TAINT: "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {
                **LABEL,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": name,
            },
        },
        "spec": {"taints": [{"key": TAINT, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": SIZE, "capacity": SIZE},
    }
