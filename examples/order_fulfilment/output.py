"""What the commands print: one JSON object per line for programs, or sentences for people."""

import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

from examples.order_fulfilment.ledger import Entry, Fact

SENTENCES = {
    Fact.PLACED: "was placed",
    Fact.PAYMENT_FAILED: "could not be paid; the engine will ask again",
    Fact.PAYMENT_RETRIEVED: "is paid",
    Fact.PAYMENT_REFUNDED: "got its payment back",
    Fact.STOCK_RESERVED: "has its goods reserved",
    Fact.STOCK_REFUSED: "is out of stock",
    Fact.WAREHOUSE_REMINDED: "is late; the warehouse was reminded",
    Fact.SHIPPED: "was shipped",
    Fact.INVOICE_ISSUED: "has its invoice",
    Fact.CUSTOMER_NOTIFIED: "was announced to the customer",
}

Emit = Callable[..., None]


def emitter(*, pretty: bool, stream: TextIO | None = None) -> Emit:
    """Return a function `emit(event, **fields)` that prints one line and flushes it."""
    out = stream or sys.stdout

    def emit(event: str, **fields: Any) -> None:
        line = to_sentence(event, fields) if pretty else json.dumps({"event": event, **fields})
        print(line, file=out, flush=True)

    return emit


def progress_of(entry: Entry) -> dict[str, Any]:
    """Return the fields of a `progress` event."""
    return {
        "order_id": entry.order_id,
        "fact": entry.fact,
        "detail": entry.detail,
        "at": entry.happened_at.isoformat(),
    }


def to_sentence(event: str, fields: dict[str, Any]) -> str:
    """Say the same for people."""
    match event:
        case "deployed":
            return f"Deployed {fields['process']}, version {fields['version']}."
        case "working":
            return "The workers are at work. Ctrl-C or SIGTERM ends them after the jobs in hand."
        case "progress":
            return f"  {fields['order_id']} {SENTENCES[fields['fact']]}."
        case "outcome":
            reason = f" ({fields['reason']})" if fields["reason"] else ""
            retried = " after a retried payment" if fields["payment_attempts"] > 1 else ""
            return f"* {fields['order_id']} {fields['outcome']}{reason}{retried}, {fields['seconds']:.1f} s."
        case "waiting":
            return f"* {fields['order_id']} waits for its shipment. Send it off with: ship {fields['order_id']}"
        case "summary":
            return (
                f"{fields['orders']} orders in {fields['seconds']:.1f} s: {fields['fulfilled']} fulfilled "
                f"({fields['payment_retried']} with a retried payment, {fields['warehouse_reminded']} late), "
                f"{fields['refused']} refused."
            )
        case "reconnecting" | "failed":
            return str(fields["message"])
        case _:
            raise ValueError(f"unknown event {event}")
