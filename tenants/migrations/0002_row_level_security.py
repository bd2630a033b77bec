"""The second wall between organizations: PostgreSQL refuses what a query set forgot to filter.

Policies read three transaction-local settings (`tenants.scoping`): the organization acted in, the person, and what the
caller presented (a client id, or an invitation token's digest). `flowplane_system` sees everything by policy, so no
role needs BYPASSRLS, which managed PostgreSQL services do not grant.
"""

from django.db import migrations

ORGANIZATION = "NULLIF(current_setting('flowplane.organization', true), '')::uuid"
PERSON = "NULLIF(current_setting('flowplane.user', true), '')::uuid"
PRESENTED = "NULLIF(current_setting('flowplane.presented', true), '')"

GRANTS = """
GRANT USAGE ON SCHEMA public TO flowplane_app, flowplane_system;
ALTER DEFAULT PRIVILEGES IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO flowplane_app, flowplane_system;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO flowplane_app, flowplane_system;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO flowplane_app, flowplane_system;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO flowplane_app, flowplane_system;
-- What was done stays done: nobody rewrites the audit trail.
REVOKE UPDATE, DELETE ON tenants_auditevent FROM flowplane_app, flowplane_system;
-- Web requests queue mail but never read the queue (the two columns are what INSERT gives back).
REVOKE SELECT, UPDATE, DELETE ON tenants_outgoingmail FROM flowplane_app;
GRANT SELECT (created_at, due_at) ON tenants_outgoingmail TO flowplane_app;
-- Only the system makes token keys, and no web request makes an organization or a credential disappear.
REVOKE INSERT, UPDATE, DELETE ON tenants_signingkey FROM flowplane_app;
REVOKE DELETE ON tenants_organization, tenants_audience, tenants_credential, tenants_credentialsecret
    FROM flowplane_app;
"""

# An organization has exactly one owner: the unique index allows no second one, this allows no commit without one.
# SECURITY DEFINER: the question must be answered about all rows, whoever's transaction it is.
OWNER_STAYS = """
CREATE FUNCTION tenants_require_owner() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tenants_membership WHERE organization_id = OLD.organization_id AND role = 'owner')
        AND EXISTS (SELECT FROM tenants_organization WHERE id = OLD.organization_id)
    THEN
        RAISE EXCEPTION 'organization % would be without an owner', OLD.organization_id
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'membership_owner_stays';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER membership_owner_stays AFTER UPDATE OR DELETE ON tenants_membership
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION tenants_require_owner();
"""

# table -> (what may be seen, what may be written)
OWNED = f"organization_id = {ORGANIZATION}"
OWN_ACCOUNT = f"organization_id IS NULL AND actor_id = {PERSON}::text"
OWN_REQUEST = f"organization_id IS NULL AND principal_id = {PERSON}::text"
JOINED = f"(SELECT organization_id FROM tenants_membership WHERE user_id = {PERSON})"
INVITING = f"(SELECT organization_id FROM tenants_invitation WHERE token_digest = {PRESENTED})"
SHOWN = f"(SELECT id FROM tenants_credential WHERE client_id = {PRESENTED})"
POLICIES = {
    "tenants_organization": (f"id = {ORGANIZATION} OR id IN {JOINED} OR id IN {INVITING}", f"id = {ORGANIZATION}"),
    "tenants_membership": (f"{OWNED} OR user_id = {PERSON}", OWNED),
    "tenants_invitation": (f"{OWNED} OR token_digest = {PRESENTED}", OWNED),
    "tenants_audience": (OWNED, OWNED),
    "tenants_credential": (f"{OWNED} OR client_id = {PRESENTED}", OWNED),
    "tenants_credentialsecret": (f"{OWNED} OR credential_id IN {SHOWN}", OWNED),
    "tenants_auditevent": (f"{OWNED} OR {OWN_ACCOUNT}", f"{OWNED} OR {OWN_ACCOUNT}"),
    "tenants_idempotencyrecord": (f"{OWNED} OR {OWN_REQUEST}", f"{OWNED} OR {OWN_REQUEST}"),
}


def protect(table: str, seen: str, written: str) -> str:
    """The statements that put one table behind the wall."""
    return f"""
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY {table}_system ON {table} TO flowplane_system USING (true) WITH CHECK (true);
CREATE POLICY {table}_seen ON {table} FOR SELECT TO flowplane_app USING ({seen});
CREATE POLICY {table}_made ON {table} FOR INSERT TO flowplane_app WITH CHECK ({written});
CREATE POLICY {table}_changed ON {table} FOR UPDATE TO flowplane_app USING ({written}) WITH CHECK ({written});
CREATE POLICY {table}_removed ON {table} FOR DELETE TO flowplane_app USING ({written});
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]

    operations = [
        migrations.RunSQL(GRANTS, migrations.RunSQL.noop),
        migrations.RunSQL(OWNER_STAYS, migrations.RunSQL.noop),
        *(migrations.RunSQL(protect(table, *rule), migrations.RunSQL.noop) for table, rule in POLICIES.items()),
    ]
