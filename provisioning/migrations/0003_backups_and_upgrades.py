"""Backups, upgrades with a way back, holds, leftovers, and what the installation knows of itself."""

import uuid

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("provisioning", "0002_row_level_security"),
        ("tenants", "0002_row_level_security"),
    ]

    operations = [
        migrations.CreateModel(
            name="Installation",
            fields=[
                ("id", models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("beat", models.PositiveBigIntegerField(default=0)),
                ("set_back_at", models.DateTimeField(blank=True, null=True)),
                ("report", models.JSONField(default=dict)),
            ],
        ),
        migrations.AddField(
            model_name="cluster",
            name="backup_due_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="cluster",
            name="backup_every_hours",
            field=models.PositiveSmallIntegerField(db_default=0, default=0, help_text="0: only when somebody asks."),
        ),
        migrations.AddField(
            model_name="cluster",
            name="backups_kept",
            field=models.PositiveSmallIntegerField(db_default=7, default=7),
        ),
        migrations.AddField(
            model_name="cluster",
            name="data_epoch",
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="cluster",
            name="drill_due_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="cluster",
            name="drill_every_days",
            field=models.PositiveSmallIntegerField(db_default=0, default=0, help_text="0: only when asked."),
        ),
        migrations.AddField(
            model_name="cluster",
            name="former_release",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="provisioning.release",
            ),
        ),
        migrations.AddField(
            model_name="cluster",
            name="hold",
            field=models.CharField(
                blank=True,
                choices=[("", ""), ("set_back", "set_back"), ("unexplained", "unexplained")],
                db_default="",
                default="",
                max_length=16,
            ),
        ),
        migrations.AddField(
            model_name="cluster",
            name="is_on_trial",
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name="cluster",
            name="trial_ends_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="release",
            name="restore_class",
            field=models.CharField(db_default="io.camunda.zeebe.restore.RestoreApp", max_length=120),
        ),
        migrations.AddField(
            model_name="release",
            name="rolls_from",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=20),
                blank=True,
                db_default=[],
                default=list,
                help_text="Of those, the ones whose brokers it works beside: several brokers are then replaced one by one.",
                size=None,
            ),
        ),
        migrations.AlterField(
            model_name="operation",
            name="kind",
            field=models.CharField(
                choices=[
                    ("create", "create"),
                    ("update", "update"),
                    ("suspend", "suspend"),
                    ("resume", "resume"),
                    ("delete", "delete"),
                    ("restore", "restore"),
                    ("revoke_access", "revoke_access"),
                    ("resize", "resize"),
                    ("upgrade", "upgrade"),
                    ("back_up", "back_up"),
                    ("restore_backup", "restore_backup"),
                ],
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="operationstep",
            name="kind",
            field=models.CharField(
                choices=[
                    ("take_backup", "take_backup"),
                    ("prepare_release", "prepare_release"),
                    ("restore_data", "restore_data"),
                    ("stop_engine", "stop_engine"),
                    ("start_engine", "start_engine"),
                    ("roll_brokers", "roll_brokers"),
                    ("await_healthy", "await_healthy"),
                    ("rescale", "rescale"),
                    ("retire_brokers", "retire_brokers"),
                    ("rebalance", "rebalance"),
                    ("let_go", "let_go"),
                    ("undo_window", "undo_window"),
                    ("remove", "remove"),
                    ("close", "close"),
                ],
                max_length=16,
            ),
        ),
        migrations.CreateModel(
            name="Backup",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("number", models.PositiveBigIntegerField()),
                (
                    "reason",
                    models.CharField(
                        choices=[
                            ("asked_for", "asked_for"),
                            ("scheduled", "scheduled"),
                            ("before_upgrade", "before_upgrade"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("wanted", "wanted"),
                            ("completed", "completed"),
                            ("failed", "failed"),
                            ("removing", "removing"),
                            ("removed", "removed"),
                        ],
                        default="wanted",
                        max_length=12,
                    ),
                ),
                ("brokers", models.PositiveSmallIntegerField()),
                ("partitions", models.PositiveSmallIntegerField()),
                ("replication_factor", models.PositiveSmallIntegerField()),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                ("error_message", models.TextField(blank=True)),
                ("verified_at", models.DateTimeField(blank=True, null=True)),
                ("recovery_seconds", models.FloatField(blank=True, null=True)),
                ("loss_seconds", models.FloatField(blank=True, null=True)),
                (
                    "cluster",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="backups", to="provisioning.cluster"
                    ),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="tenants.organization"
                    ),
                ),
                (
                    "release",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="provisioning.release"
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="cluster",
            name="data_source",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="provisioning.backup",
            ),
        ),
        migrations.AddField(
            model_name="cluster",
            name="drill_of",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="drills",
                to="provisioning.backup",
            ),
        ),
        migrations.CreateModel(
            name="Leftover",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("kind", models.CharField(choices=[("cluster", "cluster"), ("backup", "backup")], max_length=12)),
                ("cluster_id", models.UUIDField()),
                ("reference", models.CharField(blank=True, max_length=20)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("found", "found"),
                            ("removing", "removing"),
                            ("gone", "gone"),
                            ("adopted", "adopted"),
                        ],
                        max_length=12,
                    ),
                ),
                ("reason", models.CharField(max_length=200)),
                ("card", models.JSONField(default=dict)),
                ("found", models.JSONField(default=list)),
                (
                    "found_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                ("since", models.DateTimeField(blank=True, null=True)),
                ("due_at", models.DateTimeField(blank=True, null=True)),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("error_message", models.TextField(blank=True)),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                (
                    "organization",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.organization",
                    ),
                ),
                (
                    "region",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="leftovers", to="provisioning.region"
                    ),
                ),
            ],
        ),
        migrations.AddIndex(
            model_name="backup",
            index=models.Index(fields=["organization", "-created_at", "-id"], name="backup_newest_first"),
        ),
        migrations.AddConstraint(
            model_name="backup",
            constraint=models.UniqueConstraint(fields=("cluster", "number"), name="backup_number_once"),
        ),
        migrations.AddConstraint(
            model_name="backup",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state", "wanted")), fields=("cluster",), name="backup_one_wanted"
            ),
        ),
        migrations.AddIndex(
            model_name="leftover",
            index=models.Index(condition=models.Q(("due_at__isnull", False)), fields=["due_at"], name="leftover_due"),
        ),
        migrations.AddConstraint(
            model_name="leftover",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ended_at", None)),
                fields=("region", "kind", "cluster_id", "reference"),
                name="leftover_once",
            ),
        ),
    ]
