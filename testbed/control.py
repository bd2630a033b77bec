"""The control plane's own processes: etcd, API server, controllers, scheduler, volumes."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from testbed import pki
from testbed.bed import NODE_ADDRESS
from testbed.plane import words
from testbed.steps import step

if TYPE_CHECKING:
    from collections.abc import Callable

    from testbed.plane import Plane

NODE = "node"
MANIFESTS = Path(__file__).resolve().parent / "manifests"
MARKER = "flowplane-testbed"
# Enough for a benchmark that makes hundreds of namespaces: the defaults (20, 30) hold everybody back.
REQUESTS = {"kube_api_qps": "300", "kube_api_burst": "600"}
# And for thousands with their history: at etcd's default of 2 GiB it takes no more writes.
STORE_BYTES = str(8 * 2**30)
# As kubeadm has it. Without, the API server has no bookmark to send for a kind of which nothing changes.
PROGRESS = "5s"


def start(plane: Plane, *, audited: str = "") -> None:
    """Start a control plane and return when it serves. About 5 s; what runs already stays as it is.

    Every request of the group `audited` gets a line in `log/audit.log`: who counts requests needs no proxy.
    """
    with step("certificates"):
        pki.provide(plane, NODE)
    with step("etcd and kube-apiserver answer"):
        _start_etcd(plane)
        _start_api_server(plane, audited)
        plane.wait_for("kube-apiserver is ready", "get", "--raw", "/readyz", seconds=90)
    with step("controllers and scheduler at work"):
        _start_controllers(plane)
        plane.wait_for(
            "the default service account is there", "-n", "default", "get", "serviceaccount", "default", seconds=60
        )
    plane.start("folder-volumes", *words(kubeconfig=str(plane.kubeconfig), root=str(plane.volumes)))
    apply_manifest(plane, "cluster.yaml", MARKER=MARKER, NAME=plane.name, DOMAIN=plane.domain)


def apply_manifest(plane: Plane, name: str, **values: str) -> None:
    """Apply one of our manifests with its `$NAMES` filled in."""
    plane.apply(Template((MANIFESTS / name).read_text()).substitute(values))


def _start_etcd(plane: Plane) -> None:
    clients, peers = (f"http://127.0.0.1:{plane.port(number)}" for number in (1, 2))
    plane.start(
        "etcd",
        "--unsafe-no-fsync",  # it is thrown away with the machine's first trouble
        *words(
            data_dir=str(plane.folder / "etcd"),
            quota_backend_bytes=STORE_BYTES,
            watch_progress_notify_interval=PROGRESS,
            log_level="warn",
            listen_client_urls=clients,
            advertise_client_urls=clients,
            listen_peer_urls=peers,
            initial_advertise_peer_urls=peers,
            initial_cluster=f"default={peers}",
        ),
    )


def _start_api_server(plane: Plane, audited: str) -> None:
    key = _in(plane)
    plane.start(
        "kube-apiserver",
        *words(
            etcd_servers=f"http://127.0.0.1:{plane.port(1)}",
            bind_address="0.0.0.0",
            advertise_address=NODE_ADDRESS,
            secure_port=str(plane.port(0)),
            tls_cert_file=key("apiserver.crt"),
            tls_private_key_file=key("apiserver.key"),
            client_ca_file=key("ca.crt"),
            kubelet_client_certificate=key("apiserver-kubelet-client.crt"),
            kubelet_client_key=key("apiserver-kubelet-client.key"),
            kubelet_certificate_authority=key("ca.crt"),
            kubelet_preferred_address_types="InternalIP",
            requestheader_client_ca_file=key("ca.crt"),
            requestheader_allowed_names="front-proxy-client",
            requestheader_username_headers="X-Remote-User",
            requestheader_group_headers="X-Remote-Group",
            requestheader_extra_headers_prefix="X-Remote-Extra-",
            proxy_client_cert_file=key("front-proxy-client.crt"),
            proxy_client_key_file=key("front-proxy-client.key"),
            service_account_key_file=key("service-accounts.key"),
            service_account_signing_key_file=key("service-accounts.key"),
            service_account_issuer="https://kubernetes.default.svc.cluster.local",
            service_cluster_ip_range=plane.services,
            authorization_mode=("Node", "RBAC"),
            enable_admission_plugins="NodeRestriction",
            allow_privileged="true",
            profiling="false",
            **(_audit(plane, audited) if audited else {}),
        ),
    )


def _audit(plane: Plane, group: str) -> dict[str, str]:
    """Return the API server's arguments for a log of one group's requests, without what they carry."""
    rules = [{"level": "Metadata", "userGroups": [group]}, {"level": "None"}]
    about = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
    policy = plane.folder / "audit.json"
    policy.write_text(json.dumps(about))
    # In one file, however large: whoever reads along would miss the end of one that is put away.
    return {
        "audit_policy_file": str(policy),
        "audit_log_path": str(plane.logs / "audit.log"),
        "audit_log_maxsize": "10000",
    }


def _start_controllers(plane: Plane) -> None:
    key = _in(plane)
    plane.start(
        "kube-controller-manager",
        *_identity(plane, "kube-controller-manager", port=3),
        *words(
            use_service_account_credentials="true",
            service_account_private_key_file=key("service-accounts.key"),
            root_ca_file=key("ca.crt"),
            cluster_signing_cert_file=key("ca.crt"),
            cluster_signing_key_file=key("ca.key"),
            # 10 by default, and a namespace's end is what a deleted engine cluster waits for longest.
            concurrent_namespace_syncs="20",
            concurrent_statefulset_syncs="20",
        ),
    )
    plane.start("kube-scheduler", *_identity(plane, "kube-scheduler", port=4))


def _identity(plane: Plane, component: str, *, port: int) -> list[str]:
    kubeconfig = str(plane.folder / f"{component}.kubeconfig")
    return words(
        kubeconfig=kubeconfig,
        authentication_kubeconfig=kubeconfig,
        authorization_kubeconfig=kubeconfig,
        bind_address="127.0.0.1",
        secure_port=str(plane.port(port)),
        leader_elect="false",
        **REQUESTS,
    )


def _in(plane: Plane) -> Callable[[str], str]:
    """Return a function from the name of a key or certificate to its path."""
    return lambda name: str(plane.pki / name)
