"""What things are called, for people and on disk."""

from __future__ import annotations

from uuid import UUID


def name_of(node: int, brokers: int) -> str:
    """Return what a broker is called in a sentence."""
    return "The engine" if brokers == 1 else f"Broker {node + 1} of {brokers}"


def parse_id(name: str) -> UUID | None:
    """Return the id that something is named after, None for something of another kind."""
    try:
        return UUID(name)
    except ValueError:
        return None
