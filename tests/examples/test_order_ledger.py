"""The shop's ledger: what makes at-least-once delivery count once."""

import threading
from pathlib import Path

import pytest

from examples.order_fulfilment.failures import LedgerUnusable
from examples.order_fulfilment.ledger import Fact, Ledger


def test_a_fact_counts_once_however_often_it_is_reported(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        first = ledger.record("o-1", Fact.PAYMENT_RETRIEVED, payment_id="payment-o-1")
        again = ledger.record("o-1", Fact.PAYMENT_RETRIEVED, payment_id="another")

        assert (first, again) == (True, False)
        (entry,) = ledger.history("o-1")
        assert entry.detail == {"payment_id": "payment-o-1"}


def test_the_same_fact_of_two_orders_is_two_facts(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert ledger.record("o-1", Fact.PLACED)
        assert ledger.record("o-2", Fact.PLACED)


def test_facts_outlive_the_process_that_wrote_them(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.record("o-1", Fact.PLACED)

    with Ledger(tmp_path) as reopened:
        assert reopened.has("o-1", Fact.PLACED)
        assert not reopened.has("o-1", Fact.SHIPPED)


def test_racing_workers_write_one_fact(tmp_path: Path) -> None:
    Ledger(tmp_path).__exit__()
    answers: list[bool] = []
    start = threading.Barrier(4)

    def work() -> None:
        with Ledger(tmp_path) as ledger:
            start.wait()
            answers.append(ledger.record("o-1", Fact.PAYMENT_RETRIEVED))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers) == [False, False, False, True]


def test_new_facts_can_be_followed_from_a_number(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        assert ledger.last_number() == 0
        ledger.record("o-1", Fact.PLACED)
        seen = ledger.last_number()
        ledger.record("o-1", Fact.PAYMENT_RETRIEVED)

        assert [entry.fact for entry in ledger.after(seen)] == [Fact.PAYMENT_RETRIEVED]


def test_an_order_waits_from_its_reservation_to_its_shipment(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.record("o-1", Fact.PLACED)
        assert ledger.waiting() == []
        ledger.record("o-1", Fact.STOCK_RESERVED)
        assert [entry.order_id for entry in ledger.waiting()] == ["o-1"]
        ledger.record("o-1", Fact.SHIPPED)
        assert ledger.waiting() == []


def test_a_folder_that_cannot_hold_a_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file where a folder should be")

    with pytest.raises(LedgerUnusable, match="occupied"):
        Ledger(tmp_path / "occupied")
