"""Whether a turn has acted in a region since the last beat: only then, and after what is audited, the next one counts."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Workers of the previous release do not say so; until they are gone, what they heal counts with the next change."""

    dependencies = [("provisioning", "0011_the_last_beats_time")]

    operations = [
        migrations.AddField(
            model_name="installation", name="has_acted", field=models.BooleanField(default=False, db_default=False)
        ),
    ]
