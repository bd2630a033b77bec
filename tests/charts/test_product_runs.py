"""Flowplane in pods of its own, with a trial's servers: somebody signs up, and everybody ends in time."""

from __future__ import annotations

import base64
import email
import json
import secrets
from collections.abc import Iterator
from email import policy

import pytest
from django.conf import settings

from embedded.doors import Visitor, confirmation_path, wait_for
from embedded.keyring import SECRETS
from testbed.bed import NODE_ADDRESS
from testbed.plane import FIRST_PORT
from testbed.product import FLOWPLANE, SERVERS
from tests.charts.cases import Object, merged, run_helm
from tests.charts.product_cases import CHART, TRIAL
from tests.kubernetes import Kubernetes, Namespace, Refused, eventually

# Wants the product's image: `python -m testbed up && python -m testbed product` before.
pytestmark = [pytest.mark.kubernetes, pytest.mark.owed, pytest.mark.timeout(900)]

NAMESPACE = "flowplane-trial"
RELEASE = "trial"
ADDRESS = f"http://web.{NAMESPACE}.svc.cluster.local"
# The watch of a Kubernetes region ends at once without a backend for Kubernetes: add it here together with that.
PROCESSES = ("web", "worker", "clock")
READY_SECONDS = 420
SMALL = {"replicas": 1, "memoryMiB": 320, "cpuMillis": 20}
VALUES = merged(
    TRIAL,
    {
        "image": {"repository": FLOWPLANE.partition(":")[0], "tag": FLOWPLANE.partition(":")[2], "pullPolicy": "Never"},
        "addresses": {"public": ADDRESS, "api": ADDRESS},
        # Whoever tests comes from the node, where the API server is as well.
        "networkPolicy": {
            "webFrom": [{"ipBlock": {"cidr": f"{NODE_ADDRESS}/32"}}],
            "kubernetesApi": {"peers": [{"ipBlock": {"cidr": f"{NODE_ADDRESS}/32"}}], "port": FIRST_PORT},
        },
        "web": {**SMALL, "replicas": 2},
        "worker": SMALL,
        "clock": SMALL,
        "watch": {"memoryMiB": 320, "cpuMillis": 20},
        "migration": {"memoryMiB": 320, "cpuMillis": 20},
        "trial": {"postgres": {"image": SERVERS}, "redis": {"image": SERVERS}},
    },
)


def secret(name: str, **content: str) -> Object:
    data = {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in content.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def all_secrets() -> Iterator[Object]:
    """What README.md says has to be there first."""
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
def trial(kubernetes: Kubernetes, helm: str) -> Iterator[Namespace]:
    """The whole product, ready."""
    images = [image for node in kubernetes.get("nodes")["items"] for image in node["status"].get("images", ())]
    if not any(FLOWPLANE in image["names"] for image in images):
        pytest.fail(f"No node has the image {FLOWPLANE}: `python -m testbed product` brings it.")
    place = ("--kubeconfig", str(kubernetes.kubeconfig), "--namespace", NAMESPACE)
    inside = kubernetes.inside(NAMESPACE)
    run_helm(helm, "uninstall", RELEASE, *place)
    kubernetes.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubernetes.apply(
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    )
    for one in all_secrets():
        inside.kubectl("apply", "-f", "-", objects=json.dumps(one))
    done = run_helm(helm, "install", RELEASE, str(CHART), *place, values=VALUES)
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


def test_somebody_signs_up(trial: Namespace) -> None:
    visitor = Visitor(ADDRESS)
    login = {"email": "ada@example.org", "password": secrets.token_urlsafe(16)}

    assert visitor.submit("/accounts/signup/", email=login["email"], password1=login["password"])
    path = wait_for(lambda: confirmation_path(mails(trial) or ""), seconds=150, what="The mail")
    assert visitor.submit(path)
    assert visitor.submit("/accounts/login/", login=login["email"], password=login["password"])

    assert visitor.is_signed_in
    assert visitor.api("GET", "/me")["kind"] == "person"
    members = visitor.api("GET", "/members")["items"]
    assert [(member["email"], member["role"]) for member in members] == [(login["email"], "owner")]


def test_it_is_ready_and_gets_somewhere(trial: Namespace) -> None:
    checks = json.loads(Visitor(ADDRESS).page("/readyz"))["checks"]
    assert checks["migrations"]["ok"], checks
    assert checks["mail"]["ok"], checks


def test_nobody_is_restarted_and_everybody_ends_in_time(trial: Namespace) -> None:
    everybody = f"app.kubernetes.io/component in ({','.join(PROCESSES)})"
    pods = trial.get("pods", "-l", everybody)["items"]
    assert {status["restartCount"] for one in pods for status in one["status"]["containerStatuses"]} == {0}
    for one in pods:
        # Well within its 30 s: nothing has to be killed.
        trial.kubectl("delete", "pod", one["metadata"]["name"], "--wait=true", "--timeout=28s")
