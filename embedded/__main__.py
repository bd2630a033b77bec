"""`python -m embedded`: the demo, taking it down, and running any command in its environment or on a throwaway one."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embedded import backups, demo, parts
from embedded.environment import (
    ROLES,
    TEST_KUBECONFIG,
    chosen_ports,
    detached_environment,
    environment,
    refuse_foreign_settings,
)
from embedded.errors import SetupError
from embedded.home import locate
from embedded.machine import take_down
from embedded.processes import run_as_command
from embedded.testbench import run_on_bench

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit status."""
    options = _parser().parse_args(argv)
    return run_as_command(lambda: _act(options))


def _act(options: argparse.Namespace) -> int:
    if options.action == "detached":
        return _become(options.command, detached_environment())
    if options.action == "bench":
        refuse_foreign_settings(also=(TEST_KUBECONFIG,))
        return run_on_bench(words_of(options.command))
    refuse_foreign_settings()
    if options.action == "demo":
        return demo.run(locate(), chosen_ports(), once=options.once)
    if options.action == "down":
        return _down(purge=options.purge)
    if options.action == "backup":
        print(backups.back_up(locate(), chosen_ports(), options.to))
        return 0
    if options.action == "restore":
        print(backups.restore(locate(), chosen_ports(), options.source, options.identity))
        return 0
    return _run(options.role, options.command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="embedded", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    demonstrate = actions.add_parser("demo", help="start everything and do the main job")
    demonstrate.add_argument("--once", action="store_true", help="end after the summary, leaving no process")
    down = actions.add_parser("down", help="stop everything, engines included")
    down.add_argument("--purge", action="store_true", help="remove the state as well")
    backup = actions.add_parser("backup", help="write the demo's database and secrets to one encrypted file")
    backup.add_argument("--to", type=Path, required=True, metavar="FILE", help="a new file")
    restore = actions.add_parser("restore", help="bring database and secrets back from such a file")
    restore.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="the backup")
    restore.add_argument("--identity", type=Path, metavar="FILE", help="the key that opens it, if not this home's own")
    run = actions.add_parser("run", help="run a command in the demo's environment")
    run.add_argument("--role", choices=sorted(ROLES), default="app", help="whose rights it has in the database")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    bench = actions.add_parser("bench", help="run a command on a throwaway, migrated database")
    bench.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    detached = actions.add_parser("detached", help="run a command with settings that lead nowhere")
    detached.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser


def _down(*, purge: bool) -> int:
    home = locate()
    was_there = take_down(home, chosen_ports(), with_state=purge)
    if not was_there:
        print(f"Nothing to stop: {home.root} is not a Flowplane home.")
    else:
        print(f"Everything of {home.root} is stopped{' and its state removed' if purge else '; its state is kept'}.")
    return 0


def _run(role: str, command: list[str]) -> int:
    home = locate()
    if not home.is_ours:
        raise SetupError(f"{home.root} is not a Flowplane home yet: run `make demo` first.")
    return _become(command, environment(home, parts.provide(home.cache), role))


def words_of(command: list[str]) -> list[str]:
    """Return what stands after the `--`."""
    words = command[1:] if command[:1] == ["--"] else command
    if not words:
        raise SetupError("Say what to run after `--`.")
    return words


def _become(command: list[str], variables: dict[str, str]) -> int:
    """Replace ourselves by the command, so that signals and exit status are its own."""
    words = words_of(command)
    try:
        os.execvpe(words[0], words, variables)
    except OSError as error:
        raise SetupError(f"{words[0]} could not be started: {error.strerror}.") from error


if __name__ == "__main__":
    sys.exit(main())
