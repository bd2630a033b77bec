"""The engine's images run as the product will run them, and a client reaches one by its name through the edge."""

from __future__ import annotations

import socket
import subprocess
import uuid
from pathlib import Path

import grpc
import pytest
from pyzeebe.proto import gateway_pb2, gateway_pb2_grpc

from provisioning.catalogue import RELEASES
from tests.kubernetes import Kubernetes, Namespace, eventually
from tests.testbed import objects

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]


@pytest.mark.parametrize("version", [release.version for release in RELEASES])
def test_an_engine_answers_by_its_name(kubernetes: Kubernetes, version: str, tmp_path: Path) -> None:
    cluster_id = uuid.uuid4()
    host = f"{cluster_id}.{kubernetes.domain}"
    namespace = kubernetes.inside(f"fp-{cluster_id}")
    certificate, key = make_certificate(tmp_path, host)
    kubernetes.apply(objects.ENGINE.replace("PLACE", namespace.name).replace("VERSION", version))
    try:
        namespace.kubectl("create", "secret", "tls", "engine-tls", f"--cert={certificate}", f"--key={key}")
        namespace.kubectl("rollout", "status", "statefulset/broker", "--timeout=300s")
        assert eventually(lambda: topology_version(host, certificate) == version, seconds=120), logs(namespace)
    finally:
        kubernetes.kubectl("delete", "namespace", namespace.name, "--wait=false")


def test_the_edge_hangs_up_on_a_name_that_is_no_cluster(kubernetes: Kubernetes) -> None:
    with socket.create_connection((f"www.{kubernetes.domain}", 443), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.recv(1) == b""


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Write a certificate for this host, which is its own authority, and its key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += [
        "-subj",
        "/CN=engine",
        "-addext",
        f"subjectAltName=DNS:{host}",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate, key


def topology_version(host: str, certificate: Path) -> str:
    """Ask the engine behind this name for its version; empty when it does not answer."""
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(f"{host}:443", credentials) as channel:
        gateway = gateway_pb2_grpc.GatewayStub(channel)
        try:
            return str(gateway.Topology(gateway_pb2.TopologyRequest(), timeout=5).gatewayVersion)
        except grpc.RpcError:
            return ""


def logs(namespace: Namespace) -> str:
    return namespace.kubectl("logs", "broker-0", "--tail=30")
