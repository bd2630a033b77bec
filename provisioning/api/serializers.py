"""Bodies of requests, and the shapes of answers for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from provisioning.spec import Gateway, Lifecycle
from provisioning.states import (
    BackupReason,
    BackupState,
    ConditionType,
    OperationKind,
    OperationState,
    Phase,
    Stage,
    StepKind,
    StepState,
    Truth,
)
from provisioning.verdicts import Verdict
from tenants.actor import PrincipalKind
from tenants.api.base import StrictSerializer
from tenants.api.serializers import NewCredentialShape, NewSecretShape

# Longer than anything valid: rules and their sentences are the services'; here only absurd sizes are cut off.
_MAX_TEXT = 1000


# --- Requests --------------------------------------------------------------------------------------------------------


class ClusterCreation(StrictSerializer):
    """A wish for a cluster; `release` is the channel's default when it is left out, or the backup's with a backup."""

    name = serializers.CharField(max_length=_MAX_TEXT, trim_whitespace=False)
    stage = serializers.CharField(max_length=_MAX_TEXT)
    region = serializers.CharField(
        max_length=_MAX_TEXT,
        required=False,
        default="",
        allow_blank=True,
        help_text="Left out: the open region with all of the labels that is filled least; a backup's own if it can be.",
    )
    labels = serializers.ListField(
        child=serializers.CharField(max_length=_MAX_TEXT),
        required=False,
        default=list,
        help_text="What the region has to be, such as country=de.",
    )
    plan_type = serializers.CharField(max_length=_MAX_TEXT)
    channel = serializers.CharField(max_length=_MAX_TEXT)
    release = serializers.CharField(max_length=_MAX_TEXT, required=False, default="", allow_blank=True)
    from_backup = serializers.UUIDField(
        required=False,
        default=None,
        allow_null=True,
        help_text="Start on a copy of this backup's data, with as many partitions, in any region.",
    )


class ClusterChange(StrictSerializer):
    """What can be changed about a cluster."""

    name = serializers.CharField(max_length=_MAX_TEXT, required=False, trim_whitespace=False)
    stage = serializers.CharField(max_length=_MAX_TEXT, required=False)
    is_protected = serializers.BooleanField(required=False)
    backup_every_hours = serializers.IntegerField(
        required=False, help_text="0: only when somebody asks. A new schedule begins with a backup at once."
    )
    backups_kept = serializers.IntegerField(required=False, help_text="How many of the scheduled ones are kept.")
    drill_every_days = serializers.IntegerField(
        required=False, help_text="How often the newest backup is proven; 0: only when somebody asks."
    )


class Resize(StrictSerializer):
    """Another size."""

    plan_type = serializers.CharField(max_length=_MAX_TEXT)


class Upgrade(StrictSerializer):
    """A later release: one of the cluster's `upgrades`."""

    release = serializers.CharField(max_length=_MAX_TEXT)
    without_backup = serializers.BooleanField(
        required=False, default=False, help_text="true: do not take a backup first."
    )


class BackupRestore(StrictSerializer):
    """Which backup."""

    backup = serializers.UUIDField(source="backup_id")


class CredentialCreation(StrictSerializer):
    """A credential for one cluster."""

    name = serializers.CharField(max_length=_MAX_TEXT, trim_whitespace=False)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)


# --- Answers ---------------------------------------------------------------------------------------------------------


class ChangesField(serializers.DictField):
    """Field -> [before, after]."""

    def __init__(self) -> None:
        pair = serializers.ListField(child=serializers.JSONField(allow_null=True), min_length=2, max_length=2)
        super().__init__(child=pair, help_text="Field -> [before, after].")


class ConditionSchema(serializers.Serializer[Any]):
    """One fact about a cluster."""

    type = serializers.ChoiceField(choices=[word.value for word in ConditionType])
    status = serializers.ChoiceField(choices=[word.value for word in Truth])
    reason = serializers.CharField()
    message = serializers.CharField(allow_blank=True)
    observed_generation = serializers.IntegerField()
    last_transition_at = serializers.CharField()


class EndpointSchema(serializers.Serializer[Any]):
    """Where clients reach the engine, over TLS."""

    grpc = serializers.CharField(help_text="host:port")
    rest = serializers.CharField(allow_null=True, help_text="A URL; null when the release has no REST interface.")


class SizeSchema(serializers.Serializer[Any]):
    """A cluster's layout and hardware; sizes in MiB, for each broker."""

    brokers = serializers.IntegerField()
    partitions = serializers.IntegerField()
    replication_factor = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_mib = serializers.IntegerField()


class ProofSchema(serializers.Serializer[Any]):
    """What the last drill of a cluster's backups measured."""

    backup = serializers.UUIDField()
    verified_at = serializers.DateTimeField()
    recovery_seconds = serializers.FloatField(help_text="From asking for a copy until it was healthy.")
    loss_seconds = serializers.FloatField(help_text="Age of the backup when the drill began: what a copy lacked.")


class DataSourceSchema(serializers.Serializer[Any]):
    """The backup that a cluster's data came from."""

    backup = serializers.UUIDField()
    cluster_id = serializers.UUIDField(help_text="The cluster it was taken of.")


class ClusterSchema(serializers.Serializer[Any]):
    """An engine cluster. All is as wished when `observed_generation` has reached `spec_generation` and both UpToDate
    and Available hold. Available alone says that clients are served, also while brokers are replaced one by one.
    """

    id = serializers.UUIDField()
    name = serializers.CharField()
    stage = serializers.ChoiceField(choices=[word.value for word in Stage])
    region = serializers.CharField()
    plan_type = serializers.CharField()
    channel = serializers.CharField()
    release = serializers.CharField()
    upgrades = serializers.ListField(
        child=serializers.CharField(), help_text="Releases of its channel that it can be moved to now."
    )
    partitions = serializers.IntegerField()
    size = SizeSchema()
    lifecycle = serializers.ChoiceField(choices=[word.value for word in Lifecycle])
    phase = serializers.ChoiceField(choices=[word.value for word in Phase], help_text="For people; never branch on it.")
    is_protected = serializers.BooleanField()
    delete_after = serializers.DateTimeField(allow_null=True)
    spec_generation = serializers.IntegerField()
    observed_generation = serializers.IntegerField()
    conditions = ConditionSchema(many=True)
    endpoint = EndpointSchema(allow_null=True)
    backup_every_hours = serializers.IntegerField(help_text="0: only when somebody asks.")
    backups_kept = serializers.IntegerField(help_text="How many of the scheduled ones are kept.")
    drill_every_days = serializers.IntegerField(help_text="0: only when somebody asks.")
    next_backup_at = serializers.DateTimeField(allow_null=True)
    next_drill_at = serializers.DateTimeField(allow_null=True)
    last_backup_at = serializers.DateTimeField(allow_null=True, help_text="Of those that are there and complete.")
    last_verified_backup = ProofSchema(allow_null=True)
    data_source = DataSourceSchema(allow_null=True, help_text="null: the cluster has made all of its data itself.")
    drill_of = serializers.UUIDField(
        allow_null=True, help_text="The backup that this throw-away copy proves. Such copies are in no list."
    )
    created_at = serializers.DateTimeField()
    current_operation = serializers.UUIDField(allow_null=True)


class BackupSchema(serializers.Serializer[Any]):
    """A backup of one cluster. What it holds lies in the region's store; here is only what is known of it."""

    id = serializers.UUIDField()
    cluster_id = serializers.UUIDField()
    cluster_name = serializers.CharField()
    cluster_is_gone = serializers.BooleanField(help_text="A backup outlives its cluster.")
    region = serializers.CharField()
    number = serializers.IntegerField(help_text="What the engine calls it; numbers rise within a cluster.")
    reason = serializers.ChoiceField(choices=[word.value for word in BackupReason])
    state = serializers.ChoiceField(choices=[word.value for word in BackupState])
    release = serializers.CharField(help_text="The release that wrote it: this one, or one that can follow, reads it.")
    brokers = serializers.IntegerField()
    partitions = serializers.IntegerField()
    replication_factor = serializers.IntegerField()
    created_at = serializers.DateTimeField(help_text="What happened in the cluster after this is not in it.")
    finished_at = serializers.DateTimeField(allow_null=True)
    error_message = serializers.CharField(allow_blank=True, help_text="Why it, or its last drill, failed.")
    verified_at = serializers.DateTimeField(allow_null=True, help_text="When the last drill found a copy healthy.")
    recovery_seconds = serializers.FloatField(allow_null=True, help_text="What that took, from asking for the copy.")
    loss_seconds = serializers.FloatField(allow_null=True, help_text="How old the backup was when that drill began.")
    current_drill = serializers.UUIDField(allow_null=True, help_text="The operation that proves it just now.")


class OperationActorSchema(serializers.Serializer[Any]):
    """Who asked for it."""

    kind = serializers.ChoiceField(choices=[word.value for word in PrincipalKind])
    label = serializers.CharField()  # type: ignore[assignment]  # a field of that name, not the field's label


class OperationErrorSchema(serializers.Serializer[Any]):
    """Why it failed, or what its current step was last refused with."""

    code = serializers.CharField()
    message = serializers.CharField()


class StepSchema(serializers.Serializer[Any]):
    """One step of an operation."""

    kind = serializers.ChoiceField(choices=[word.value for word in StepKind])
    title = serializers.CharField()
    state = serializers.ChoiceField(choices=[word.value for word in StepState])
    waits_for = serializers.CharField(allow_blank=True)
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    seconds = serializers.FloatField(allow_null=True)
    attempts = serializers.IntegerField()


class ReceiptSchema(serializers.Serializer[Any]):
    """What a deletion removes: written before anything goes, true once it has succeeded without an error."""

    removed = serializers.ListField(child=serializers.CharField(), help_text="Kind and name of each.")
    kept = serializers.ListField(child=serializers.CharField(), help_text="Backups that stay until you delete them.")


class OperationSchema(serializers.Serializer[Any]):
    """An accepted change and how far it is."""

    id = serializers.UUIDField()
    cluster_id = serializers.UUIDField()
    drill_of = serializers.UUIDField(
        allow_null=True, help_text="The backup that it proves; `cluster_id` is the throw-away copy's then."
    )
    kind = serializers.ChoiceField(choices=[word.value for word in OperationKind])
    changes = ChangesField()
    receipt = ReceiptSchema(allow_null=True)
    state = serializers.ChoiceField(choices=[word.value for word in OperationState])
    verdict = serializers.ChoiceField(choices=[word.value for word in Verdict], allow_null=True)
    percent = serializers.IntegerField(min_value=0, max_value=100)
    waits_for = serializers.CharField(allow_blank=True)
    spec_generation = serializers.IntegerField()
    actor = OperationActorSchema()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    error = OperationErrorSchema(allow_null=True)
    steps = StepSchema(many=True)
    can_cancel = serializers.BooleanField()
    can_retry = serializers.BooleanField()
    can_force = serializers.BooleanField(help_text="A deletion that does not get on can be ended by force.")
    attempts = serializers.IntegerField()


class CreatedClusterSchema(serializers.Serializer[Any]):
    """A cluster and the operation that makes it real."""

    cluster = ClusterSchema()
    operation = OperationSchema()


class ForeseenStepSchema(serializers.Serializer[Any]):
    """A step that lies ahead."""

    kind = serializers.ChoiceField(choices=[word.value for word in StepKind])
    title = serializers.CharField()


class PreviewSchema(serializers.Serializer[Any]):
    """What a change would do; the answer to `?dry_run=true`."""

    steps = ForeseenStepSchema(many=True)
    changes = ChangesField()
    reversible = serializers.BooleanField(help_text="Whether it can be undone when it is through.")
    way_back = serializers.CharField(
        allow_blank=True, help_text="How it can be undone, and until when; empty when nothing would change."
    )
    expected_seconds = serializers.FloatField()
    interrupts_engine = serializers.BooleanField()


class RegionSchema(serializers.Serializer[Any]):
    """A place that takes new clusters now."""

    slug = serializers.CharField()
    name = serializers.CharField()
    labels = serializers.ListField(child=serializers.CharField(), help_text="What it is, such as country=de.")
    maintenance_since = serializers.DateTimeField(
        allow_null=True, help_text="Changes are accepted meanwhile, and wait for its end."
    )
    silent_since = serializers.DateTimeField(
        allow_null=True, help_text="It does not answer us: nothing is known of what is there. Changes wait."
    )


class PlanTypeSchema(serializers.Serializer[Any]):
    """Hardware and layout; sizes in MiB."""

    slug = serializers.CharField()
    name = serializers.CharField()
    brokers = serializers.IntegerField()
    partitions = serializers.IntegerField(help_text="Fixed when a cluster is created.")
    replication_factor = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_mib = serializers.IntegerField()
    gateway = serializers.ChoiceField(
        choices=[word.value for word in Gateway],
        help_text="standalone: on Kubernetes, clients are answered by pods of their own, and by gRPC only.",
    )


class ReleaseSchema(serializers.Serializer[Any]):
    """An engine release and what its licence allows."""

    version = serializers.CharField()
    licence = serializers.CharField()
    licence_allows = serializers.CharField()
    upgrades_from = serializers.ListField(
        child=serializers.CharField(), help_text="The releases from which a cluster can be moved to this one."
    )
    serves_rest = serializers.BooleanField()


class ChannelSchema(serializers.Serializer[Any]):
    """A line of releases."""

    slug = serializers.CharField()
    name = serializers.CharField()
    default_release = serializers.CharField()
    releases = ReleaseSchema(many=True)


class CatalogueSchema(serializers.Serializer[Any]):
    """Everything that can be chosen when creating a cluster."""

    regions = RegionSchema(many=True)
    plan_types = PlanTypeSchema(many=True)
    channels = ChannelSchema(many=True)
    stages = serializers.ListField(child=serializers.ChoiceField(choices=[word.value for word in Stage]))


class _Environment(serializers.Serializer[Any]):
    env = serializers.DictField(
        child=serializers.CharField(allow_null=True),
        allow_null=True,
        help_text="All that a stock client needs, as environment variables; null while there is no address yet.",
    )
    notice = serializers.CharField(
        required=False, help_text="Only in the answer to a repeated request: why the secret is left out."
    )


class NewClusterCredentialSchema(NewCredentialShape, _Environment):
    """A cluster's new credential with its secret, shown this once."""


class NewClusterSecretSchema(NewSecretShape, _Environment):
    """A second secret, shown this once."""
