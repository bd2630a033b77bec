"""What an engine process is started with: arguments and environment, and nothing from our own environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def arguments(program: Program, folder: ClusterFolder, *, heap_mib: int, extra: tuple[str, ...] = ()) -> list[str]:
    """Return the engine's command line.

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
        f"-XX:ErrorFile={folder.log}/crash.log",
        *archive,
        *extra,
        f"-Djava.io.tmpdir={folder.tmp}",
        f"-Dlog4j.configurationFile={folder.log_configuration.as_uri()}",
        f"-Dflowplane.log={folder.log}",
        "-cp",
        ":".join(jars),
        program.main_class,
    ]


def environment(desired: DesiredCluster, ports: Ports, folder: ClusterFolder, issuer: Path) -> dict[str, str]:
    """Return the whole environment of the engine.

    `issuer` is a folder: engines take the token keys from the file `protocol/openid-connect/certs` in it.
    """
    return {
        "LANG": "C.UTF-8",
        "HOME": str(folder.data),
        # Fewer memory pools of the C library, which never give back what they took.
        "MALLOC_ARENA_MAX": "2",
        **_network(ports),
        **_storage(desired, folder),
        **_transport_security(KeyPairFiles(folder.tls)),
        **_authentication(desired.audience, issuer),
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


def _storage(desired: DesiredCluster, folder: ClusterFolder) -> dict[str, str]:
    size = desired.size
    return {
        "ZEEBE_BROKER_CLUSTER_CLUSTERNAME": str(desired.cluster_id),
        "ZEEBE_BROKER_CLUSTER_CLUSTERSIZE": str(size.brokers),
        "ZEEBE_BROKER_CLUSTER_PARTITIONSCOUNT": str(size.partitions),
        "ZEEBE_BROKER_CLUSTER_REPLICATIONFACTOR": str(size.replication_factor),
        "ZEEBE_BROKER_DATA_DIRECTORY": str(folder.data),
        "ZEEBE_BROKER_DATA_LOGSEGMENTSIZE": "16MB",
        "ZEEBE_BROKER_DATA_SNAPSHOTPERIOD": "15m",
        "ZEEBE_BROKER_DATA_DISK_FREESPACE_PROCESSING": f"{DISK_WATERMARK_MIB}MB",
        "ZEEBE_BROKER_DATA_DISK_FREESPACE_REPLICATION": f"{REPLICATION_WATERMARK_MIB}MB",
        "ZEEBE_BROKER_EXPERIMENTAL_ROCKSDB_MEMORYLIMIT": "32MB",
        "ZEEBE_BROKER_THREADS_CPUTHREADCOUNT": "1",
        "ZEEBE_BROKER_THREADS_IOTHREADCOUNT": "1",
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
