"""What claims search by; and eight indexes less, which every turn wrote and nobody read: the catalogue has few rows."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import PROTECT
from django.db.models.expressions import CombinedExpression

# Reference -> (table it points to, its index's name).
CATALOGUE = {
    "region": ("region", "provisioning_cluster_region_id_959ade31"),
    "plan_type": ("plantype", "provisioning_cluster_plan_type_id_02b050e5"),
    "channel": ("channel", "provisioning_cluster_channel_id_f6503b86"),
    "release": ("release", "provisioning_cluster_release_id_53c722a2"),
}


def drop(column: str, name: str) -> list[migrations.RunSQL]:
    """Drop a reference's two indexes, the second of which served LIKE."""
    return [
        migrations.RunSQL(
            f"DROP INDEX CONCURRENTLY IF EXISTS {name}{suffix}",
            f"CREATE INDEX CONCURRENTLY {name}{suffix} ON provisioning_cluster ({column}_id{operators})",
        )
        for suffix, operators in (("", ""), ("_like", " varchar_pattern_ops"))
    ]


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("provisioning", "0005_turn_claims")]

    operations = [
        AddIndexConcurrently(
            model_name="cluster",
            index=models.Index(
                CombinedExpression(
                    models.Func(
                        models.Func(models.F("organization"), function="uuid_send"),
                        15,
                        function="get_byte",
                        output_field=models.IntegerField(),
                    ),
                    "&",
                    models.Value(31),
                ),
                models.F("due_at"),
                condition=models.Q(due_at__isnull=False),
                name="cluster_lane",
            ),
        ),
        AddIndexConcurrently(
            model_name="cluster",
            index=models.Index(fields=["organization", "-claimed_at"], name="cluster_served"),
        ),
        *(
            migrations.SeparateDatabaseAndState(
                state_operations=[
                    migrations.AlterField(
                        model_name="cluster",
                        name=name,
                        field=models.ForeignKey(
                            db_index=False, on_delete=PROTECT, related_name="clusters", to=f"provisioning.{target}"
                        ),
                    )
                ],
                database_operations=drop(name, index),
            )
            for name, (target, index) in CATALOGUE.items()
        ),
    ]
