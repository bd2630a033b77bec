"""The database keeps how many clusters are in each region, whoever writes them (docs/adr/0015).

Not atomic: each part is a transaction of its own, so that no lock is held while rows are counted.
"""

from django.db import migrations

# By statement where many rows come or go at once. A tombstone is one row at a time, and no turn but the last writes it.
COUNTING = """
CREATE OR REPLACE FUNCTION provisioning_count_added() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    UPDATE provisioning_region AS region SET placed = placed + added.clusters
    FROM (SELECT region_id, count(*) AS clusters FROM fresh WHERE deleted_at IS NULL GROUP BY region_id) AS added
    WHERE region.slug = added.region_id;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION provisioning_count_removed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    UPDATE provisioning_region AS region SET placed = greatest(placed - removed.clusters, 0)
    FROM (SELECT region_id, count(*) AS clusters FROM stale WHERE deleted_at IS NULL GROUP BY region_id) AS removed
    WHERE region.slug = removed.region_id;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION provisioning_count_closed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    UPDATE provisioning_region
    SET placed = CASE WHEN NEW.deleted_at IS NULL THEN placed + 1 ELSE greatest(placed - 1, 0) END
    WHERE slug = NEW.region_id;
    RETURN NULL;
END $$;

CREATE OR REPLACE TRIGGER cluster_added AFTER INSERT ON provisioning_cluster
REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION provisioning_count_added();

CREATE OR REPLACE TRIGGER cluster_removed AFTER DELETE ON provisioning_cluster
REFERENCING OLD TABLE AS stale FOR EACH STATEMENT EXECUTE FUNCTION provisioning_count_removed();

CREATE OR REPLACE TRIGGER cluster_closed AFTER UPDATE OF deleted_at ON provisioning_cluster FOR EACH ROW
WHEN ((OLD.deleted_at IS NULL) IS DISTINCT FROM (NEW.deleted_at IS NULL))
EXECUTE FUNCTION provisioning_count_closed();
"""

UNCOUNTING = """
DROP TRIGGER cluster_closed ON provisioning_cluster;
DROP TRIGGER cluster_removed ON provisioning_cluster;
DROP TRIGGER cluster_added ON provisioning_cluster;
DROP FUNCTION provisioning_count_closed();
DROP FUNCTION provisioning_count_removed();
DROP FUNCTION provisioning_count_added();
"""

# The regions' rows are locked first: whoever has written a cluster and not committed it waits for one, and is not
# counted twice.
FILL = """
SELECT slug FROM provisioning_region ORDER BY slug FOR UPDATE;
UPDATE provisioning_region AS region SET
    placed = (SELECT count(*) FROM provisioning_cluster WHERE region_id = region.slug AND deleted_at IS NULL),
    max_clusters = CASE WHEN backend = 'kubernetes' THEN 4000 END;
"""


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("provisioning", "0009_regions_and_gateways")]

    exceptions = {"BACKFILL": "not atomic: the triggers are committed before rows are counted, so no lock is held"}

    operations = [
        migrations.RunSQL(COUNTING, UNCOUNTING),
        # A web process locks the row of the region that a new cluster goes to, for which it needs a column of its own.
        migrations.RunSQL(
            "GRANT UPDATE (placed) ON provisioning_region TO flowplane_app",
            "REVOKE UPDATE (placed) ON provisioning_region FROM flowplane_app",
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
