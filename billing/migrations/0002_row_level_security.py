"""Subscriptions stand behind the wall; plans are read by everybody and written by operators."""

from django.db import migrations

OWNED = "organization_id = NULLIF(current_setting('flowplane.organization', true), '')::uuid"


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial"), ("tenants", "0002_row_level_security")]

    operations = [
        migrations.RunSQL(
            f"""
            GRANT SELECT ON billing_plan, billing_subscription TO flowplane_app;
            GRANT SELECT, INSERT, UPDATE, DELETE ON billing_plan, billing_subscription TO flowplane_system;
            REVOKE INSERT, UPDATE, DELETE ON billing_plan, billing_subscription FROM flowplane_app;
            ALTER TABLE billing_subscription ENABLE ROW LEVEL SECURITY;
            CREATE POLICY billing_subscription_system ON billing_subscription TO flowplane_system
                USING (true) WITH CHECK (true);
            CREATE POLICY billing_subscription_app ON billing_subscription TO flowplane_app USING ({OWNED});
            """,
            migrations.RunSQL.noop,
        )
    ]
