"""What Helm makes of Flowplane's own chart: kept outputs, what must hold in all of them, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.cases import Object, Values, one, require_kept, run_helm
from tests.charts.product_cases import (
    ALL,
    CHART,
    EXTERNAL,
    NAMESPACE,
    RELEASE,
    external,
    golden_texts,
    render,
)

pytestmark = pytest.mark.kubernetes

CHECKOUT = Path(__file__).parents[2]
SETTINGS = (CHECKOUT / "config" / "settings.py").read_text()
REGION_RIGHTS = CHECKOUT / "docs" / "region-rights.yaml"
EVERYWHERE = {"ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
# What `helm uninstall` removes, all of it.
KINDS = EVERYWHERE | {
    "ConfigMap",
    "Deployment",
    "Ingress",
    "Job",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
    "StatefulSet",
}
HARMLESS_VOLUMES = {"configMap", "emptyDir", "projected", "secret"}


@pytest.fixture(scope="module")
def rendered(helm: str) -> dict[str, list[Object]]:
    """All cases' objects, made once."""
    return {name: render(helm, values) for name, values in ALL.items()}


@pytest.fixture(params=ALL)
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[Object]]) -> list[Object]:
    """One case's objects after the other."""
    return rendered[request.param]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield each kind of pod: what it is called by its labels, and its specification."""
    for found in objects:
        if found["kind"] in ("StatefulSet", "Deployment", "Job"):
            template = found["spec"]["template"]
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def pod(objects: list[Object], component: str) -> Object:
    return dict(pods(objects))[component]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def secrets(spec: Object) -> dict[str, set[str]]:
    """What a pod can read of each Secret, by key."""
    found: dict[str, set[str]] = {}
    for volume in spec["volumes"]:
        sources = [source.get("secret") for source in volume.get("projected", {}).get("sources", [])]
        for source in filter(None, sources):
            found.setdefault(source["name"], set()).update(item["key"] for item in source["items"])
    return found


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    else:
        yield str(value)


def test_the_outputs_are_the_kept_ones(helm: str) -> None:
    require_kept(golden_texts(helm), "tests.charts.product_cases")


@pytest.mark.parametrize("name", ALL)
def test_helm_finds_nothing_to_complain_of(helm: str, name: str) -> None:
    done = run_helm(helm, "lint", "--strict", str(CHART), "--namespace", NAMESPACE, values=ALL[name])
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_object_says_whose_it_is(objects: list[Object]) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(names) == len(set(names))
    for found in objects:
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "flowplane"
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        if found["kind"] in EVERYWHERE:
            assert found["metadata"]["name"].startswith(f"flowplane-{NAMESPACE}-"), "installations must not meet"
        else:
            assert found["metadata"]["namespace"] == NAMESPACE


def test_nothing_of_a_region_belongs_to_the_release(objects: list[Object]) -> None:
    """So `helm uninstall`, and the removal of our namespace, leave engines and a region's memory alone."""
    for found in objects:
        assert found["kind"] in KINDS, "a Namespace, a definition or a volume goes with all that is in it"
        assert found["metadata"].keys() <= {"name", "namespace", "labels", "annotations"}, (
            "nobody owns, nothing is last"
        )
        assert "helm.sh/hook" not in found["metadata"].get("annotations", {})
        assert not any(word in text for text in strings(found) for word in ("ownerReferences", "flowplane.dev/cluster"))
        # Helm's label is not the one that the product goes by (names.MANAGER).
        assert found["metadata"]["labels"]["app.kubernetes.io/managed-by"] != "flowplane"


@pytest.mark.parametrize("namespace", ["flowplane-system", "fp-0c0ffee0-0000-4000-8000-000000000001"])
def test_it_is_not_installed_where_engines_or_their_memory_are(helm: str, namespace: str) -> None:
    done = run_helm(helm, "template", "x", str(CHART), "--namespace", namespace, values=EXTERNAL)
    assert done.returncode != 0
    assert "Choose another namespace." in done.stderr


def test_every_pod_is_as_restricted_as_kubernetes_knows(objects: list[Object]) -> None:
    for component, spec in pods(objects):
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == (999 if component.startswith("trial-") else 1001)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        for volume in spec["volumes"]:
            assert volume.keys() - {"name"} <= HARMLESS_VOLUMES
            for source in volume.get("projected", {}).get("sources", []):
                assert source.keys() <= {"secret", "configMap"}
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"].keys() == {"memory"}
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
            assert not any("subPath" in mount for mount in container["volumeMounts"])
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= {volume["name"] for volume in spec["volumes"]} | {"data"}


def test_settings_are_ones_that_exist(objects: list[Object]) -> None:
    known = set(re.findall(r'(?:env\.\w+|_store = env\.all_or_none)\(\s*"([A-Z0-9_]+)"', SETTINGS))
    known |= set(re.findall(r'"(BACKUP_S3_[A-Z_]+)"', SETTINGS))
    needed = set(re.findall(r'env\.(?:text|web_address|fernet_keys)\("([A-Z0-9_]+)"\)', SETTINGS)) | {"OFFERING"}
    for _, spec in pods(objects):
        for container in containers(spec):
            names = [entry["name"] for entry in container.get("env", ())]
            assert len(names) == len(set(names))
            given = {name.removeprefix("FLOWPLANE_") for name in names if name.startswith("FLOWPLANE_")}
            if not given:
                continue
            plain = {name if name in known else name.removesuffix("_FILE") for name in given}
            assert plain <= known
            assert needed - {"BACKUP_S3_ENDPOINT"} <= plain


def test_files_that_settings_name_are_mounted(objects: list[Object]) -> None:
    for component, spec in pods(objects):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in containers(spec):
            there = set()
            for mount in container["volumeMounts"]:
                for source in volumes.get(mount["name"], {}).get("projected", {}).get("sources", []):
                    for kind in source.values():
                        there |= {f"{mount['mountPath']}/{item['path']}" for item in kind["items"]}
            for entry in container.get("env", ()):
                if entry["name"].endswith("_FILE") and entry["value"].startswith("/etc/"):
                    is_for_engineers = entry["name"].startswith("FLOWPLANE_CA_")
                    if not is_for_engineers or component in ("worker", "clock"):
                        assert entry["value"] in there, (component, entry["name"])


def test_no_secret_stands_in_the_output(objects: list[Object]) -> None:
    assert "Secret" not in {found["kind"] for found in objects}
    for _, spec in pods(objects):
        for container in containers(spec):
            assert all("valueFrom" not in entry for entry in container.get("env", ()))


def test_everybody_reads_only_the_secrets_that_it_needs(objects: list[Object]) -> None:
    roles = {"web": {"app"}, "worker": {"system"}, "clock": {"system"}, "watch": {"system"}}
    roles |= {"migration": {"owner", "system"}, "trial-postgres": {"owner", "app", "system"}, "trial-redis": set()}
    for component, spec in pods(objects):
        read = secrets(spec)
        databases = {name.removeprefix("flowplane-database-") for name in read if "database" in name}
        assert databases == roles[component]
        is_engineer = component in ("worker", "clock")
        assert ("flowplane-authority" in read) is is_engineer
        assert "flowplane-backup-store" not in read or is_engineer


def test_the_owner_only_migrates_and_comes_first(objects: list[Object]) -> None:
    spec = pod(objects, "migration")
    (migrate,), (bootstrap,) = spec["initContainers"], spec["containers"]
    assert migrate["command"] == ["python", "manage.py", "migrate", "--no-input"]
    assert bootstrap["command"][:3] == ["python", "manage.py", "bootstrap"]
    assert {mount["name"] for mount in migrate["volumeMounts"]} == {"settings-owner", "tmp"}
    assert {mount["name"] for mount in bootstrap["volumeMounts"]} == {"settings-system", "tmp"}
    for component, other in pods(objects):
        if component in ("web", "worker", "clock", "watch"):
            (wait,) = other["initContainers"]
            assert "migrate --check" in wait["command"][-1]
            assert wait["image"] == other["containers"][0]["image"], "old code knows nothing of new migrations"
            assert wait["env"] == other["containers"][0]["env"]


def test_another_release_is_another_job(rendered: dict[str, list[Object]], helm: str) -> None:
    def name(objects: list[Object]) -> str:
        (job,) = (found for found in objects if found["kind"] == "Job")
        return str(job["metadata"]["name"])

    same = render(helm, external(web={"replicas": 5}))
    other = render(helm, external(image={"tag": "next"}))
    assert name(same) == name(rendered["external"]) != name(other)


def test_probes_ask_for_progress(objects: list[Object]) -> None:
    for component in ("worker", "clock", "watch"):
        spec = pod(objects, component)
        (container,) = spec["containers"]
        file = {entry["name"]: entry["value"] for entry in container["env"]}["FLOWPLANE_PULSE_FILE"]
        for probe in ("startupProbe", "livenessProbe"):
            command = container[probe]["exec"]["command"]
            assert command[:4] == ["python", "-I", "/srv/flowplane/common/pulse.py", file]
            assert float(command[4]) >= 60
        assert any(file.startswith(f"{mount['mountPath']}/") for mount in container["volumeMounts"])
    (web,) = pod(objects, "web")["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = web[probe]["httpGet"]
        assert asked["path"] == "/healthz", "what the whole installation lacks must not take web away"
        assert asked["httpHeaders"] == [{"name": "Host", "value": "flowplane.example"}], "Django refuses other names"
        assert "flowplane.example" in {entry["name"]: entry["value"] for entry in web["env"]}["FLOWPLANE_ALLOWED_HOSTS"]


def test_everybody_has_time_to_end(objects: list[Object]) -> None:
    web = pod(objects, "web")
    command = web["containers"][0]["command"]
    begun = int(command[command.index("--graceful-timeout") + 1])
    unsent = int(web["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert unsent + begun < web["terminationGracePeriodSeconds"] <= 30
    for component in ("worker", "clock"):
        assert pod(objects, component)["terminationGracePeriodSeconds"] == 30


def test_a_rollout_leaves_nobody_without_web_and_no_region_with_two_watches(objects: list[Object]) -> None:
    for name in ("web", "worker", "clock"):
        spec = one(objects, "Deployment", name)["spec"]
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        budgets = [found for found in objects if found["kind"] == "PodDisruptionBudget"]
        assert (name in {found["metadata"]["name"] for found in budgets}) is (spec["replicas"] > 1)
    watch = one(objects, "Deployment", "watch")["spec"]
    assert (watch["replicas"], watch["strategy"]) == (1, {"type": "Recreate"})


def test_selectors_find_their_pods(objects: list[Object]) -> None:
    made = {
        component: found["spec"]["template"]["metadata"]["labels"]
        for found in objects
        if found["kind"] in ("StatefulSet", "Deployment", "Job")
        for component in [found["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]]
    }
    for found in objects:
        if found["kind"] == "Service":
            assert found["spec"]["selector"].items() <= made[found["metadata"]["name"]].items()
        elif found["kind"] in ("StatefulSet", "Deployment", "PodDisruptionBudget"):
            wanted = found["spec"]["selector"]["matchLabels"]
            assert wanted.items() <= made[wanted["app.kubernetes.io/component"]].items()


# What the Kubernetes backend asks for, by hand from its calls: a right that it gets and does not use shows up here.
READ_BY_WATCH = {
    "namespaces", "pods", "persistentvolumeclaims", "jobs", "serviceaccounts", "resourcequotas", "limitranges",
    "networkpolicies", "secrets", "configmaps", "services", "poddisruptionbudgets", "statefulsets", "deployments",
}  # fmt: skip
APPLIED = READ_BY_WATCH - {"namespaces", "pods", "persistentvolumeclaims", "jobs"}
REPLACED = {"resourcequotas", "limitranges", "networkpolicies", "poddisruptionbudgets"}
USED = {
    **{key: {"list", "create", "patch", "delete"} for key in APPLIED},
    **{key: {"list", "create", "patch", "update", "delete"} for key in REPLACED},
    "namespaces": {"get", "list", "create", "patch", "delete"},
    "configmaps": {"get", "list", "create", "patch", "delete"},
    "secrets": {"get", "list", "create", "patch", "delete"},
    "statefulsets": {"get", "list", "create", "patch", "delete"},
    "persistentvolumeclaims": {"list", "create", "patch", "delete"},
    "pods": {"list", "delete"},
    "pods/proxy": {"get", "create"},
    "events": {"list"},
    "jobs": {"list", "create", "delete"},
}


def rights(role: Object) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for rule in role["rules"]:
        assert rule.keys() == {"apiGroups", "resources", "verbs"}
        for resource in rule["resources"]:
            assert resource not in found
            found[resource] = set(rule["verbs"])
    return found


def test_rights_are_those_that_are_used(rendered: dict[str, list[Object]]) -> None:
    objects = rendered["external"]
    assert rights(one(objects, "ClusterRole", "flowplane-flowplane-engines")) == USED
    assert rights(one(objects, "ClusterRole", "flowplane-flowplane-watch")) == {
        key: {"list", "watch"} for key in READ_BY_WATCH
    }
    for name, accounts in (("engines", ["worker", "clock"]), ("watch", ["watch"])):
        binding = one(objects, "ClusterRoleBinding", f"flowplane-flowplane-{name}")
        assert [subject["name"] for subject in binding["subjects"]] == accounts
        assert binding["roleRef"]["name"] == binding["metadata"]["name"]
    for name, asked in (("everything", ("ingresses",)), ("tls-route", ("tlsroutes", "servicemonitors"))):
        engines = rights(one(rendered[name], "ClusterRole", "flowplane-flowplane-engines"))
        assert engines == USED | {key: {"list", "create", "patch", "delete"} for key in asked}
        watch = rights(one(rendered[name], "ClusterRole", "flowplane-flowplane-watch"))
        assert watch == {key: {"list", "watch"} for key in (*READ_BY_WATCH, *asked)}


def test_the_rights_of_the_guide_are_those_that_are_used() -> None:
    guide = rights(yaml.safe_load(REGION_RIGHTS.read_text()))
    watched = {key: verbs | ({"watch"} if key in READ_BY_WATCH else set()) for key, verbs in USED.items()}
    assert guide == watched | {"ingresses": {"list", "watch", "create", "patch", "delete"}}


def test_no_right_is_one_to_get_more_rights(objects: list[Object]) -> None:
    for found in objects:
        if found["kind"] == "ClusterRole":
            for rule in found["rules"]:
                given = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
                assert not any("*" in word for word in given)
                assert not given & {"escalate", "bind", "impersonate", "deletecollection"}
                assert "update" not in rule["verbs"] or REPLACED.issuperset(rule["resources"])
                assert not given & {"rbac.authorization.k8s.io", "pods/exec", "serviceaccounts/token", "nodes"}


def test_who_asks_kubernetes_for_nothing_has_no_token(objects: list[Object]) -> None:
    bound = {
        subject["name"] for found in objects if found["kind"] == "ClusterRoleBinding" for subject in found["subjects"]
    }
    for found in objects:
        if found["kind"] == "ServiceAccount":
            assert found["automountServiceAccountToken"] is False
    for component, spec in pods(objects):
        assert spec["serviceAccountName"] == ("trial" if component.startswith("trial-") else component)
        one(objects, "ServiceAccount", spec["serviceAccountName"])
        has_token = spec["automountServiceAccountToken"]
        assert has_token is False or component in ("worker", "clock", "watch")
        assert has_token or component not in bound


def test_other_clusters_are_reached_by_their_kubeconfigs_alone(rendered: dict[str, list[Object]]) -> None:
    objects = rendered["other-clusters"]
    assert not [found for found in objects if found["kind"] in EVERYWHERE]
    for component, spec in pods(objects):
        assert spec["automountServiceAccountToken"] is False
        mounted = {mount["mountPath"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert ("/etc/kubeconfigs" in mounted) is (component in ("worker", "clock", "watch"))


def matches(selector: Object, labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(labels.get(term["key"]) in term["values"] for term in selector.get("matchExpressions", ()))


def test_the_network_is_closed_but_for_what_is_used(rendered: dict[str, list[Object]]) -> None:
    for name in set(ALL) - {"open-network"}:
        objects = rendered[name]
        policies = [found for found in objects if found["kind"] == "NetworkPolicy"]
        closed = one(objects, "NetworkPolicy", "default-deny")["spec"]
        assert closed.keys() == {"podSelector", "policyTypes"}
        reach: dict[str, set[int]] = {}
        for component, _ in pods(objects):
            labels = {"app.kubernetes.io/name": "flowplane", "app.kubernetes.io/instance": RELEASE}
            labels["app.kubernetes.io/component"] = component
            assert matches(closed["podSelector"], labels)
            reach[component] = set()
            for policy in policies:
                if matches(policy["spec"]["podSelector"], labels):
                    for rule in policy["spec"].get("egress", ()):
                        assert rule["to"]
                        reach[component] |= {port["port"] for port in rule["ports"]}
        store = {443} if name == "everything" else set()
        stores, outside = {53, 5432, 6379}, {587, 6443}
        assert reach["web"] == stores, "who is reached from outside reaches nothing but our own servers"
        assert reach["worker"] == reach["clock"] == stores | outside | store
        assert reach["watch"] == stores | {6443}
        assert reach["migration"] == {53, 5432}
        assert all(reach[component] == {53} for component in reach if component.startswith("trial-"))
        opened = {found["metadata"]["name"] for found in policies if "ingress" in found["spec"]}
        assert opened == ({"web", "trial-postgres", "trial-redis"} if name == "trial" else {"web"})


def test_trial_servers_are_off_unless_asked_for(rendered: dict[str, list[Object]]) -> None:
    for name, objects in rendered.items():
        trials = [found for found in objects if found["metadata"]["name"].startswith("trial")]
        assert bool(trials) is (name == "trial")


REFUSED: list[tuple[Values, str]] = [
    ({"image": {"repository": ""}}, "image.repository: has to be set."),
    ({"image": {"digest": "sha256:1"}}, "/image/digest"),
    ({"addresses": {"public": ""}}, "addresses.public: has to be set."),
    ({"addresses": {"public": "flowplane.example"}}, "/addresses/public"),
    ({"addresses": {"api": "https://x/path"}}, "/addresses/api"),
    ({"addresses": {"alsoAllowed": ["*"]}}, "/addresses/alsoAllowed"),
    ({"mail": {"from": "nobody"}}, "/mail/from"),
    ({"secrets": {"secretKey": "x"}}, "secretKey"),
    ({"secrets": {"existingSecret": ""}}, "/secrets/existingSecret"),
    ({"database": {"url": "postgresql://x"}}, "url"),
    ({"offering": "free"}, "/offering"),
    ({"region": {"slug": ""}}, "region.slug: has to be set."),
    ({"region": {"slug": "North Pole"}}, "/region/slug"),
    ({"region": {"domain": ""}}, "region.domain: has to be set."),
    ({"web": {"replicas": 0}}, "/web/replicas"),
    ({"watch": {"replicas": 2}}, "replicas"),
    ({"worker": {"memoryMiB": 16}}, "/worker/memoryMiB"),
    ({"backupStore": {"enabled": True}}, "backupStore."),
    (
        {"backupStore": {"enabled": True, "endpoint": "https://s", "bucket": "b"}},
        "networkPolicy.backupStore.peers: is needed",
    ),
    ({"ingress": {"enabled": True}}, "ingress: give className and tlsSecret."),
    ({"networkPolicy": {"webFrom": [{}]}}, "/networkPolicy/webFrom/0"),
    ({"networkPolicy": {"dns": []}}, "/networkPolicy/dns"),
    ({"networkPolicy": {"database": {"peers": []}}}, "networkPolicy.database.peers: is needed"),
    ({"networkPolicy": {"broker": {"peers": []}}}, "networkPolicy.broker.peers: is needed"),
    ({"networkPolicy": {"mail": {"peers": []}}}, "networkPolicy.mail.peers: is needed"),
    ({"networkPolicy": {"kubernetesApi": {"peers": []}}}, "networkPolicy.kubernetesApi.peers: is needed"),
    ({"networkPolicy": {"mail": {"port": 0}}}, "/networkPolicy/mail/port"),
    ({"trial": {"postgres": {"enabled": "yes"}}}, "/trial/postgres/enabled"),
    ({"nothing": 1}, "nothing"),
]


@pytest.mark.parametrize(("over", "words"), REFUSED, ids=[json.dumps(over)[:60] for over, _ in REFUSED])
def test_wrong_values_are_refused_with_their_name(helm: str, over: Values, words: str) -> None:
    done = run_helm(helm, "template", "x", str(CHART), "--namespace", NAMESPACE, values=external(**over))
    assert done.returncode != 0, done.stdout
    assert words in done.stderr


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
