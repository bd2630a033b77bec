"""Which data a broker's folders hold, and putting the wished one in its place.

`contents.json` names what is in `data` and in `former`, and a move that was begun; it is written before and after each
move, and a folder it does not name is nobody's. So whatever is killed in between, `finish` comes to the same end.
All of this is for whoever holds the engine's lock, except reading.
"""

from __future__ import annotations

from pathlib import Path

from provisioning.backends.engine.origins import Contents, Move, Origin, Placement
from provisioning.backends.local.files import move_durably, read_json, remove, write_json
from provisioning.backends.local.layout import BrokerFolder


def read_contents(broker: BrokerFolder) -> Contents:
    """Read the note; data from before there were notes is what the cluster made itself.

    Raises:
        RegionUnreachable: it is damaged.
    """
    note = read_json(broker.contents)
    if note:
        data, former = Origin.from_record(note["data"]), Origin.from_record(note["former"])
        return Contents(data, former, Move(note["move"]))
    if broker.data.exists():
        return Contents(Origin(0, release=str(read_json(broker.record).get("release", ""))))
    return Contents()


def write_contents(broker: BrokerFolder, contents: Contents) -> None:
    write_json(broker.contents, contents.to_record(), is_durable=True)


def put_in_place(broker: BrokerFolder, placement: Placement) -> Contents:
    """Do what was decided, up to the copy, and return what is there then. May be killed anywhere, and repeated."""
    contents = finish(broker)
    if placement.move is not Move.NONE:
        kept = contents.data if placement.move is Move.TAKE_IN else None
        write_contents(broker, Contents(placement.data, kept, placement.move))
        contents = finish(broker)
    elif contents.data is None:
        contents = Contents(placement.data)
        write_contents(broker, contents)
    if placement.keeps_copy and contents.former is not None:
        # There is room for one in the note; going back two steps was never promised.
        contents = Contents(contents.data)
        write_contents(broker, contents)
    _sweep(broker, contents)
    return contents


def finish(broker: BrokerFolder) -> Contents:
    """Bring a move that was begun to its end. Each folder is where it was or where it goes, which tells what is left.

    A former move has always left a clean state, because nothing begins before this has come to its end.
    """
    contents = read_contents(broker)
    if contents.move is Move.NONE:
        return contents
    if contents.move is Move.TAKE_IN:
        _shift(broker.incoming, broker, away=broker.former)
        remove(broker.restore)
    elif contents.move is Move.PUT_BACK:
        _shift(broker.former, broker, away=broker.discarded)
    else:
        if broker.data.exists():
            remove(broker.discarded)
            move_durably(broker.data, broker.discarded)
        broker.data.mkdir()
    settled = Contents(contents.data, contents.former)
    write_contents(broker, settled)
    return settled


def _shift(coming: Path, broker: BrokerFolder, *, away: Path) -> None:
    """Put a folder in the place of `data`, which goes `away`."""
    if not coming.exists():
        return  # it has arrived already
    if broker.data.exists():
        remove(away)
        move_durably(broker.data, away)
    move_durably(coming, broker.data)


def _sweep(broker: BrokerFolder, contents: Contents) -> None:
    """Remove what belongs to nobody: given up, or half-made."""
    remove(broker.discarded)
    remove(broker.copying)
    if contents.former is None:
        remove(broker.former)


def let_go(broker: BrokerFolder) -> None:
    """Forget and remove what is kept for going back. May run beside the engine, which knows `data` only."""
    contents = read_contents(broker)
    if contents.move is Move.NONE and contents.former is not None:
        write_contents(broker, Contents(contents.data))
    if contents.move is Move.NONE:
        remove(broker.former)
        remove(broker.discarded)
