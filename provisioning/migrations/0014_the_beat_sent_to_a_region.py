"""What was sent to each region: a copy that goes on counting while a region is silent is known by it all the same."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Until this release has written to a region, its register says nothing of it and is compared as before."""

    dependencies = [("provisioning", "0013_clusters_that_are_missing")]

    operations = [
        migrations.AddField(
            model_name="region",
            name="beat",
            field=models.PositiveBigIntegerField(db_default=0, default=0, editable=False),
        ),
    ]
