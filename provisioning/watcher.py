"""Turn a region's changes into wake-ups; no decisions.

A dead watcher costs latency only: the clock's sweep of due rows is the safety net.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from django.db import close_old_connections

from common.errors import Permanent
from provisioning import executor, wakeups
from provisioning.models import Region
from provisioning.services import regions
from provisioning.statements import is_away

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# A region that refuses us is asked again so much later: a person has to act first.
REFUSED_AGAIN_SECONDS = 30.0
# Long before what was told last is forgotten, and often enough for the age that is shown.
TELL_EVERY_SECONDS = 5.0

# A database that does not answer; it is told once, and nothing that the region says meanwhile is lost.
AWAY_AGAIN_SECONDS = 2.0


def insist(ask: Callable[[], Answer], *, pause: Callable[[float], object] = time.sleep) -> Answer:
    """Ask the database until it answers, however long it is away: to end for it would not bring it back."""
    is_told = False
    while True:
        close_old_connections()
        try:
            return ask()
        except Exception as error:
            if not is_away(error):
                raise
            if not is_told:
                logger.warning("the database does not answer; the watch waits for it")
            is_told = True
        pause(AWAY_AGAIN_SECONDS)


def watch_region(region: Region) -> None:
    """Wake every cluster that the region's backend reports, for ever; tell that it is watched while it is heard."""
    for cluster_id in executor.backend_of(region.slug, region.backend).changes(_telling(region.slug)):
        insist(partial(wakeups.wake, cluster_id))


def _is_refused(region: Region) -> bool:
    """Watch a region; True when it does not let us, which is no reason to end the other regions' watches."""
    try:
        watch_region(region)
    except Permanent as error:
        logger.error("region %s cannot be watched: %s (%s)", region.slug, error.message, error.internal)
        return True
    return False


def watch(watched: list[Region]) -> threading.Event:
    """Watch each region in a thread of its own; the event is set when one of them ends, which it never should.

    The process must then exit and be started anew: a watch that is silently dead serves a frozen picture.
    """
    ended = threading.Event()

    def run(region: Region) -> None:
        try:
            while _is_refused(region):
                time.sleep(REFUSED_AGAIN_SECONDS)
        except Exception:  # the thread's rim: whatever it was, the process ends and its runner starts it again
            logger.exception("the watch of region %s ended", region.slug)
        finally:
            ended.set()

    for region in watched:
        threading.Thread(target=run, args=[region], name=f"watch-{region.slug}", daemon=True).start()
    return ended


def _telling(region_slug: str) -> Callable[[float], None]:
    """Return what lets the workers know that a region is heard: they look at what rests there more rarely."""
    told_at = -math.inf

    def tell(age_seconds: float) -> None:
        nonlocal told_at
        is_heard = age_seconds < math.inf
        if is_heard and time.monotonic() - told_at >= TELL_EVERY_SECONDS:
            told_at = time.monotonic()
            wakeups.note_watch(region_slug, age_seconds=age_seconds)
        elif not is_heard and told_at > -math.inf:
            told_at = -math.inf
            wakeups.forget_watch(region_slug)
            insist(partial(regions.look_sooner, region_slug))

    return tell
