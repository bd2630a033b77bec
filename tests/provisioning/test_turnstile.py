"""Together or alone: real threads."""

from __future__ import annotations

import threading

import pytest

from provisioning.turnstile import Turnstile


def test_many_are_inside_together() -> None:
    stile, all_inside = Turnstile(), threading.Barrier(3)

    def go_in() -> None:
        with stile.together():
            all_inside.wait(timeout=30)

    threads = [threading.Thread(target=go_in) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not all_inside.broken


def test_who_is_alone_waits_for_those_inside_and_keeps_others_out() -> None:
    stile = Turnstile()
    happened: list[str] = []
    first_is_in, first_may_leave, second_is_in, second_may_leave = (threading.Event() for _ in range(4))

    def company() -> None:
        with stile.together():
            first_is_in.set()
            first_may_leave.wait(timeout=30)
            happened.append("the first leaves")

    def suspect() -> None:
        with stile.alone(patience_seconds=30):
            happened.append("the suspect comes")
            second_is_in.set()
            second_may_leave.wait(timeout=30)
            happened.append("the suspect leaves")

    def late() -> None:
        with stile.together():
            happened.append("the late one comes")

    threads = [threading.Thread(target=company), threading.Thread(target=suspect), threading.Thread(target=late)]
    threads[0].start()
    assert first_is_in.wait(timeout=30)
    threads[1].start()
    first_may_leave.set()
    assert second_is_in.wait(timeout=30)
    threads[2].start()
    second_may_leave.set()
    for thread in threads:
        thread.join(timeout=30)
    assert happened == ["the first leaves", "the suspect comes", "the suspect leaves", "the late one comes"]


def test_nobody_waits_for_ever_for_one_who_stays() -> None:
    stile = Turnstile()
    came = threading.Event()

    def suspect() -> None:
        with stile.alone(patience_seconds=0.05):
            came.set()

    with stile.together():
        thread = threading.Thread(target=suspect)
        thread.start()
        assert came.wait(timeout=30)
    thread.join(timeout=30)


def test_an_error_inside_leaves_the_way_free() -> None:
    stile = Turnstile()
    with pytest.raises(RuntimeError), stile.together():
        raise RuntimeError
    with pytest.raises(RuntimeError), stile.alone(patience_seconds=30):
        raise RuntimeError
    with stile.together():
        pass
