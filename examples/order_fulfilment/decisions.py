"""What the shop decides, as pure functions of the order: no engine, no database, no clock."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

FLAKY_CARD = "card-flaky"  # like the test cards of payment providers: the first attempt to charge it fails

JOB_RETRIES = 5  # as every task definition in the BPMN files says

# Pieces the warehouse can promise to one order.
ON_HAND = {"notebook": 1000, "fountain-pen": 200, "signed-first-edition": 3}


class PaymentUnavailable(Exception):
    """The payment provider did not answer: a technical failure, so the engine should ask again."""


class Dispatch(StrEnum):
    """When the warehouse hands the parcel over."""

    AT_ONCE = "at_once"
    WHEN_REMINDED = "when_reminded"
    BY_HAND = "by_hand"  # when somebody says so: the command `ship`


@dataclass(frozen=True)
class Order:
    """One order. It travels as the process variable `order`."""

    id: str
    customer: str
    sku: str
    quantity: int
    amount_minor: int
    currency: str
    card: str
    remind_after: str
    """ISO 8601 duration after which the warehouse is reminded of a shipment that has not happened."""
    dispatch: Dispatch

    def to_variables(self) -> dict[str, Any]:
        """Return the JSON object the process works with; its names are camelCase, as in the BPMN files."""
        return {_camel(name): value for name, value in asdict(self).items()}

    @classmethod
    def from_variables(cls, variables: dict[str, Any]) -> Self:
        """Read the order back; ignores fields it does not know. Raises KeyError for a missing one."""
        fields = {name: variables[_camel(name)] for name in cls.__dataclass_fields__}
        return cls(**fields | {"dispatch": Dispatch(fields["dispatch"])})


@dataclass(frozen=True)
class Charge:
    """A payment that was taken."""

    payment_id: str
    amount_minor: int
    currency: str


def decide_payment(order: Order, *, failed_before: bool) -> Charge:
    """Charge the order's card. The id follows from the order, so that a repeated charge is the same charge.

    Raises PaymentUnavailable for the first attempt with the flaky card.
    """
    if order.card == FLAKY_CARD and not failed_before:
        raise PaymentUnavailable("the payment provider did not answer in time")
    return Charge(payment_id=f"payment-{order.id}", amount_minor=order.amount_minor, currency=order.currency)


def is_in_stock(order: Order) -> bool:
    """Whether the warehouse can promise all pieces of the order."""
    return order.quantity <= ON_HAND.get(order.sku, 0)


def is_due_for_dispatch(order: Order, *, is_reminded: bool) -> bool:
    """Whether the warehouse, left alone, hands the parcel over now."""
    return order.dispatch is Dispatch.AT_ONCE or (order.dispatch is Dispatch.WHEN_REMINDED and is_reminded)


def backoff_ms(retries_left: int) -> int:
    """Return how long the engine should wait before it asks a worker again: half a second, doubling, 30 s at most.

    `retries_left` counts the attempt that just failed; the BPMN files start every job with JOB_RETRIES.
    """
    failures_before = max(JOB_RETRIES - retries_left, 0)
    return min(500 << failures_before, 30_000)


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)
