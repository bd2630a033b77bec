"""What a broker is started with: arguments and environment, and nothing from our own environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from provisioning.backends.engine.store import BackupStore
from provisioning.backends.local.layout import ClusterFolder, Ports
from provisioning.backends.local.tls import KeyPairFiles
from provisioning.spec import DesiredCluster

# Copied into the cluster's folder: the engine user may not be let into our code, and our code may move.
LOG_CONFIGURATION = Path(__file__).with_name("log4j2.xml")
LOOPBACK = "127.0.0.1"
# Below the first the engine stops processing, below the second it stops replicating.
DISK_WATERMARK_MIB = 512
REPLICATION_WATERMARK_MIB = 256


@dataclass(frozen=True, slots=True)
class Program:
    """What runs: a Java, an unpacked release and its class archives ("" when there are none)."""

    java: Path
    distribution: Path
    main_class: str
    class_archives: str = ""


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where one Java process of a broker reads and writes; all three belong to the engine user."""

    data: Path
    log: Path
    tmp: Path


def arguments(
    program: Program, place: Workplace, log_configuration: Path, *, heap_mib: int, extra: tuple[str, ...] = ()
) -> list[str]:
    """Return the command line.

    The release's own start script puts a folder on the class path, and Java's class archives cannot be used with one;
    so the jars are listed, sorted, because the archive is bound to their order.
    """
    jars = sorted(str(path) for path in (program.distribution / "lib").glob("*.jar"))
    archive = (f"-XX:SharedArchiveFile={program.class_archives}",) if program.class_archives else ()
    return [
        str(program.java),
        f"-Xmx{heap_mib}m",
        "-Xss512k",
        # One collector thread and the quick compiler: half the CPU time to readiness, and 40 MB less.
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        # Else every engine leaves a file below /tmp.
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        f"-XX:ErrorFile={place.log}/crash.log",
        *archive,
        *extra,
        f"-Djava.io.tmpdir={place.tmp}",
        f"-Dlog4j.configurationFile={log_configuration.as_uri()}",
        f"-Dflowplane.log={place.log}",
        "-cp",
        ":".join(jars),
        program.main_class,
    ]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a broker must know besides the wish.

    Attributes:
        node: its number.
        ports: every broker's block, its own included; the others are who it asks for the rest.
        issuer: a folder: engines take the token keys from the file `protocol/openid-connect/certs` in it.
        store: where backups go, None for nowhere.
        backups_of: the cluster whose backups it reads and writes.
    """

    node: int
    ports: Mapping[int, Ports]
    issuer: Path
    store: BackupStore | None = None
    backups_of: UUID | None = None


def environment(
    desired: DesiredCluster, cluster: ClusterFolder, place: Workplace, around: Surroundings
) -> dict[str, str]:
    """Return the whole environment of a broker, or of what makes its data from a backup."""
    return {
        "LANG": "C.UTF-8",
        "HOME": str(place.data),
        # Fewer memory pools of the C library, which never give back what they took.
        "MALLOC_ARENA_MAX": "2",
        **_network(around.ports[around.node]),
        **_membership(desired, around),
        **_storage(place.data),
        **_transport_security(KeyPairFiles(cluster.tls)),
        **_authentication(desired.audience, around.issuer),
        **(_backups(around.store, around.backups_of or desired.cluster_id) if around.store else {}),
        **({"CAMUNDA_LICENSE_KEY": desired.license_key} if desired.license_key else {}),
    }


def _network(ports: Ports) -> dict[str, str]:
    return {
        "ZEEBE_BROKER_NETWORK_HOST": LOOPBACK,
        "ZEEBE_BROKER_NETWORK_COMMANDAPI_PORT": str(ports.command),
        "ZEEBE_BROKER_NETWORK_INTERNALAPI_PORT": str(ports.internal),
        "ZEEBE_BROKER_GATEWAY_ENABLE": "true",
        "ZEEBE_BROKER_GATEWAY_NETWORK_HOST": LOOPBACK,
        "ZEEBE_BROKER_GATEWAY_NETWORK_PORT": str(ports.grpc),
        "SERVER_ADDRESS": LOOPBACK,
        "SERVER_PORT": str(ports.rest),
        # "graceful" is these releases' own choice; but the broker has stopped by then, so nothing is served any more,
        # and an open connection would hold the engine's end up for 30 s.
        "SERVER_SHUTDOWN": "immediate",
        # The engine asks for no token here: loopback only, whatever the other ports do.
        "MANAGEMENT_SERVER_ADDRESS": LOOPBACK,
        "MANAGEMENT_SERVER_PORT": str(ports.management),
        "MANAGEMENT_SERVER_SSL_ENABLED": "false",
    }


def _membership(desired: DesiredCluster, around: Surroundings) -> dict[str, str]:
    size = desired.size
    contacts = ",".join(f"{LOOPBACK}:{ports.internal}" for _, ports in sorted(around.ports.items()))
    return {
        "ZEEBE_BROKER_CLUSTER_CLUSTERNAME": str(desired.cluster_id),
        "ZEEBE_BROKER_CLUSTER_NODEID": str(around.node),
        "ZEEBE_BROKER_CLUSTER_CLUSTERSIZE": str(size.brokers),
        "ZEEBE_BROKER_CLUSTER_PARTITIONSCOUNT": str(size.partitions),
        "ZEEBE_BROKER_CLUSTER_REPLICATIONFACTOR": str(size.replication_factor),
        **({"ZEEBE_BROKER_CLUSTER_INITIALCONTACTPOINTS": contacts} if size.brokers > 1 else {}),
    }


def _storage(data: Path) -> dict[str, str]:
    return {
        "ZEEBE_BROKER_DATA_DIRECTORY": str(data),
        "ZEEBE_BROKER_DATA_LOGSEGMENTSIZE": "16MB",
        "ZEEBE_BROKER_DATA_SNAPSHOTPERIOD": "15m",
        "ZEEBE_BROKER_DATA_DISK_FREESPACE_PROCESSING": f"{DISK_WATERMARK_MIB}MB",
        "ZEEBE_BROKER_DATA_DISK_FREESPACE_REPLICATION": f"{REPLICATION_WATERMARK_MIB}MB",
        "ZEEBE_BROKER_EXPERIMENTAL_ROCKSDB_MEMORYLIMIT": "32MB",
        "ZEEBE_BROKER_THREADS_CPUTHREADCOUNT": "1",
        "ZEEBE_BROKER_THREADS_IOTHREADCOUNT": "1",
    }


def _backups(store: BackupStore, cluster_id: UUID) -> dict[str, str]:
    return {
        "ZEEBE_BROKER_DATA_BACKUP_STORE": "S3",
        "ZEEBE_BROKER_DATA_BACKUP_S3_ENDPOINT": store.endpoint,
        "ZEEBE_BROKER_DATA_BACKUP_S3_REGION": store.region,
        "ZEEBE_BROKER_DATA_BACKUP_S3_BUCKETNAME": store.bucket,
        "ZEEBE_BROKER_DATA_BACKUP_S3_BASEPATH": str(cluster_id),
        "ZEEBE_BROKER_DATA_BACKUP_S3_ACCESSKEY": store.access_key,
        "ZEEBE_BROKER_DATA_BACKUP_S3_SECRETKEY": store.secret_key,
        "ZEEBE_BROKER_DATA_BACKUP_S3_FORCEPATHSTYLEACCESS": str(store.path_style).lower(),
    }


def _transport_security(files: KeyPairFiles) -> dict[str, str]:
    return {
        "ZEEBE_BROKER_GATEWAY_SECURITY_ENABLED": "true",
        "ZEEBE_BROKER_GATEWAY_SECURITY_CERTIFICATECHAINPATH": str(files.chain),
        "ZEEBE_BROKER_GATEWAY_SECURITY_PRIVATEKEYPATH": str(files.key),
        "SERVER_SSL_ENABLED": "true",
        "SERVER_SSL_CERTIFICATE": str(files.chain),
        "SERVER_SSL_CERTIFICATE_PRIVATE_KEY": str(files.key),
    }


def _authentication(audience: str, issuer: Path) -> dict[str, str]:
    return {
        # Without this profile both releases answer REST to anybody, whatever gRPC asks for.
        "SPRING_PROFILES_ACTIVE": "broker,identity-auth",
        "ZEEBE_BROKER_GATEWAY_SECURITY_AUTHENTICATION_MODE": "identity",
        # The one type that asks the issuer for nothing but its keys.
        "CAMUNDA_IDENTITY_TYPE": "KEYCLOAK",
        "CAMUNDA_IDENTITY_ISSUER": issuer.as_uri(),
        "CAMUNDA_IDENTITY_ISSUERBACKENDURL": issuer.as_uri(),
        "CAMUNDA_IDENTITY_AUDIENCE": audience,
    }
