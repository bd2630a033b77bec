"""One certificate authority, and who is who in a small cluster."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

from embedded.files import write_whole
from embedded.processes import run
from testbed.bed import NODE_ADDRESS

if TYPE_CHECKING:
    from testbed.plane import Plane

DAYS = "3650"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
API_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


def provide(plane: Plane, node: str) -> None:
    """Write keys, certificates and kubeconfigs, unless they are there. About half a second."""
    if plane.kubeconfig.exists():
        return
    folder = plane.pki
    authority = ("-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=flowplane-testbed", "-days", DAYS)
    _openssl(folder, "req", "-x509", *CURVE, *authority)
    _openssl(folder, "genrsa", "-out", "service-accounts.key", "2048")
    addresses = ("127.0.0.1", NODE_ADDRESS, plane.service_address(1))
    _certify(folder, "apiserver", "/CN=kube-apiserver", [*(f"IP:{one}" for one in addresses), *_names(API_NAMES)])
    _certify(folder, "apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    _certify(folder, "front-proxy-client", "/CN=front-proxy-client")
    _certify(folder, "admin", "/O=system:masters/CN=admin")
    _certify(folder, "kubelet", f"/O=system:nodes/CN=system:node:{node}", [f"IP:{NODE_ADDRESS}", f"DNS:{node}"])
    for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        _certify(folder, component, f"/CN=system:{component}")
    for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"):
        write_kubeconfig(plane, component, plane.folder / f"{component}.kubeconfig")
    write_kubeconfig(plane, "admin", plane.kubeconfig)


def write_kubeconfig(plane: Plane, who: str, target: Path) -> None:
    """Write the file with which a holder of one of our certificates reaches the API server. JSON is YAML too."""
    cluster = {"server": plane.server, "certificate-authority-data": _encoded(plane.pki / "ca.crt")}
    user = {
        "client-certificate-data": _encoded(plane.pki / f"{who}.crt"),
        "client-key-data": _encoded(plane.pki / f"{who}.key"),
    }
    name = f"flowplane-testbed-{plane.name}"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": who, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": who}}],
        "current-context": name,
    }
    write_whole(target, json.dumps(content, indent=1), mode=0o600)


def _certify(folder: Path, name: str, subject: str, names: list[str] | None = None) -> None:
    extensions = folder / f"{name}.ext"
    alternative = f"subjectAltName={','.join(names)}\n" if names else ""
    extensions.write_text(f"extendedKeyUsage=serverAuth,clientAuth\n{alternative}")
    _openssl(folder, "req", *CURVE, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
    signer = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", DAYS)
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signer, "-extfile", extensions.name, "-out", f"{name}.crt")
    extensions.unlink()
    (folder / f"{name}.csr").unlink()


def _names(names: tuple[str, ...]) -> list[str]:
    return [f"DNS:{name}" for name in names]


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _openssl(folder: Path, *arguments: str) -> None:
    run(["openssl", *arguments], purpose=f"openssl {arguments[0]}", cwd=folder)
