"""Whether anything was audited lately, which the clock asks every ten seconds."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("tenants", "0002_row_level_security")]

    operations = [
        AddIndexConcurrently(model_name="auditevent", index=models.Index(fields=["at"], name="audit_at")),
    ]
