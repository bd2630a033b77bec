"""`make demo`: start everything, do the main job before your eyes, and serve until Ctrl-C."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from embedded import keyring
from embedded.doors import Visitor
from embedded.errors import SetupError
from embedded.home import prepare
from embedded.journey import Journey
from embedded.machine import Machine, furnish, held, running
from embedded.processes import INTERRUPTED
from embedded.terminal import Terminal

if TYPE_CHECKING:
    from embedded.environment import Ports
    from embedded.home import Home


def run(home: Home, ports: Ports, *, once: bool) -> int:
    """Run the demo and return its exit status: 0 after a whole journey, 130 when interrupted before.

    Raises:
        SetupError: something failed; by then everything is stopped again.
    """
    terminal = Terminal()
    prepare(home)
    with held(home):
        with terminal.step("Prepare folders, programs, keys and certificates"):
            machine = furnish(home, ports)
        return _demonstrate(machine, terminal, once=once)


def _demonstrate(machine: Machine, terminal: Terminal, *, once: bool) -> int:
    done = False
    try:
        with running(machine, terminal.step) as supervisor:
            login = keyring.load_login(machine.home) or keyring.make_login()
            journey = Journey(machine.home, terminal, Visitor(machine.ports.public_url), login)
            counts = journey.travel()
            _require_whole(counts)
            done = True
            _conclude(machine, terminal, journey, counts)
            if not once:
                terminal.say("\nServing until Ctrl-C; `make demo-down` stops it from elsewhere.")
                supervisor.wait()
    except KeyboardInterrupt:
        terminal.say("\nStopped; the state is kept, and `make demo` goes on with it.")
        return 0 if done else INTERRUPTED
    return 0


def _require_whole(counts: dict[str, Any]) -> None:
    """See that the job was really done, with its two detours."""
    for kind in ("fulfilled", "refused", "payment_retried"):
        if not counts[kind]:
            raise SetupError(f"The orders ended, but none was {kind.replace('_', ' ')}: {counts}.")


def _conclude(machine: Machine, terminal: Terminal, journey: Journey, counts: dict[str, Any]) -> None:
    terminal.say("")
    terminal.summary()
    terminal.say(
        f"\n[bold]{counts['fulfilled']} orders fulfilled[/bold], {counts['refused']} refused for lack of stock, "
        f"{counts['payment_retried']} paid only at a repeated attempt.\n"
    )
    terminal.say(f"Console   [bold]{machine.ports.public_url}[/bold]")
    terminal.say(f"Login     {journey.login.email}   {journey.login.password}")
    terminal.say(f"Mailbox   {machine.ports.public_url}/mailbox")
    terminal.say(f"State     {machine.home.root}")
    sys.stdout.flush()
