from __future__ import annotations

import redis

from embedded import broker
from embedded.processes import processes_inside
from embedded.testbench import Testbench


def connect(bench: Testbench) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(bench.home.broker_socket))


def test_redis_answers_on_its_socket_and_has_no_port(bench: Testbench) -> None:
    with connect(bench) as client:
        assert client.ping()
        assert client.config_get("port") == {"port": "0"}


def test_redis_keeps_nothing_on_disk(bench: Testbench) -> None:
    with connect(bench) as client:
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}


def test_a_stray_server_is_stopped_and_its_socket_taken_over(bench: Testbench) -> None:
    bench.stop_broker()
    assert not processes_inside(bench.home.redis)
    bench.start_broker()
    broker.wait_until_ready(bench.home)
    with connect(bench) as client:
        assert client.ping()
