"""What an installation starts with: releases, channels, plan types and its own region, as data. Pure.

`manage.py bootstrap` writes it into the tables; operators change the rows afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from provisioning.licences import Licence
from provisioning.spec import Gateway


@dataclass(frozen=True, slots=True)
class ReleaseEntry:
    """An engine release as Maven Central serves it."""

    version: str
    sha256: str
    main_class: str
    licence: Licence
    serves_rest: bool
    restore_class: str = "io.camunda.zeebe.restore.RestoreApp"
    upgrades_from: tuple[str, ...] = ()
    rolls_from: tuple[str, ...] = ()

    @property
    def coordinates(self) -> str:
        """Maven coordinates of the distribution."""
        return f"io.camunda:camunda-zeebe:{self.version}:tar.gz"


@dataclass(frozen=True, slots=True)
class ChannelEntry:
    """A line of releases a cluster follows."""

    slug: str
    name: str
    default_release: str
    releases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanTypeEntry:
    """Hardware and layout of an engine cluster; sizes in MiB. `gateway` is who answers clients on Kubernetes.

    Partitions are fixed when a cluster is created and cannot be added on these releases, so each size has the number
    that its largest load would need.
    """

    slug: str
    name: str
    brokers: int
    partitions: int
    replication_factor: int
    memory_mib: int
    heap_mib: int
    disk_mib: int
    gateway: Gateway = Gateway.EMBEDDED


@dataclass(frozen=True, slots=True)
class RegionEntry:
    """A place for engines; its clusters are named `<cluster id>.<domain>`. Without a limit nobody counts them."""

    slug: str
    name: str
    backend: str
    domain: str
    max_clusters: int | None = None


# The machine that Flowplane itself runs on. `localhost` names resolve to loopback without any set-up (RFC 6761).
HOME_REGION = RegionEntry("local", "This machine", backend="local", domain="local.flowplane.localhost")

RELEASES = (
    ReleaseEntry(
        version="8.5.8",
        sha256="53ce62b008e61a87a3f7aed700065ad1352084a24c85771bc4e8300828bf95b4",
        main_class="io.camunda.zeebe.broker.StandaloneBroker",
        licence=Licence.ZEEBE_COMMUNITY_1_1,
        serves_rest=False,
    ),
    ReleaseEntry(
        version="8.6.0",
        sha256="5c699e86a6c9d290dd7b1f0b2ea648fb57fd1dacf1cab22c874219e58827ea45",
        main_class="io.camunda.application.StandaloneBroker",
        licence=Licence.CAMUNDA_1_0,
        serves_rest=True,
        upgrades_from=("8.5.8",),
        # Tried with three brokers under load: leaders on both releases side by side, nothing lost (docs/adr/0011).
        rolls_from=("8.5.8",),
    ),
)

CHANNELS = (
    ChannelEntry("stable", "Stable", default_release="8.5.8", releases=("8.5.8",)),
    ChannelEntry("next", "Next", default_release="8.6.0", releases=("8.6.0", "8.5.8")),
)

# Reckoned, not measured for each: a broker with one partition was seen to take 500 to 600 MiB (a third of it heap);
# each further one is counted with 32 MiB of RocksDB and its share of buffers.
PLAN_TYPES = (
    PlanTypeEntry("small", "Small", 1, 1, 1, memory_mib=640, heap_mib=160, disk_mib=1024),
    PlanTypeEntry("small-plus", "Small plus", 1, 1, 1, memory_mib=1024, heap_mib=480, disk_mib=2048),
    PlanTypeEntry("medium", "Medium", 1, 3, 1, memory_mib=1024, heap_mib=320, disk_mib=2048),
    # Every partition on three brokers, so that one may be lost or replaced while the others serve.
    PlanTypeEntry("resilient", "Resilient", 3, 3, 3, memory_mib=768, heap_mib=192, disk_mib=2048),
    PlanTypeEntry("resilient-4", "Resilient, four brokers", 4, 3, 3, memory_mib=768, heap_mib=192, disk_mib=2048),
    # Clients' connections cost their gateways, not the brokers; by gRPC only.
    PlanTypeEntry("large", "Large", 3, 6, 3, memory_mib=1536, heap_mib=512, disk_mib=8192, gateway=Gateway.STANDALONE),
)
