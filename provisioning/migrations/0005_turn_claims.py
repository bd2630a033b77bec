"""Who was served when, for fair claims; how many turns in a row ended with their worker.

Both columns have a value when code that does not know them inserts a row.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("provisioning", "0004_backups_behind_the_wall")]

    operations = [
        migrations.AddField(
            model_name="cluster",
            name="claimed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="cluster",
            name="deaths",
            field=models.PositiveSmallIntegerField(db_default=0, default=0),
        ),
    ]
