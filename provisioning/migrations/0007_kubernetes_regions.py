"""A region may be a Kubernetes cluster. Changes no column: the choices are the operator site's."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("provisioning", "0006_turn_claim_indexes")]

    operations = [
        migrations.AlterField(
            model_name="region",
            name="backend",
            field=models.CharField(choices=[("local", "local process"), ("kubernetes", "Kubernetes")], max_length=16),
        ),
    ]
