"""One organization with very many clusters, and others beside it, made by the server itself."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import psycopg

# Each cluster as in `bench.crowd`, with one operation and one proven backup: the list looks for both. A tenth as many
# belong to others, a hundred each. Foreign keys are not checked while filling: that would take most of the time.
FILL = """
SET LOCAL session_replication_role = replica;

CREATE TEMPORARY TABLE long_list ON COMMIT DROP AS
SELECT n, md5('listed ' || n)::uuid AS cluster, %(organization)s::uuid AS organization,
    now() - n * interval '1 second' AS at
FROM generate_series(1, %(rows)s) AS n
UNION ALL
SELECT n, md5('neighbour ' || n)::uuid, md5('neighbourhood ' || n / 100)::uuid, now() - n * interval '10 seconds'
FROM generate_series(1, %(rows)s / 10) AS n;

INSERT INTO tenants_organization (id, name, created_at)
SELECT DISTINCT organization, 'Neighbour', now() FROM long_list ON CONFLICT DO NOTHING;

INSERT INTO tenants_audience (id, epoch, organization_id) SELECT cluster, 1, organization FROM long_list;

INSERT INTO provisioning_cluster (id, name, stage, partitions, created_at, lifecycle, is_protected, spec_generation,
    observed_generation, conditions, was_healthy, endpoint_grpc, endpoint_rest, seen_at, due_at, lease_epoch, failures,
    start_attempts, audience_id, organization_id, region_id, plan_type_id, channel_id, release_id)
SELECT cluster, 'orders-' || n, 'prod', 1, at, 'running', false, 3, 3,
    (SELECT jsonb_agg(jsonb_build_object('type', kind, 'status', status, 'reason', 'AsWished',
        'message', 'All partitions are healthy.', 'observed_generation', 3, 'last_transition_at', at))
     FROM (VALUES ('Accepted', 'True'), ('Applied', 'True'), ('Available', 'True'), ('UpToDate', 'True'),
        ('Stalled', 'False'), ('Deleting', 'False')) AS fact (kind, status)),
    true, cluster || '.local.flowplane.localhost:26500', '', now(), now() + interval '1 day', 40, 0, 0,
    cluster, organization, 'local', 'small', 'stable', '8.5.8' FROM long_list;

INSERT INTO provisioning_operation (id, kind, state, changes, spec_generation, actor_kind, actor_label, created_at,
    started_at, finished_at, error_code, error_message, attempts, cluster_id, organization_id)
SELECT md5('operation ' || cluster)::uuid, 'create', 'succeeded', '{"release": [null, "8.5.8"]}', 3, 'person',
    'person@example.com', at, at, at + interval '5 seconds', '', '', 1, cluster, organization FROM long_list;

INSERT INTO provisioning_backup (id, number, reason, state, brokers, partitions, replication_factor, created_at,
    finished_at, error_message, verified_at, recovery_seconds, loss_seconds, cluster_id, organization_id, release_id)
SELECT md5('backup ' || cluster)::uuid, 1, 'asked_for', 'completed', 1, 1, 1, at, at + interval '2 seconds', '',
    at + interval '1 hour', 21.5, 3600, cluster, organization, '8.5.8' FROM long_list;
"""


def fill(connection: psycopg.Connection[Any], organization: UUID, rows: int) -> tuple[float, float]:
    """Give an organization so many clusters; the seconds that it took to fill and then to vacuum and analyze.

    Needs a superuser's connection to a migrated database with its catalogue.
    """
    connection.autocommit = True
    known = {"organization": organization, "rows": rows}
    began = time.monotonic()
    with connection.transaction():
        for statement in FILL.strip().split(";\n"):
            connection.execute(statement, known if "%(" in statement else None)
    filled = time.monotonic()
    connection.execute("VACUUM (ANALYZE)")
    return filled - began, time.monotonic() - filled
