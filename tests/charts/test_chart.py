"""What Helm makes of the chart: kept outputs, what must hold in all of them, and what is refused."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from provisioning.backends.engine.store import BackupStore
from provisioning.backends.local.configuration import Program, Surroundings, Workplace, arguments, environment
from provisioning.backends.local.layout import ClusterFolder, Ports
from provisioning.spec import STOP_GRACE_SECONDS, DesiredCluster, DesiredRelease, DesiredSize, Lifecycle
from tests.charts.cases import (
    ALL,
    CLUSTER_ID,
    GATEWAYS,
    NAMESPACE,
    STORE,
    TRIAL,
    TRIO,
    Object,
    Values,
    golden_texts,
    merged,
    one,
    render,
    require_kept,
    run_helm,
    trial,
)
from tests.charts.volumes import CHART

pytestmark = pytest.mark.kubernetes

MANAGEMENT_PORT = 9600
UNITS = {"": Decimal(1), "m": Decimal("0.001"), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40)}
# What Pod Security "restricted" lets a pod bring.
HARMLESS_VOLUMES = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}


@pytest.fixture(scope="module")
def rendered(helm: str) -> dict[str, list[Object]]:
    """All cases' objects, made once."""
    return {name: render(helm, values) for name, values in ALL.items()}


@pytest.fixture(params=ALL)
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[Object]]) -> list[Object]:
    """One case's objects after the other."""
    return rendered[request.param]


def pod_templates(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Yield each object that makes pods, with their template."""
    for found in objects:
        if found["kind"] in ("StatefulSet", "Deployment", "Job"):
            yield found, found["spec"]["template"]


def containers(template: Object) -> list[Object]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def variables(container: Object) -> dict[str, str]:
    """A container's variables whose values stand in the template."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def amount(quantity: str) -> Decimal:
    number, unit = re.fullmatch(r"(\d+)(\D*)", quantity).groups()  # type: ignore[union-attr]
    return Decimal(number) * UNITS[unit]


def test_the_outputs_are_the_kept_ones(helm: str) -> None:
    require_kept(golden_texts(helm), "tests.charts.cases")


@pytest.mark.parametrize("name", ALL)
def test_helm_finds_nothing_to_complain_of(helm: str, name: str) -> None:
    done = run_helm(helm, "lint", "--strict", str(CHART), "--namespace", NAMESPACE, values=ALL[name])
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_object_says_whose_it_is(objects: list[Object]) -> None:
    managers = set()
    for found in objects:
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "engine-cluster"
        assert labels["app.kubernetes.io/instance"] == "orders"
        assert labels["app.kubernetes.io/component"]
        assert labels["flowplane.dev/cluster"] == CLUSTER_ID
        managers.add(labels["app.kubernetes.io/managed-by"])
        if found["kind"] == "Namespace":
            assert found["metadata"]["name"] == NAMESPACE
        else:
            assert found["metadata"]["namespace"] == NAMESPACE
    for _, template in pod_templates(objects):
        assert template["metadata"]["labels"]["flowplane.dev/cluster"] == CLUSTER_ID
    assert managers in ({"Helm"}, {"flowplane"})


def test_no_two_objects_have_the_same_name(objects: list[Object]) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(names) == len(set(names))


def test_every_pod_is_as_restricted_as_kubernetes_knows(objects: list[Object]) -> None:
    for _, template in pod_templates(objects):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == "engine"
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 1001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for volume in spec["volumes"]:
            assert volume.keys() - {"name"} <= HARMLESS_VOLUMES
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "livenessProbe" not in container
            assert not any("subPath" in mount for mount in container["volumeMounts"])
            assert not any("hostPort" in port for port in container.get("ports", []))
    (account,) = (found for found in objects if found["kind"] == "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    namespaces = [found for found in objects if found["kind"] == "Namespace"]
    for namespace in namespaces:
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_what_is_mounted_is_there(objects: list[Object]) -> None:
    for owner, template in pod_templates(objects):
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
        for container in containers(template):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_secrets_hold_what_the_server_keeps(objects: list[Object]) -> None:
    for found in objects:
        if found["kind"] == "Secret":
            assert "stringData" not in found
            for value in found["data"].values():
                assert base64.b64decode(value, validate=True)


def test_services_and_budgets_find_their_pods(objects: list[Object]) -> None:
    templates = [template for _, template in pod_templates(objects)]

    def chosen(selector: dict[str, str]) -> list[Object]:
        return [one for one in templates if selector.items() <= one["metadata"]["labels"].items()]

    for found in objects:
        if found["kind"] == "Service":
            (template,) = chosen(found["spec"]["selector"])
            ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in found["spec"]["ports"]} <= ports
        if found["kind"] == "PodDisruptionBudget":
            assert len(chosen(found["spec"]["selector"]["matchLabels"])) == 1


@pytest.mark.parametrize("name", ALL)
def test_nothing_opens_the_management_port(name: str, rendered: dict[str, list[Object]]) -> None:
    policies = [found for found in rendered[name] if found["kind"] == "NetworkPolicy"]
    if not ALL[name]["networkPolicy"].get("enabled", True):
        assert not policies
        return
    assert one(policies, "NetworkPolicy", "default-deny")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    opened = [
        policy["metadata"]["name"]
        for policy in policies
        for rule in policy["spec"].get("ingress", [])
        if not rule.get("ports") or any(port["port"] == MANAGEMENT_PORT for port in rule["ports"])
    ]
    assert opened == (["management"] if ALL[name]["networkPolicy"].get("managementFrom") else [])
    for policy in policies:
        for rule in (*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])):
            # An empty list of peers means everybody.
            assert rule.get("from") or rule.get("to")
            assert all("endPort" not in port for port in rule["ports"])


def test_only_whom_it_may_concern_reaches_the_clients_ports(rendered: dict[str, list[Object]], helm: str) -> None:
    clients = one(rendered["standalone-gateway"], "NetworkPolicy", "clients")["spec"]
    assert clients["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert [port["port"] for port in clients["ingress"][0]["ports"]] == [26500]
    embedded = one(rendered["three-brokers"], "NetworkPolicy", "clients")["spec"]
    assert [port["port"] for port in embedded["ingress"][0]["ports"]] == [26500, 8080]
    trial_ports = one(rendered["trial"], "NetworkPolicy", "clients")["spec"]["ingress"][0]["ports"]
    assert [port["port"] for port in trial_ports] == [26500], "this release has no REST to offer"

    nobody = render(helm, merged(TRIAL, {"networkPolicy": {"clientsFrom": []}}))
    assert not [found for found in nobody if found["metadata"]["name"] == "clients"]


def test_quantities_are_as_the_server_writes_them(objects: list[Object]) -> None:
    def quantities(part: Any, name: str = "") -> Iterator[str]:
        if isinstance(part, dict):
            for key, value in part.items():
                yield from quantities(value, key)
        elif isinstance(part, list):
            for value in part:
                yield from quantities(value, name)
        elif name.split(".")[-1] in ("cpu", "memory", "storage", "sizeLimit", "pods", "persistentvolumeclaims"):
            yield part

    for quantity in quantities(objects):
        assert isinstance(quantity, str)
        number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi|Ti|)", quantity).groups()  # type: ignore[union-attr]
        assert not (unit == "m" and int(number) % 1000 == 0), quantity
        assert not (unit in ("Mi", "Gi") and int(number) % 1024 == 0), quantity


@pytest.mark.parametrize("name", ["trial", "three-brokers", "standalone-gateway", "shrinking"])
def test_the_quota_is_what_the_plan_holds(name: str, rendered: dict[str, list[Object]]) -> None:
    objects = rendered[name]
    job = one(rendered["jobs"], "Job", "restore-3-0")
    hard = one(objects, "ResourceQuota", "engine")["spec"]["hard"]
    brokers = one(objects, "StatefulSet", "broker")["spec"]
    pods = [brokers["template"]] * brokers["replicas"] + [job["spec"]["template"]] * brokers["replicas"]
    for found in objects:
        if found["kind"] == "Deployment":
            surge = found["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
            pods += [found["spec"]["template"]] * (found["spec"]["replicas"] + surge)

    def total(kind: str, resource: str) -> Decimal:
        return sum((amount(pod["spec"]["containers"][0]["resources"][kind][resource]) for pod in pods), Decimal(0))

    (claim,) = brokers["volumeClaimTemplates"]
    assert int(hard["pods"]) == len(pods)
    assert amount(hard["requests.cpu"]) == total("requests", "cpu")
    assert amount(hard["requests.memory"]) == total("requests", "memory")
    assert amount(hard["limits.memory"]) == total("limits", "memory")
    assert int(hard["persistentvolumeclaims"]) == brokers["replicas"]
    volume = amount(claim["spec"]["resources"]["requests"]["storage"])
    assert amount(hard["requests.storage"]) == brokers["replicas"] * volume
    largest = max(amount(box["resources"]["limits"]["memory"]) for pod in pods for box in containers(pod))
    limits = one(objects, "LimitRange", "engine")["spec"]["limits"]
    assert amount(limits[0]["max"]["memory"]) == largest
    assert amount(limits[1]["max"]["storage"]) == volume


def test_a_broker_is_told_its_number_and_everybodys_name(rendered: dict[str, list[Object]]) -> None:
    spec = one(rendered["three-brokers"], "StatefulSet", "broker")["spec"]
    (broker,) = spec["template"]["spec"]["containers"]
    told = variables(broker)
    numbers = {entry["name"]: entry["valueFrom"] for entry in broker["env"] if "valueFrom" in entry}
    assert numbers["ZEEBE_BROKER_CLUSTER_NODEID"]["fieldRef"]["fieldPath"].endswith("['apps.kubernetes.io/pod-index']")
    assert told["ZEEBE_BROKER_NETWORK_ADVERTISEDHOST"] == f"$(POD_NAME).brokers.{NAMESPACE}.svc"
    assert told["ZEEBE_BROKER_CLUSTER_INITIALCONTACTPOINTS"] == ",".join(
        f"broker-{node}.brokers.{NAMESPACE}.svc:26502" for node in range(3)
    )
    assert spec["serviceName"] == "brokers"
    service = one(rendered["three-brokers"], "Service", "brokers")["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == STOP_GRACE_SECONDS
    assert spec["template"]["metadata"]["annotations"] == {
        "flowplane.dev/digest": "0123456789abcdef",
        "flowplane.dev/release": "8.6.0",
        "flowplane.dev/data-epoch": "2",
    }


# What is otherwise than on a laptop, and why.
OTHERWISE = {
    "HOME": "the data is no home in a pod",
    "ZEEBE_BROKER_NETWORK_HOST": "pods are reached from outside",
    "ZEEBE_BROKER_NETWORK_COMMANDAPI_PORT": "fixed",
    "ZEEBE_BROKER_NETWORK_INTERNALAPI_PORT": "fixed",
    "ZEEBE_BROKER_GATEWAY_NETWORK_HOST": "pods are reached from outside",
    "ZEEBE_BROKER_GATEWAY_NETWORK_PORT": "fixed",
    "SERVER_ADDRESS": "pods are reached from outside",
    "SERVER_PORT": "fixed",
    "MANAGEMENT_SERVER_ADDRESS": "pods are reached from outside; policies close it",
    "MANAGEMENT_SERVER_PORT": "fixed",
    "ZEEBE_BROKER_CLUSTER_NODEID": "the pod's number",
    "ZEEBE_BROKER_CLUSTER_INITIALCONTACTPOINTS": "names",
    "ZEEBE_BROKER_DATA_DIRECTORY": "the volume",
    "ZEEBE_BROKER_GATEWAY_SECURITY_CERTIFICATECHAINPATH": "a Secret",
    "ZEEBE_BROKER_GATEWAY_SECURITY_PRIVATEKEYPATH": "a Secret",
    "SERVER_SSL_CERTIFICATE": "a Secret",
    "SERVER_SSL_CERTIFICATE_PRIVATE_KEY": "a Secret",
    "CAMUNDA_IDENTITY_ISSUER": "a ConfigMap",
    "CAMUNDA_IDENTITY_ISSUERBACKENDURL": "a ConfigMap",
    "ZEEBE_BROKER_DATA_BACKUP_S3_ACCESSKEY": "a Secret",
    "ZEEBE_BROKER_DATA_BACKUP_S3_SECRETKEY": "a Secret",
    "CAMUNDA_LICENSE_KEY": "a Secret",
}


def on_a_laptop(values: Values) -> tuple[dict[str, str], list[str]]:
    """The environment and the flags of the same broker as a local process."""
    size, store = values["size"], values["backupStore"]
    desired = DesiredCluster(
        cluster_id=UUID(CLUSTER_ID),
        spec_generation=1,
        lifecycle=Lifecycle.RUNNING,
        release=DesiredRelease("8.6.0", "", "", values["release"]["mainClass"], serves_rest=True),
        size=DesiredSize(
            size["brokers"],
            size["partitions"],
            size["replicationFactor"],
            size["memoryMiB"],
            size["heapMiB"],
            size["diskMiB"],
        ),
        audience=values["cluster"]["audience"],
        host_name=values["cluster"]["hostName"],
        license_key="license",
    )
    cluster, place = (
        ClusterFolder(UUID(CLUSTER_ID), Path("/home"), Path("/guards")),
        Workplace(Path("/d"), Path("/l"), Path("/t")),
    )
    ports = {node: Ports(30000 + 10 * node) for node in range(3)}
    backups = BackupStore(
        store["endpoint"], "us-east-1", store["bucket"], store["accessKey"], store["secretKey"], path_style=True
    )
    around = Surroundings(0, ports, Path("/keys"), backups)
    program = Program(Path("/java"), Path("/zeebe"), values["release"]["mainClass"])
    flags = arguments(program, place, Path("/log4j2.xml"), heap_mib=size["heapMiB"])
    return environment(desired, cluster, place, around), [flag for flag in flags if flag.startswith("-X")]


def test_a_broker_is_set_up_as_on_a_laptop(rendered: dict[str, list[Object]]) -> None:
    wanted, flags = on_a_laptop(TRIO)
    (broker,) = one(rendered["three-brokers"], "StatefulSet", "broker")["spec"]["template"]["spec"]["containers"]
    names = {entry["name"] for entry in broker["env"]}
    told = variables(broker)
    assert wanted.keys() <= names
    assert {name: value for name, value in wanted.items() if name not in OTHERWISE} == {
        name: told.get(name) for name in wanted if name not in OTHERWISE
    }
    java = told["JAVA_TOOL_OPTIONS"].split()
    assert set(flags) - set(java) == {"-XX:ErrorFile=/l/crash.log"}, "where crashes are told of"
    assert set(java) - set(flags) == {"-XX:+ErrorFileToStdout"}


def test_tokens_are_asked_for_everywhere(objects: list[Object]) -> None:
    for owner, template in pod_templates(objects):
        if owner["kind"] == "Job":
            continue
        (container,) = template["spec"]["containers"]
        told = variables(container)
        profile = container["name"]
        assert told["SPRING_PROFILES_ACTIVE"] == f"{profile},identity-auth"
        assert told["CAMUNDA_IDENTITY_TYPE"] == "KEYCLOAK"
        assert told["CAMUNDA_IDENTITY_ISSUERBACKENDURL"] == "file:///keys"
        assert told["SERVER_SSL_ENABLED"] == "true"
        prefix = "ZEEBE_BROKER_GATEWAY" if profile == "broker" else "ZEEBE_GATEWAY"
        assert told[f"{prefix}_SECURITY_ENABLED"] == "true"
        assert told[f"{prefix}_SECURITY_AUTHENTICATION_MODE"] == "identity"
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["token-keys"] == "/keys/protocol/openid-connect"
        (keys,) = (volume for volume in template["spec"]["volumes"] if volume["name"] == "token-keys")
        assert keys["configMap"]["name"] in ("token-keys", "my-keys")


def test_a_gateway_of_its_own_has_no_rest(rendered: dict[str, list[Object]]) -> None:
    """On 8.5.8 and 8.6.0 it answers REST to anybody, whatever its profile."""
    objects = rendered["standalone-gateway"]
    (gateway,) = one(objects, "Deployment", "gateway")["spec"]["template"]["spec"]["containers"]
    told = variables(gateway)
    assert (told["CAMUNDA_REST_ENABLED"], told["SERVER_ADDRESS"]) == ("false", "127.0.0.1")
    assert [port["name"] for port in one(objects, "Service", "gateway")["spec"]["ports"]] == ["grpc"]


def test_a_restore_is_set_up_as_its_broker_but_for_its_profile(rendered: dict[str, list[Object]]) -> None:
    objects = rendered["jobs"]
    (broker,) = one(objects, "StatefulSet", "broker")["spec"]["template"]["spec"]["containers"]
    job = one(objects, "Job", "restore-3-2")["spec"]["template"]["spec"]
    (restore,) = job["containers"]
    told, wanted = variables(restore), variables(broker)
    assert "SPRING_PROFILES_ACTIVE" not in told
    assert told["ZEEBE_BROKER_CLUSTER_NODEID"] == "2"
    assert told["ZEEBE_BROKER_DATA_BACKUP_S3_BASEPATH"] == "another-cluster"
    assert told["ZEEBE_BROKER_DATA_DIRECTORY"] == "/volume/incoming/engine"
    assert told["CHECKPOINTS"] == "1=4503 2=17 3=9007199254740993"
    differing = {"ZEEBE_BROKER_DATA_BACKUP_S3_BASEPATH", "ZEEBE_BROKER_DATA_DIRECTORY"}
    for name in wanted.keys() - differing:
        if name.startswith("ZEEBE_"):
            assert told[name] == wanted[name]
    (claim,) = (volume for volume in job["volumes"] if volume["name"] == "data")
    assert claim["persistentVolumeClaim"]["claimName"] == "data-broker-2"


def test_a_suspended_cluster_keeps_everything_but_its_pods(rendered: dict[str, list[Object]], helm: str) -> None:
    plain, suspended = rendered["three-brokers"], rendered["suspended"]
    assert [found["metadata"]["name"] for found in plain] == [found["metadata"]["name"] for found in suspended]
    assert one(suspended, "StatefulSet", "broker")["spec"]["replicas"] == 0
    gateway = one(render(helm, merged(GATEWAYS, {"replicas": 0})), "Deployment", "gateway")
    assert gateway["spec"]["replicas"] == 0


def test_the_card_is_on_the_namespace(rendered: dict[str, list[Object]]) -> None:
    (namespace,) = (found for found in rendered["three-brokers"] if found["kind"] == "Namespace")
    assert namespace["metadata"]["annotations"] == {
        "flowplane.dev/epoch": "7",
        "flowplane.dev/card.organization": "org",
        "flowplane.dev/card.cluster_name": 'Orders: "north" & <south>',
    }


REFUSED: list[tuple[Values, str]] = [
    ({"cluster": {"id": "Not A Label"}}, "/cluster/id"),
    ({"cluster": {"audience": ""}}, "/cluster/audience"),
    ({"cluster": {"hostName": "https://x"}}, "/cluster/hostName"),
    ({"cluster": {"nickname": "x"}}, "nickname"),
    ({"release": {"version": "latest"}}, "/release/version"),
    ({"release": {"mainClass": "x; rm -rf /"}}, "/release/mainClass"),
    ({"size": {"brokers": 0}}, "/size/brokers"),
    ({"size": {"partitions": "3"}}, "/size/partitions"),
    ({"size": {"heapMiB": 64}}, "/size/heapMiB"),
    ({"size": {"color": "red"}}, "color"),
    ({"replicas": -1}, "/replicas"),
    ({"gateway": {"mode": "both"}}, "/gateway/mode"),
    ({"dataEpoch": 1}, "/dataEpoch"),
    ({"dataEpoch": "01"}, "/dataEpoch"),
    ({"image": {"digest": "sha256:1"}}, "/image/digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"tls": {"key": "-----BEGIN EC PRIVATE KEY-----\n"}}, "/tls/key"),
    ({"backupStore": {"endpoint": "store.example"}}, "/backupStore/endpoint"),
    ({"backupStore": {"network": {"cidr": "store.example"}}}, "/backupStore/network/cidr"),
    ({"scheduling": {"antiAffinity": "maybe"}}, "/scheduling/antiAffinity"),
    ({"networkPolicy": {"clientsFrom": [{}]}}, "/networkPolicy/clientsFrom/0"),
    ({"networkPolicy": {"clientsFrom": [{"podSelectors": {}}]}}, "podSelectors"),
    ({"networkPolicy": {"dns": []}}, "/networkPolicy/dns"),
    ({"edge": {"kind": "route"}}, "/edge/kind"),
    ({"updateStrategy": "Recreate"}, "/updateStrategy"),
    ({"exporters": {"environment": {"SPRING_PROFILES_ACTIVE": "broker"}}}, "SPRING_PROFILES_ACTIVE"),
    ({"restore": {"checkpoints": {"one": "4"}}}, "one"),
    ({"card": {"a key": "x"}}, "a key"),
    ({"nothing": 1}, "nothing"),
    ({"size": {"replicationFactor": 3}}, "size.replicationFactor is 3, and size.brokers only 1"),
    ({"size": {"memoryMiB": 512, "heapMiB": 256}}, "size.memoryMiB is 512: the engine needs 320 MiB besides its heap"),
    ({"gateway": {"heapMiB": 512}}, "gateway.memoryMiB is 512"),
    ({"restore": {"heapMiB": 512}}, "restore.memoryMiB is 512"),
    ({"tls": {"key": ""}}, "tls: give existingSecret, or certificate and key."),
    ({"tokenKeys": {"jwks": ""}}, "tokenKeys: give jwks or existingConfigMap."),
    ({"tokenKeys": {"jwks": "{}"}}, "tokenKeys.jwks: must be a JSON document"),
    ({"tokenKeys": {"jwks": "nonsense"}}, "tokenKeys.jwks: must be a JSON document"),
    ({"tokenKeys": {"jwks": '{"keys": [{"kty": "RSA", "d": "AQ"}]}'}}, "tokenKeys.jwks: holds a private key."),
    ({"license": {"key": "a", "existingSecret": "b"}}, "license: give existingSecret or key, not both."),
    ({"backupStore": {"enabled": True}}, "backupStore.endpoint: is needed"),
    ({"backupStore": {**STORE, "accessKey": ""}}, "backupStore: give existingSecret, or accessKey and secretKey."),
    ({"backupStore": {**STORE, "network": {"cidr": ""}}}, "backupStore.network.cidr: is needed"),
    ({"restore": {"enabled": True, "backup": 1}}, "restore: needs backupStore"),
    ({"backupStore": STORE, "restore": {"enabled": True}}, "restore.backup: name the backup's number."),
    ({"edge": {"kind": "tlsRoute"}}, "edge.tlsRoute: give gateway and grpcListener"),
    ({"monitoring": {"serviceMonitor": {"enabled": True}}}, "nobody may reach the management port"),
]


@pytest.mark.parametrize(("over", "words"), REFUSED, ids=[json.dumps(over)[:60] for over, _ in REFUSED])
def test_wrong_values_are_refused_with_their_name(helm: str, over: Values, words: str) -> None:
    done = run_helm(helm, "template", "x", str(CHART), "--namespace", NAMESPACE, values=trial(**over))
    assert done.returncode != 0, done.stdout
    assert words in done.stderr


def test_quantities_of_any_size_are_whole(helm: str) -> None:
    for memory, storage in itertools.product((1023, 2048), (256, 1048576)):
        objects = render(helm, trial(size={"memoryMiB": memory, "diskMiB": storage, "cpuMillis": 2000}))
        spec = one(objects, "StatefulSet", "broker")["spec"]
        (broker,) = spec["template"]["spec"]["containers"]
        assert amount(broker["resources"]["limits"]["memory"]) == memory * 2**20
        assert broker["resources"]["requests"]["cpu"] == "2"
        claim = spec["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
        assert amount(claim) == (2 * storage + 512) * 2**20


def test_values_files_are_yaml_that_says_everything() -> None:
    """Every value of the schema stands in values.yaml, with a comment above it or above its group."""
    text = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values: Any, part: Any, path: str) -> None:
        if "properties" not in part:
            return
        assert part["additionalProperties"] is False, path
        assert set(values) == set(part["properties"]) - {"global"}, path
        for name, value in values.items():
            compare(value, part["properties"][name], f"{path}.{name}")

    compare(yaml.safe_load(text), schema, "")
    for block in text.split("\n\n"):
        assert "# " in block, f"not explained: {block}"
