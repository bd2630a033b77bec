"""Let only the newest turn act on a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from provisioning.backends.local.files import exclusive
from provisioning.backends.local.layout import ClusterFolder
from provisioning.errors import Fenced

EPOCH_DIGITS = 20


@contextmanager
def held(folder: ClusterFolder, epoch: int) -> Iterator[None]:
    """Hold the cluster for one call of the turn with this epoch.

    The fence is not in the cluster's folder: after a deletion it must still refuse the turns before it.

    Raises:
        Fenced: a newer turn has been here.
        RegionUnreachable: another call holds the cluster.
    """
    with exclusive(folder.fence) as descriptor:
        highest = int(os.pread(descriptor, EPOCH_DIGITS, 0) or 0)
        if epoch < highest:
            raise Fenced(
                "A newer turn has taken over this cluster.", internal=f"{folder.cluster_id}: epoch {epoch} < {highest}"
            )
        if epoch > highest:
            # In place and at full width: the lock stays with the file, and the launcher's look never finds it empty.
            os.pwrite(descriptor, f"{epoch:0{EPOCH_DIGITS}d}".encode(), 0)
        yield


def highest(folder: ClusterFolder) -> int:
    """Return the highest epoch that was seen for a cluster, 0 before the first."""
    try:
        return int(folder.fence.read_bytes() or 0)
    except FileNotFoundError:
        return 0
