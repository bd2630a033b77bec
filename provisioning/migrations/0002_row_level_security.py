"""Clusters and operations stand behind the wall; the catalogue is read by everybody and written by operators."""

from django.db import migrations

OWNED = "organization_id = NULLIF(current_setting('flowplane.organization', true), '')::uuid"
OWNED_TABLES = ("provisioning_cluster", "provisioning_operation", "provisioning_operationstep")
CATALOGUE = (
    "provisioning_region, provisioning_plantype, provisioning_release, provisioning_channel, "
    "provisioning_channel_releases"
)


def protect(table: str) -> str:
    """The statements that put one table behind the wall."""
    return f"""
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    CREATE POLICY {table}_system ON {table} TO flowplane_system USING (true) WITH CHECK (true);
    CREATE POLICY {table}_app ON {table} TO flowplane_app USING ({OWNED}) WITH CHECK ({OWNED});
    """


class Migration(migrations.Migration):
    dependencies = [("provisioning", "0001_initial"), ("tenants", "0002_row_level_security")]

    operations = [
        migrations.RunSQL(
            f"""
            GRANT SELECT, INSERT, UPDATE, DELETE ON {", ".join(OWNED_TABLES)}
                TO flowplane_app, flowplane_system;
            GRANT SELECT ON {CATALOGUE} TO flowplane_app;
            GRANT SELECT, INSERT, UPDATE, DELETE ON {CATALOGUE} TO flowplane_system;
            GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO flowplane_system;
            REVOKE INSERT, UPDATE, DELETE ON {CATALOGUE} FROM flowplane_app;
            """,
            migrations.RunSQL.noop,
        ),
        *(migrations.RunSQL(protect(table), migrations.RunSQL.noop) for table in OWNED_TABLES),
    ]
