"""A database as a busy installation would have it, made by the server itself within seconds."""

from __future__ import annotations

from typing import Any

import psycopg

# Each cluster with an organization of its own and its owner, three operations of four steps, twenty audit events and
# two credentials. Ids and digests are hashes: as in life, most of a row does not compress.
FILL = """
CREATE TEMPORARY TABLE crowd ON COMMIT DROP AS
SELECT n, md5('person ' || n)::uuid AS person, md5('organization ' || n)::uuid AS organization,
    md5('cluster ' || n)::uuid AS cluster, now() - n * interval '7 minutes' AS at
FROM generate_series(1, %(clusters)s) AS n;

INSERT INTO tenants_user (id, email, password, is_active, is_staff, is_superuser, date_joined)
SELECT person, 'person-' || n || '@example.com', 'pbkdf2_sha256$1000000$' || md5(n || 'salt') || '$' || md5(n || 'p'),
    true, false, false, at FROM crowd;
INSERT INTO account_emailaddress (email, verified, "primary", user_id)
SELECT 'person-' || n || '@example.com', true, true, person FROM crowd;
INSERT INTO tenants_organization (id, name, created_at) SELECT organization, 'Organization ' || n, at FROM crowd;
INSERT INTO tenants_membership (id, role, user_id, organization_id)
SELECT md5('membership ' || n)::uuid, 'owner', person, organization FROM crowd;

INSERT INTO tenants_audience (id, epoch, organization_id) SELECT cluster, 1, organization FROM crowd;
INSERT INTO tenants_credential (id, name, client_id, scopes, created_by, last_used_address, audience_id,
    organization_id)
SELECT md5(n || ' credential ' || i)::uuid, 'worker ' || i, 'fpc_' || left(md5(n || ' client ' || i), 20), '{}',
    'person-' || n || '@example.com', '192.0.2.7', cluster, organization FROM crowd, generate_series(1, 2) AS i;
INSERT INTO tenants_credentialsecret (id, prefix, digest, credential_id, organization_id)
SELECT md5(n || ' secret ' || i)::uuid, 'fps_' || left(md5(n || ' prefix ' || i), 8),
    md5(n || ' left ' || i) || md5(n || ' right ' || i), md5(n || ' credential ' || i)::uuid, organization
FROM crowd, generate_series(1, 2) AS i;

INSERT INTO provisioning_cluster (id, name, stage, partitions, created_at, lifecycle, is_protected, spec_generation,
    observed_generation, conditions, was_healthy, endpoint_grpc, endpoint_rest, seen_at, due_at, lease_epoch, failures,
    start_attempts, audience_id, organization_id, region_id, plan_type_id, channel_id, release_id)
SELECT cluster, 'orders', 'prod', 1, at, 'running', false, 3, 3,
    (SELECT jsonb_agg(jsonb_build_object('type', kind, 'status', 'True', 'reason', 'AsWished',
        'message', 'All partitions are healthy.', 'observed_generation', 3, 'last_transition_at', at))
     FROM unnest(ARRAY['Accepted', 'Applied', 'Available', 'UpToDate', 'Stalled', 'Deleting']) AS kind),
    true, cluster || '.local.flowplane.localhost:26500', '', now(), now() + interval '1 day', 40, 0, 0,
    cluster, organization, 'local', 'small', 'stable', '8.5.8' FROM crowd;
INSERT INTO provisioning_operation (id, kind, state, changes, spec_generation, actor_kind, actor_label, created_at,
    started_at, finished_at, error_code, error_message, attempts, cluster_id, organization_id)
SELECT md5(n || ' operation ' || i)::uuid, 'create', 'succeeded', '{"release": [null, "8.5.8"]}', i, 'person',
    'person-' || n || '@example.com', at, at, at + interval '5 seconds', '', '', 1, cluster, organization
FROM crowd, generate_series(1, 3) AS i;
INSERT INTO provisioning_operationstep (id, position, kind, state, waits_for, started_at, finished_at, attempts,
    operation_id, organization_id)
SELECT md5(n || ' step ' || i || ' ' || p)::uuid, p, 'start', 'done', 'The engine is starting its partitions.', at,
    at + interval '4 seconds', 1, md5(n || ' operation ' || i)::uuid, organization
FROM crowd, generate_series(1, 3) AS i, generate_series(1, 4) AS p;

INSERT INTO tenants_auditevent (id, at, actor_kind, actor_id, actor_label, source_address, request_id, action,
    target_kind, target_id, changes, organization_id)
SELECT md5(n || ' event ' || i)::uuid, at, 'person', person::text, 'person-' || n || '@example.com', '192.0.2.7',
    md5(n || ' request ' || i), 'cluster.update_requested', 'cluster', cluster::text,
    '{"name": ["orders", "orders"], "is_protected": [false, true]}', organization
FROM crowd, generate_series(1, 20) AS i;
"""


def fill(connection: psycopg.Connection[Any], clusters: int) -> None:
    """Add so many clusters, with all that belongs to them, to a migrated database with its catalogue. Once."""
    with connection.transaction():
        for statement in FILL.strip().split(";\n"):
            connection.execute(statement, {"clusters": clusters} if "%(clusters)s" in statement else None)
