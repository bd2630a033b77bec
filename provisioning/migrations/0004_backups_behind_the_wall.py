"""Backups and leftovers stand behind the wall; what the installation knows of itself is nobody's but its own."""

from importlib import import_module

from django.db import migrations

protect = import_module("provisioning.migrations.0002_row_level_security").protect
OWNED_TABLES = ("provisioning_backup", "provisioning_leftover")


class Migration(migrations.Migration):
    dependencies = [("provisioning", "0003_backups_and_upgrades")]

    operations = [
        migrations.RunSQL(
            f"""
            GRANT SELECT, INSERT, UPDATE ON {", ".join(OWNED_TABLES)} TO flowplane_app, flowplane_system;
            GRANT SELECT, INSERT, UPDATE ON provisioning_installation TO flowplane_system;
            """,
            migrations.RunSQL.noop,
        ),
        *(migrations.RunSQL(protect(table), migrations.RunSQL.noop) for table in OWNED_TABLES),
    ]
