from __future__ import annotations

import subprocess
import sys

import pytest

from embedded.environment import (
    TEST_KUBECONFIG,
    Ports,
    base_environment,
    chosen_ports,
    chosen_settings,
    detached_environment,
    environment,
    refuse_foreign_settings,
)
from embedded.errors import SetupError
from embedded.home import Home
from embedded.keyring import SECRETS, secret_file
from embedded.parts import Parts
from embedded.setup import CHECKOUT
from embedded.testbench import Testbench


def load_settings(variables: dict[str, str]) -> str:
    argv = [sys.executable, "-c", "import config.settings as s; print(s.DATABASES['default']['USER'], s.HOME_DIR)"]
    finished = subprocess.run(argv, cwd=CHECKOUT, env=variables, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


@pytest.mark.parametrize("role", ["owner", "app", "system"])
def test_the_strict_settings_accept_the_environment_of_every_role(bench: Testbench, role: str) -> None:
    assert load_settings(bench.environment(role)) == f"flowplane_{role} {bench.home.region}"


def test_the_strict_settings_accept_the_detached_environment() -> None:
    assert load_settings(detached_environment()) == "flowplane_owner /nonexistent"


def test_no_secret_is_in_the_environment(bench: Testbench) -> None:
    values = set(bench.environment("app").values())
    assert not values & {secret_file(bench.home, name).read_text() for name in SECRETS}


def test_variables_that_would_lead_elsewhere_are_dropped_and_the_machines_own_stay() -> None:
    machine = {"PGHOST": "x", "DJANGO_SETTINGS_MODULE": "x", "FLOWPLANE_HOME": "x", "REQUESTS_CA_BUNDLE": "/ca"}
    kept = base_environment(machine)
    assert kept["REQUESTS_CA_BUNDLE"] == "/ca"
    assert not set(machine) - {"REQUESTS_CA_BUNDLE"} & set(kept)


def test_a_choice_of_the_person_reaches_the_product(bench: Testbench) -> None:
    chosen = {"FLOWPLANE_OFFERING": "commercial", "FLOWPLANE_ENGINE_PORTS": "30000-30099"}
    variables = environment(bench.home, bench.parts, "app", environ=chosen)
    assert chosen.items() <= variables.items()


def test_the_same_home_is_found_again_from_the_chosen_settings(home: Home) -> None:
    settings = chosen_settings(home, Ports(9001, 9002, 9003), {"FLOWPLANE_MFA": "off", "FLOWPLANE_BROKER_URL": "x"})
    assert settings == {
        "FLOWPLANE_HOME": str(home.root),
        "FLOWPLANE_CACHE": str(home.cache),
        "FLOWPLANE_WEB_PORT": "9001",
        "FLOWPLANE_WEB_TLS_PORT": "9002",
        "FLOWPLANE_STORE_PORT": "9003",
        "FLOWPLANE_MFA": "off",
    }
    assert chosen_ports(settings) == Ports(9001, 9002, 9003)


def test_a_setting_that_the_demo_would_ignore_is_refused_by_name() -> None:
    with pytest.raises(SetupError, match=r"^FLOWPLANE_DATABASE_URL: the embedded mode makes this setting itself"):
        refuse_foreign_settings({"FLOWPLANE_DATABASE_URL": "postgresql://prod", "FLOWPLANE_HOME": "/srv"})


def test_the_kubernetes_for_tests_may_be_named_for_tests_only() -> None:
    given = {TEST_KUBECONFIG: "/srv/kubeconfig"}
    refuse_foreign_settings(given, also=(TEST_KUBECONFIG,))
    with pytest.raises(SetupError, match=TEST_KUBECONFIG):
        refuse_foreign_settings(given)


@pytest.mark.parametrize("given", ["80", "x", "65536", "-1"])
def test_a_port_that_cannot_be_is_refused(given: str) -> None:
    with pytest.raises(SetupError, match=r"FLOWPLANE_WEB_PORT is .*: give a port from 1024 to 65535"):
        chosen_ports({"FLOWPLANE_WEB_PORT": given})


def test_one_port_for_two_is_refused() -> None:
    with pytest.raises(SetupError, match="are 8443, 8443 and 8333; they must differ"):
        chosen_ports({"FLOWPLANE_WEB_PORT": "8443"})


def test_the_engine_user_is_named_only_when_there_is_one(home: Home) -> None:
    alone = Home(home.root, home.cache, None)
    parts = Parts(home.cache, home.cache, home.cache, home.cache)
    assert "FLOWPLANE_ENGINE_USER" not in environment(alone, parts, "system", environ={})
