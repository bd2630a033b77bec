"""The command line: arguments in, events out (see `output`); exit 0, 1 after a failure, 2 after a wrong call."""

import argparse
import asyncio
import logging
import secrets
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from pyzeebe.errors import ZeebeError

from examples.order_fulfilment import errands
from examples.order_fulfilment.connection import explain
from examples.order_fulfilment.decisions import Dispatch
from examples.order_fulfilment.failures import EngineTrouble, Failed, Interrupted, SettingsInvalid, root_of
from examples.order_fulfilment.orders import MIN_ORDERS, make_order, make_orders
from examples.order_fulfilment.output import Emit, emitter

DEFAULT_FOLDER = Path("order-fulfilment-data")
DEFAULT_TIMEOUT_SECONDS = 120.0

Errand = Coroutine[Any, Any, None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    emit = emitter(pretty=arguments.pretty)
    try:
        asyncio.run(_until_signal(arguments.errand(arguments, emit), is_endless=arguments.is_endless))
    except (ExceptionGroup, Failed, ZeebeError) as error:
        failure = _failure_of(error)
        emit("failed", code=failure.code, message=str(failure))
        return 2 if isinstance(failure, SettingsInvalid) else 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser. Each command sets `errand`, a function of the arguments that returns a coroutine."""
    parser = argparse.ArgumentParser(prog="python -m examples.order_fulfilment", description=__doc__)
    parser.set_defaults(is_endless=False)
    parser.add_argument("--pretty", action="store_true", help="print sentences instead of JSON lines")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where the shop keeps its ledger")
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_SECONDS, metavar="SECONDS")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("deploy", help="deploy the processes")
    command.set_defaults(errand=_deploy)

    command = commands.add_parser("work", help="run the workers until SIGTERM or Ctrl-C")
    command.set_defaults(errand=_work, is_endless=True)

    command = commands.add_parser("order", help="place orders and leave them to the workers")
    _add_order_arguments(command)
    command.set_defaults(errand=_order)

    command = commands.add_parser("run", help="deploy, place orders, work, and end when all orders have ended")
    _add_order_arguments(command)
    command.set_defaults(errand=_run)

    command = commands.add_parser("leave-waiting", help="leave one order waiting for its shipment in the engine")
    command.add_argument("order_id", nargs="?", metavar="ORDER_ID")
    command.set_defaults(errand=_leave_waiting)

    command = commands.add_parser("ship", help="ship waiting orders and work until they have ended")
    command.add_argument("order_ids", nargs="*", metavar="ORDER_ID", help="none: all that wait for a hand")
    command.set_defaults(errand=_ship)
    return parser


def _add_order_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--count", type=_order_count, default=5, help=f"how many orders, at least {MIN_ORDERS}")
    command.add_argument("--prefix", help="begin of the order ids; placing an id again changes nothing")


def _order_count(text: str) -> int:
    count = int(text)
    if count < MIN_ORDERS:
        raise argparse.ArgumentTypeError(f"{count} is too few: at least {MIN_ORDERS} orders show all endings")
    return count


def _deploy(arguments: argparse.Namespace, emit: Emit) -> Errand:
    return errands.deploy_processes(arguments.folder, emit)


def _work(arguments: argparse.Namespace, emit: Emit) -> Errand:
    return errands.work_until_stopped(arguments.folder, emit)


def _order(arguments: argparse.Namespace, emit: Emit) -> Errand:
    orders = make_orders(arguments.count, arguments.prefix or _new_prefix())
    return errands.place_orders(arguments.folder, orders, emit)


def _run(arguments: argparse.Namespace, emit: Emit) -> Errand:
    orders = make_orders(arguments.count, arguments.prefix or _new_prefix())
    return errands.run_orders(arguments.folder, orders, arguments.timeout, emit)


def _leave_waiting(arguments: argparse.Namespace, emit: Emit) -> Errand:
    order = make_order(arguments.order_id or f"{_new_prefix()}-waiting", dispatch=Dispatch.BY_HAND)
    return errands.leave_waiting(arguments.folder, order, arguments.timeout, emit)


def _ship(arguments: argparse.Namespace, emit: Emit) -> Errand:
    return errands.ship_orders(arguments.folder, arguments.order_ids, arguments.timeout, emit)


def _new_prefix() -> str:
    return f"order-{secrets.token_hex(3)}"


async def _until_signal(errand: Errand, *, is_endless: bool) -> None:
    """Run the errand; a signal cancels it, which lets the workers finish the jobs in hand. Raises Interrupted."""
    task = asyncio.create_task(errand)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        if not is_endless:
            raise Interrupted("Stopped by a signal before the work was done. The engine keeps the orders.") from None


def _failure_of(error: Exception) -> Failed:
    """Return what to tell people. Raises the error again when it is nothing foreseen."""
    root = root_of(error)
    if isinstance(root, Failed):
        return root
    if isinstance(root, ZeebeError):
        return EngineTrouble(explain(root))
    raise error
