"""The last beat's time by the database's clock: going back is noticed by it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Read by this release only; the previous one beats without it."""

    dependencies = [("provisioning", "0010_regions_are_counted")]

    operations = [
        migrations.AddField(
            model_name="installation", name="beat_at", field=models.DateTimeField(blank=True, null=True)
        ),
    ]
