"""Flowplane in pods of its own, with a trial's servers, and engines beside it: from sign-up to a cluster's last day.

Engines are made on the same Kubernetes by the product's own account, and reached by name through the edge.
"""

from __future__ import annotations

import base64
import email
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email import policy
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import settings

from embedded.doors import Visitor, confirmation_path, wait_for
from embedded.keyring import SECRETS
from embedded.setup import CHECKOUT
from provisioning.backends.engine.store import BackupStore
from testbed.bed import NODE_ADDRESS
from testbed.plane import FIRST_PORT
from testbed.product import FLOWPLANE, SERVERS
from tests.charts.cases import Object, merged, run_helm
from tests.charts.product_cases import CHART, TRIAL
from tests.e2e.stack import Customer
from tests.kubernetes import Kubernetes, Namespace, Refused, eventually
from tests.provisioning.backends.kubernetes_stage import EDGE, served_store
from tests.provisioning.backends.tokens import EngineClient

# Wants the product's image: `make test-kubernetes-long` makes it, or `python -m testbed product`.
pytestmark = [pytest.mark.kubernetes, pytest.mark.chaos, pytest.mark.timeout(1800)]

NAMESPACE = "flowplane-trial"
RELEASE = "trial"
ADDRESS = f"http://web.{NAMESPACE}.svc.cluster.local"
PROCESSES = ("web", "worker", "clock", "watch")
REGION = TRIAL["region"]["slug"]
READY_SECONDS = 420
# Long enough for an engine to stop and for somebody to change their mind.
WINDOW_SECONDS = 120
# Not the one of the backend's own tests, which may be served meanwhile.
STORE_PORT = 9124
# An Ingress ends TLS in front of web, and there is none here: a stock client asks for tokens so only when told to.
OVER_HTTP = {"OAUTHLIB_INSECURE_TRANSPORT": "1"}
NODE = [{"ipBlock": {"cidr": f"{NODE_ADDRESS}/32"}}]
SMALL = {"replicas": 1, "memoryMiB": 320, "cpuMillis": 20}
VALUES = merged(
    TRIAL,
    {
        "image": {"repository": FLOWPLANE.partition(":")[0], "tag": FLOWPLANE.partition(":")[2], "pullPolicy": "Never"},
        "addresses": {"public": ADDRESS, "api": ADDRESS},
        # Whoever tests comes from the node, where the API server is as well.
        "networkPolicy": {
            "webFrom": NODE,
            "kubernetesApi": {"peers": NODE, "port": FIRST_PORT},
            "backupStore": {"peers": NODE, "port": STORE_PORT},
        },
        "options": {"undoWindowSeconds": WINDOW_SECONDS},
        "region": {
            "engineImage": "localhost/zeebe",
            "values": {
                "size": {"cpuMillis": 50},
                "networkPolicy": {"clientsFrom": EDGE},
                "backupStore": {"network": {"cidr": f"{NODE_ADDRESS}/32", "port": STORE_PORT}},
            },
        },
        "web": {**SMALL, "replicas": 2},
        "worker": {**SMALL, "memoryMiB": 512},
        "clock": SMALL,
        "watch": {"memoryMiB": 320, "cpuMillis": 20},
        "migration": {"memoryMiB": 320, "cpuMillis": 20},
        "trial": {"postgres": {"image": SERVERS}, "redis": {"image": SERVERS}},
    },
)


def secret(name: str, **content: str) -> Object:
    data = {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in content.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def all_secrets(store: BackupStore) -> Iterator[Object]:
    """What README.md says has to be there first."""
    yield secret("flowplane-backup-store", access_key=store.access_key, secret_key=store.secret_key)
    yield secret(
        "flowplane",
        secret_key=SECRETS["secret_key"](),
        master_keys=SECRETS["master_keys"](),
        credential_pepper=SECRETS["credential_pepper"](),
        # The worker's own folder, where the test looks for what was sent.
        email_url="mailbox:///tmp/mail",
    )
    for role in ("owner", "app", "system"):
        word = secrets.token_hex(16)
        yield secret(
            f"flowplane-database-{role}", url=f"postgresql://flowplane_{role}:{word}@trial-postgres:5432/flowplane"
        )
    yield secret("flowplane-broker", url=f"redis://:{secrets.token_hex(16)}@trial-redis:6379/0")
    files = {"tls.crt": settings.CA_CERT_FILE, "tls.key": settings.CA_KEY_FILE}
    yield secret("flowplane-authority", **{name: file.read_text() for name, file in files.items()})


@pytest.fixture(scope="module")
def store(kubernetes: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackupStore]:
    with served_store(kubernetes, tmp_path_factory.mktemp("backups"), STORE_PORT) as served:
        yield served


@pytest.fixture(scope="module")
def trial(kubernetes: Kubernetes, helm: str, store: BackupStore) -> Iterator[Namespace]:
    """The whole product, ready."""
    images = [image for node in kubernetes.get("nodes")["items"] for image in node["status"].get("images", ())]
    if not any(FLOWPLANE in image["names"] for image in images):
        pytest.fail(f"No node has the image {FLOWPLANE}: `python -m testbed product` brings it.")
    place = ("--kubeconfig", str(kubernetes.kubeconfig), "--namespace", NAMESPACE)
    inside = kubernetes.inside(NAMESPACE)
    run_helm(helm, "uninstall", RELEASE, *place)
    kubernetes.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=240s")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubernetes.apply(
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    )
    for one in all_secrets(store):
        inside.kubectl("apply", "-f", "-", objects=json.dumps(one))
    where = {"endpoint": store.endpoint, "region": store.region, "bucket": store.bucket}
    values = merged(
        VALUES, {"region": {"domain": kubernetes.domain}, "backupStore": {**where, "enabled": True, "pathStyle": True}}
    )
    done = run_helm(helm, "install", RELEASE, str(CHART), *place, values=values)
    assert done.returncode == 0, done.stderr
    assert eventually(
        lambda: all(
            inside.get("deployment", name)["status"].get("readyReplicas") == (2 if name == "web" else 1)
            for name in PROCESSES
        ),
        seconds=READY_SECONDS,
    ), inside.kubectl("get", "pods")
    yield inside
    run_helm(helm, "uninstall", RELEASE, *place)
    kubernetes.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def mails(trial: Namespace) -> str | None:
    """Return the text of what the worker or the clock has sent, None when nothing was."""
    for name in ("worker", "clock"):
        try:
            sent = trial.kubectl("exec", f"deploy/{name}", "-c", name, "--", "sh", "-c", "cat /tmp/mail/*")
        except Refused:
            continue
        body = email.message_from_string(sent, policy=policy.default).get_body(("plain", "html"))
        return str(body.get_content()) if body else None
    return None


@pytest.fixture(scope="module")
def customer(trial: Namespace) -> Customer:
    """Somebody who has signed up through the forms, with the link in the mail."""
    visitor = Customer(ADDRESS)
    login = {"email": "ada@example.org", "password": secrets.token_urlsafe(16)}
    assert visitor.submit("/accounts/signup/", email=login["email"], password1=login["password"])
    path = wait_for(lambda: confirmation_path(mails(trial) or ""), seconds=150, what="The mail")
    assert visitor.submit(path)
    assert visitor.submit("/accounts/login/", login=login["email"], password=login["password"])
    visitor.api("POST", "/organizations", {"name": "Ada's"})
    return visitor


def test_somebody_signs_up(customer: Visitor) -> None:
    assert customer.is_signed_in
    assert customer.api("GET", "/me")["kind"] == "person"
    members = customer.api("GET", "/members")["items"]
    assert [(member["email"], member["role"]) for member in members] == [("ada@example.org", "owner")]


def test_it_is_ready_and_gets_somewhere(trial: Namespace) -> None:
    checks = json.loads(Visitor(ADDRESS).page("/readyz"))["checks"]
    assert checks["migrations"]["ok"], checks
    assert checks["mail"]["ok"], checks


# --- engines ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(customer: Customer) -> dict[str, Any]:
    """A healthy cluster of one broker."""
    return made(customer, channel="next", release="8.5.8")


def made(customer: Customer, **wish: str) -> dict[str, Any]:
    answer = customer.create_cluster(region=REGION, **wish)
    operation = customer.finished(answer["operation"])
    assert operation["state"] == "succeeded", operation
    return customer.until(answer["cluster"]["id"], "healthy")


def acted(customer: Customer, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask for a change and see it through; its operation."""
    operation = customer.finished(customer.api(method, path, body))
    assert operation["state"] == "succeeded", operation
    return operation


def home_of(kubernetes: Kubernetes, cluster: Mapping[str, Any]) -> Namespace:
    return kubernetes.inside(f"fp-{cluster['id']}")


def credentials(customer: Customer, cluster: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a credential of its own, with the authority where we have it."""
    variables = customer.credential(cluster["id"])
    kept = str(settings.CA_CERT_FILE)
    return {name: kept if value.startswith("/") else value for name, value in variables.items()}


@contextmanager
def engine_of(customer: Customer, cluster: Mapping[str, Any]) -> Iterator[tuple[EngineClient, str]]:
    """A stock client of the cluster, and a token from the door."""
    variables = credentials(customer, cluster)
    answer = requests.post(
        variables["ZEEBE_AUTHORIZATION_SERVER_URL"],
        data={"grant_type": "client_credentials", "audience": variables["ZEEBE_TOKEN_AUDIENCE"]},
        auth=(variables["ZEEBE_CLIENT_ID"], variables["ZEEBE_CLIENT_SECRET"]),
        timeout=30,
    )
    assert answer.ok, answer.text
    with EngineClient(variables["ZEEBE_ADDRESS"], settings.CA_CERT_FILE) as client:
        yield client, answer.json()["access_token"]


def leave(customer: Customer, cluster: Mapping[str, Any], *numbers: int) -> None:
    """Start instances that wait until somebody does their work."""
    with engine_of(customer, cluster) as (engine, token):
        engine.deploy_waiting(token)
        for number in numbers:
            engine.create_waiting(token, number)


def finish(customer: Customer, cluster: Mapping[str, Any], *numbers: int) -> set[int]:
    """Do the work of what waits, until these are done; the numbers of all that waited."""
    with engine_of(customer, cluster) as (engine, token):
        return engine.finish_waiting(token, set(numbers))


def test_a_stock_client_fulfils_orders_through_the_edge(
    kubernetes: Kubernetes, customer: Customer, cluster: dict[str, Any], tmp_path: Path
) -> None:
    assert cluster["endpoint"]["grpc"] == f"{cluster['id']}.{kubernetes.domain}:443"
    assert home_of(kubernetes, cluster).get("statefulset/broker")["status"]["readyReplicas"] == 1
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "examples.order_fulfilment",
            "--folder",
            str(tmp_path / "ledger"),
            "run",
            "--count",
            "3",
        ],
        cwd=CHECKOUT,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **OVER_HTTP, **credentials(customer, cluster)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "summary"


def test_what_somebody_opens_is_closed_before_anybody_looks(kubernetes: Kubernetes, cluster: dict[str, Any]) -> None:
    """The watch hears of it: without one the next look would be minutes away."""
    place = home_of(kubernetes, cluster)
    closed = place.get("networkpolicy/default-deny")["spec"]
    opened = {"spec": {"podSelector": {"matchLabels": {"nobody": "here"}}}}
    place.kubectl("patch", "networkpolicy/default-deny", "--type=merge", "-p", json.dumps(opened))
    assert eventually(lambda: place.get("networkpolicy/default-deny")["spec"] == closed, seconds=60)
    place.kubectl("delete", "networkpolicy/members")
    assert eventually(lambda: "members" in place.kubectl("get", "networkpolicy", "-o", "name"), seconds=60)


def test_a_cluster_is_resized_backed_up_copied_upgraded_taken_back_and_removed(
    kubernetes: Kubernetes, customer: Customer, cluster: dict[str, Any]
) -> None:
    at, place = f"/clusters/{cluster['id']}", home_of(kubernetes, cluster)
    leave(customer, cluster, 1, 2)

    acted(customer, "POST", f"{at}/resize", {"plan_type": "small-plus"})
    customer.until(cluster["id"], "healthy")
    (broker,) = place.get("pod/broker-0")["spec"]["containers"]
    assert broker["resources"]["limits"]["memory"] == "1Gi"

    acted(customer, "POST", f"{at}/backups")
    (backup,) = customer.api("GET", f"{at}/backups")["items"]
    leave(customer, cluster, 3)
    copy = made(customer, channel="next", from_backup=backup["id"])
    assert finish(customer, copy, 1, 2) == {1, 2}
    purge = acted(customer, "DELETE", f"/clusters/{copy['id']}?purge=true")
    assert {f"Namespace fp-{copy['id']}", "Pod broker-0", "StatefulSet broker"} <= set(purge["receipt"]["removed"])

    upgrade = acted(customer, "POST", f"{at}/upgrade", {"release": "8.6.0"})
    assert upgrade["steps"][0]["kind"] == "take_backup"
    assert customer.until(cluster["id"], "healthy")["release"] == "8.6.0"

    check_taken_back(customer, cluster, place)
    check_removed(customer, cluster, place)


def check_taken_back(customer: Customer, cluster: Mapping[str, Any], place: Namespace) -> None:
    """While the window is open nothing runs and nothing is lost."""
    deletion = customer.api("DELETE", f"/clusters/{cluster['id']}")
    customer.until(cluster["id"], "deletion_scheduled")
    assert eventually(lambda: place.get("pods")["items"] == [], seconds=WINDOW_SECONDS / 2)
    acted(customer, "POST", f"/clusters/{cluster['id']}/restore")
    back = customer.until(cluster["id"], "healthy")
    assert back["endpoint"] == cluster["endpoint"]
    assert finish(customer, cluster, 1, 2, 3) == {1, 2, 3}
    assert customer.api("GET", f"/operations/{deletion['id']}")["receipt"] is None


def check_removed(customer: Customer, cluster: Mapping[str, Any], place: Namespace) -> None:
    """After the window all of it goes, and the operation tells what that was."""
    volume = place.get("pvc/data-broker-0")["spec"]["volumeName"]
    deletion = acted(customer, "DELETE", f"/clusters/{cluster['id']}")
    receipt = deletion["receipt"]
    assert {
        f"Namespace {place.name}",
        f"PersistentVolumeClaim data-broker-0, volume {volume}",
        "StatefulSet broker",
        "Secret engine-tls",
        "NetworkPolicy default-deny",
    } <= set(receipt["removed"])
    assert len(receipt["kept"]) == 2, "its own backup, and the one before the upgrade"
    assert not place.cluster.succeeds("get", "namespace", place.name)
    assert customer.request("GET", f"/clusters/{cluster['id']}").status_code == 404


# --- the end ----------------------------------------------------------------------------------------------------------


def test_nobody_is_restarted_and_everybody_ends_in_time(trial: Namespace) -> None:
    everybody = f"app.kubernetes.io/component in ({','.join(PROCESSES)})"
    pods = trial.get("pods", "-l", everybody)["items"]
    assert {status["restartCount"] for one in pods for status in one["status"]["containerStatuses"]} == {0}
    for one in pods:
        # Well within its 30 s: nothing has to be killed.
        trial.kubectl("delete", "pod", one["metadata"]["name"], "--wait=true", "--timeout=28s")
