"""Settings from the environment: strict, so that a misspelt one stops the start instead of being ignored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from config.env import Environment


def environment(**variables: str) -> Environment:
    return Environment({f"FLOWPLANE_{name}": value for name, value in variables.items()})


def test_a_variable_is_read() -> None:
    assert environment(NAME="value").text("NAME") == "value"


def test_a_file_may_hold_the_value(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("  value\n")
    assert environment(NAME_FILE=str(secret)).text("NAME") == "value"


@pytest.mark.parametrize("variables", [{}, {"NAME": ""}])
def test_a_missing_variable_stops_the_start_and_is_named(variables: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured, match="FLOWPLANE_NAME is not set"):
        environment(**variables).text("NAME")


def test_a_default_stands_in_for_a_missing_variable() -> None:
    assert environment().text("NAME", "default") == "default"


def test_a_variable_and_its_file_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="both set"):
        environment(NAME="value", NAME_FILE=str(tmp_path)).text("NAME")


def test_a_file_that_cannot_be_read_is_named_by_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="FLOWPLANE_NAME_FILE names a file that cannot be read"):
        environment(NAME_FILE=str(tmp_path / "absent")).text("NAME")
    (tmp_path / "empty").touch()
    with pytest.raises(ImproperlyConfigured, match="empty file"):
        environment(NAME_FILE=str(tmp_path / "empty")).text("NAME")


def test_what_belongs_together_is_there_as_a_whole_or_not_at_all() -> None:
    assert environment().all_or_none("KEY", "SECRET") is None
    assert environment(KEY="k", SECRET="s").all_or_none("KEY", "SECRET") == {"KEY": "k", "SECRET": "s"}
    with pytest.raises(ImproperlyConfigured, match="FLOWPLANE_SECRET must be set too, because FLOWPLANE_KEY is"):
        environment(KEY="k").all_or_none("KEY", "SECRET")


def test_an_unknown_variable_stops_the_start_and_is_named() -> None:
    env = environment(NAME="value", NAEM="value")
    env.text("NAME")
    with pytest.raises(ImproperlyConfigured, match="FLOWPLANE_NAEM"):
        env.refuse_unknown()


def test_variables_of_others_are_none_of_ours() -> None:
    Environment({"PATH": "/bin", "FLOWPLANEX": "1"}).refuse_unknown()


@pytest.mark.parametrize("value", ["-1", "many", "1.5"])
def test_a_number_is_a_whole_number(value: str) -> None:
    assert environment(SECONDS="7").number("SECONDS") == 7
    with pytest.raises(ImproperlyConfigured, match="whole number"):
        environment(SECONDS=value).number("SECONDS")


def test_an_optional_number_may_be_absent() -> None:
    assert environment().optional_number("SECONDS") is None
    assert environment(SECONDS="7").optional_number("SECONDS") == 7


def test_a_word_is_one_of_those_allowed() -> None:
    assert environment(FORMAT="json").one_of("FORMAT", ("text", "json")) == "json"
    with pytest.raises(ImproperlyConfigured, match="one of: text, json"):
        environment(FORMAT="xml").one_of("FORMAT", ("text", "json"))


def test_a_flag_is_on_or_off() -> None:
    assert environment(MFA="off").flag("MFA", "on") is False
    with pytest.raises(ImproperlyConfigured, match="on, off"):
        environment(MFA="true").flag("MFA", "on")


@pytest.mark.parametrize("value", ["26500", "26999-26500", "80-90", "65000-65536", "a-b"])
def test_a_range_of_ports_runs_from_first_to_last(value: str) -> None:
    assert environment(PORTS="26500-26501").port_range("PORTS", "1-2") == range(26500, 26502)
    with pytest.raises(ImproperlyConfigured, match="range of ports"):
        environment(PORTS=value).port_range("PORTS", "1-2")


@pytest.mark.parametrize(
    "value", ["https://flowplane.example", "http://127.0.0.1:8000/", "https://flowplane.example/a/"]
)
def test_an_address_is_read_without_its_last_slash(value: str) -> None:
    assert environment(URL=value).web_address("URL") == value.rstrip("/")


@pytest.mark.parametrize(
    "value",
    [
        "flowplane.example",
        "//flowplane.example",
        "https://",
        "https:///path",
        "https://:8000",
        "https://flowplane.example:port",
        "https://flowplane.example:0",
        "https://flowplane.example/?a=b",
        "HTTPS://flowplane.example",
        "ftp://flowplane.example",
        "https://[::1",
    ],
)
def test_an_address_has_a_scheme_and_a_host(value: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"FLOWPLANE_URL is .* must be an address"):
        environment(URL=value).web_address("URL")


def test_master_keys_are_fernet_keys() -> None:
    keys = (Fernet.generate_key().decode(), Fernet.generate_key().decode())
    assert environment(KEYS=f"{keys[0]}, {keys[1]}").fernet_keys("KEYS") == keys


@pytest.mark.parametrize("spoilt", ["not-a-key", "{key},", "{key},c2hvcnQ=", "ключ"])
def test_a_key_that_is_none_stops_the_start_and_is_not_repeated(spoilt: str) -> None:
    key = Fernet.generate_key().decode()
    with pytest.raises(ImproperlyConfigured, match="FLOWPLANE_KEYS must be Fernet keys") as refusal:
        environment(KEYS=spoilt.format(key=key)).fernet_keys("KEYS")
    assert key not in str(refusal.value)


@pytest.mark.parametrize("name", ["MASTER_KEYS", "PUBLIC_URL", "API_URL"])
def test_the_settings_refuse_to_start_and_name_the_variable(name: str) -> None:
    variables = {key: value for key, value in os.environ.items() if key != f"FLOWPLANE_{name}_FILE"}
    start = subprocess.run(
        [sys.executable, "-c", "import config.settings"],
        env={**variables, f"FLOWPLANE_{name}": "wrong"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert start.returncode != 0
    assert f"ImproperlyConfigured: FLOWPLANE_{name} " in start.stderr
