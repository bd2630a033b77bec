"""A region has labels, a limit, and a state; a size says who answers its clients. Every column has a value by itself."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("provisioning", "0008_operation_receipt"),
    ]

    operations = [
        migrations.AddField(
            model_name="plantype",
            name="gateway",
            field=models.CharField(
                choices=[("embedded", "embedded"), ("standalone", "standalone")],
                db_default="embedded",
                default="embedded",
                help_text="Who answers clients on Kubernetes: every broker, or pods of their own, by gRPC only.",
                max_length=12,
            ),
        ),
        migrations.AddField(
            model_name="region",
            name="answered_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="region",
            name="draining_since",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="region",
            name="labels",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=127),
                blank=True,
                db_default=[],
                default=list,
                help_text="What it is, such as country=de, with commas in between. A new cluster may ask for some of them.",
                size=None,
            ),
        ),
        migrations.AddField(
            model_name="region",
            name="maintenance_note",
            field=models.CharField(blank=True, db_default="", default="", editable=False, max_length=200),
        ),
        migrations.AddField(
            model_name="region",
            name="maintenance_since",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="region",
            name="max_clusters",
            field=models.PositiveIntegerField(
                blank=True, help_text="How many clusters may be here. Empty: nobody counts.", null=True
            ),
        ),
        migrations.AddField(
            model_name="region",
            name="placed",
            field=models.PositiveIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddField(
            model_name="region",
            name="silence",
            field=models.CharField(blank=True, db_default="", default="", editable=False, max_length=300),
        ),
        migrations.AddField(
            model_name="region",
            name="silent_since",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
    ]
