"""Live progress for a person; plain lines when nobody watches."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.status import Status


@dataclass
class Step:
    """One thing that is being done."""

    title: str
    seconds: float = 0.0
    _status: Status | None = None

    def note(self, text: str) -> None:
        """Say what it waits for right now."""
        if self._status is not None:
            self._status.update(f"{escape(self.title)} [dim]{escape(text)}[/dim]")


@dataclass
class Terminal:
    """Where the demo speaks, and the list of what it has done."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    steps: list[Step] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step while the block runs, and its duration afterwards."""
        started = time.monotonic()
        with self._shown(title) as step:
            try:
                yield step
            except BaseException:
                self.console.print(f"[red]✗[/red] {escape(title)}")
                raise
        step.seconds = time.monotonic() - started
        self.steps.append(step)
        self.console.print(f"[green]✓[/green] {escape(title)} [dim]{step.seconds:.1f} s[/dim]")

    @contextlib.contextmanager
    def _shown(self, title: str) -> Iterator[Step]:
        """On a terminal, turn a wheel beside the title; elsewhere the finished line is enough."""
        if not self.console.is_terminal:
            yield Step(title)
            return
        with self.console.status(escape(title)) as status:
            yield Step(title, _status=status)

    def say(self, text: str) -> None:
        """Print a line of our own markup."""
        self.console.print(text)

    def summary(self) -> None:
        """Print each step with its duration, and the sum."""
        table = Table(title="What took how long", title_justify="left", box=None, show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for step in self.steps:
            table.add_row(escape(step.title), f"{step.seconds:.1f} s")
        table.add_row("[bold]Together[/bold]", f"[bold]{sum(step.seconds for step in self.steps):.1f} s[/bold]")
        self.console.print(table)
