"""The ledger has what is wished and missing, too."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Choices only: the database does not know them."""

    dependencies = [("provisioning", "0012_beats_count_changes")]

    operations = [
        migrations.AlterField(
            model_name="leftover",
            name="kind",
            field=models.CharField(
                choices=[("cluster", "cluster"), ("backup", "backup"), ("loss", "loss")], max_length=12
            ),
        ),
        migrations.AlterField(
            model_name="leftover",
            name="state",
            field=models.CharField(
                choices=[
                    ("found", "found"),
                    ("missing", "missing"),
                    ("removing", "removing"),
                    ("gone", "gone"),
                    ("adopted", "adopted"),
                    ("settled", "settled"),
                ],
                max_length=12,
            ),
        ),
    ]
