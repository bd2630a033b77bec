"""What a deletion removes is written on its operation."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("provisioning", "0007_kubernetes_regions")]

    operations = [
        migrations.AddField(model_name="operation", name="receipt", field=models.JSONField(blank=True, null=True)),
    ]
