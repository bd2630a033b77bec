"""What the tests of the product rely on, on the real node: volumes, names, Services, policies, limits."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.bed import Bed
from tests.kubernetes import Kubernetes, Namespace, Refused, eventually
from tests.testbed import objects

pytestmark = [pytest.mark.kubernetes]
NAME = "testbed-site"
# Of each private network, and one of the world; the machine around may have a use for them. None is the testbed's own
# (172.31.250.0/24, 10.96.0.0/12, 10.244.0.0/15).
ELSEWHERE = (
    *("10.0.0.1", "10.88.0.1", "10.255.255.254"),
    *("172.16.0.1", "172.17.0.1", "172.31.251.1", "172.31.255.254"),
    *("192.168.0.1", "192.168.122.1", "192.168.255.254"),
    "198.51.100.1",
)
FETCH = ("curl", "--silent", "--fail", "--max-time", "2")


@pytest.fixture(scope="module")
def inside() -> None:
    """Whether we are in a testbed's network: in the machine's own, somebody may be at the addresses we try."""
    home = os.environ.get("TESTBED_HOME")
    if home is None or not Bed(Path(home)).is_inside():
        pytest.fail(
            "This test tries addresses of other networks, so it runs only inside a testbed: "
            "run `make test-kubernetes` without FLOWPLANE_TEST_KUBECONFIG.",
            pytrace=False,
        )


@pytest.fixture(scope="module")
def site(kubernetes: Kubernetes) -> Iterator[Namespace]:
    """Two web servers, ready, and a client."""
    kubernetes.apply(objects.SITE.replace("PLACE", NAME))
    namespace = kubernetes.inside(NAME)
    try:
        namespace.kubectl("rollout", "status", "statefulset/web", "--timeout=240s")
        namespace.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=240s")
        yield namespace
    finally:
        kubernetes.kubectl("delete", "namespace", NAME, "--wait=true", "--timeout=240s")
    assert eventually(lambda: not _volumes(kubernetes)), "a volume outlived its namespace"


def _volumes(kubernetes: Kubernetes) -> list[str]:
    claims = (volume["spec"]["claimRef"]["namespace"] for volume in kubernetes.get("persistentvolume")["items"])
    return [namespace for namespace in claims if namespace == NAME]


def test_every_claim_has_a_volume_of_its_own(site: Namespace) -> None:
    claims = site.get("persistentvolumeclaim")["items"]
    assert {claim["status"]["phase"] for claim in claims} == {"Bound"}
    assert len({claim["spec"]["volumeName"] for claim in claims}) == 2


def test_pods_and_services_have_names(site: Namespace) -> None:
    pod = site.get("pod/web-0")["status"]["podIP"]
    assert pod in site.in_pod("client", "getent", "hosts", f"web-0.web.{NAME}.svc.cluster.local")
    address = site.get("service/site")["spec"]["clusterIP"]
    assert address in site.in_pod("client", "getent", "hosts", "site")


def test_a_pod_answers_by_its_name_and_through_its_service(site: Namespace) -> None:
    assert eventually(lambda: site.can("client", *FETCH, "http://web-1.web:8080/"))
    assert eventually(lambda: site.can("client", *FETCH, "http://site/"))


def test_a_program_in_the_testbed_reaches_services_by_name(site: Namespace) -> None:
    def answer() -> bool:
        try:
            with urllib.request.urlopen(f"http://site.{NAME}.svc.cluster.local/", timeout=3) as response:
                return response.read() in {b"web-0", b"web-1"}
        except OSError:
            return False

    assert eventually(answer)


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("address", ELSEWHERE)
def test_no_packet_leaves_it(address: str) -> None:
    """The kernel knows no way there and says so; a packet that is on its way, and lost, would end by a timeout."""
    with pytest.raises(OSError, match="Network is unreachable"):
        socket.create_connection((address, 443), timeout=5)


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("address", ["10.88.0.1", "172.17.0.1", "192.168.0.1"])
def test_no_packet_of_a_pod_leaves_it(site: Namespace, address: str) -> None:
    def said() -> str:
        return site.in_pod("client", "sh", "-c", f"nc -v -z -w 5 {address} 443 2>&1 || true")

    # The node says so; not each time, because the kernel lets it say so once in a while.
    assert eventually(lambda: "unreachable" in said()), said()


def test_a_volume_is_kept_when_its_pod_is_replaced(site: Namespace) -> None:
    before = site.get("pod/web-0")["metadata"]["uid"]
    site.kubectl("delete", "pod", "web-0", "--wait=true")
    assert eventually(lambda: site.can("web-0", "true"), seconds=90)
    site.kubectl("wait", "--for=condition=Ready", "pod/web-0", "--timeout=240s")
    assert site.get("pod/web-0")["metadata"]["uid"] != before
    assert site.in_pod("web-0", "cat", "/data/starts").count("started") == 2


def test_a_restricted_namespace_refuses_a_privileged_pod(site: Namespace) -> None:
    with pytest.raises(Refused, match="violates PodSecurity"):
        site.kubectl("apply", "-f", "-", objects=objects.PRIVILEGED)


def test_a_limit_that_is_not_given_is_the_namespace_s(site: Namespace) -> None:
    assert site.get("pod/client")["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Mi"


def test_a_quota_holds_back_what_exceeds_it(site: Namespace) -> None:
    site.kubectl("scale", "statefulset/web", "--replicas=6")
    try:
        assert eventually(lambda: "exceeded quota" in site.kubectl("get", "events"))
        # With the client these would be seven. A quota that is counted anew from a late cache may let one more in.
        assert len(site.get("pod")["items"]) < 7
    finally:
        site.kubectl("scale", "statefulset/web", "--replicas=2")
        # The client is the third; whoever comes next wants room for a pod.
        assert eventually(lambda: used_pods(site) == "3", seconds=90)


def used_pods(site: Namespace) -> str:
    """How many the quota counts."""
    return str(site.get("resourcequota/quota")["status"]["used"]["pods"])


def test_a_policy_lets_in_only_whom_it_names(site: Namespace) -> None:
    reach = (*FETCH, "http://web-1.web:8080/")
    site.kubectl("apply", "-f", "-", objects=objects.ONLY_KNOWN_CLIENTS)
    try:
        assert eventually(lambda: not site.can("client", *reach)), "a stranger came in"
        site.kubectl("label", "pod", "client", "known=yes")
        assert eventually(lambda: site.can("client", *reach)), "a friend did not"
    finally:
        site.kubectl("label", "pod", "client", "known-")
        site.kubectl("delete", "networkpolicy", "web")
    assert eventually(lambda: site.can("client", *reach))


def test_a_policy_lets_out_only_to_what_it_names(site: Namespace) -> None:
    reach = (*FETCH, "http://web-1.web:8080/")
    site.kubectl("apply", "-f", "-", objects=objects.ONLY_NAMES_OUT)
    try:
        assert eventually(lambda: not site.can("client", *reach)), "a connection got out"
        assert site.can("client", "getent", "hosts", "site"), "names are not answered"
    finally:
        site.kubectl("delete", "networkpolicy", "client")
    assert eventually(lambda: site.can("client", *reach))


def test_pods_that_are_isolated_both_ways_still_answer(site: Namespace) -> None:
    site.kubectl("apply", "-f", "-", objects=objects.ISOLATED)
    try:
        reach = (*FETCH, "http://web-1.web:8080/")
        assert eventually(lambda: not site.can("web-0", *reach)), "a server asked another"
        assert eventually(lambda: site.can("client", *reach)), "an answer was held back"
        assert eventually(lambda: site.can("client", *reach) and not site.can("web-0", *reach)), "not both at once"
    finally:
        site.kubectl("delete", "networkpolicy", "isolated", "in", "out")


def test_a_simulated_pod_is_ready_at_once_and_runs_nothing(site: Namespace) -> None:
    site.kubectl("apply", "-f", "-", objects=objects.SIMULATED.replace("PLACE", NAME))
    try:
        site.kubectl("wait", "--for=condition=Ready", "pod/simulated", "--timeout=240s")
        assert site.get("pod/simulated")["spec"]["nodeName"].startswith("simulated-")
        assert site.get("pod/client")["spec"]["nodeName"] == "node"
    finally:
        site.kubectl("delete", "pod", "simulated")
