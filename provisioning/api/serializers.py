"""Bodies of requests, and the shapes of answers for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from provisioning.spec import Lifecycle
from provisioning.states import ConditionType, OperationKind, OperationState, Phase, Stage, StepKind, StepState, Truth
from provisioning.verdicts import Verdict
from tenants.actor import PrincipalKind
from tenants.api.base import StrictSerializer
from tenants.api.serializers import NewCredentialShape, NewSecretShape

# Longer than anything valid: rules and their sentences are the services'; here only absurd sizes are cut off.
_MAX_TEXT = 1000


# --- Requests --------------------------------------------------------------------------------------------------------


class ClusterCreation(StrictSerializer):
    """A wish for a cluster; `release` is the channel's default when it is left out."""

    name = serializers.CharField(max_length=_MAX_TEXT, trim_whitespace=False)
    stage = serializers.CharField(max_length=_MAX_TEXT)
    region = serializers.CharField(max_length=_MAX_TEXT)
    plan_type = serializers.CharField(max_length=_MAX_TEXT)
    channel = serializers.CharField(max_length=_MAX_TEXT)
    release = serializers.CharField(max_length=_MAX_TEXT, required=False, default="", allow_blank=True)


class ClusterChange(StrictSerializer):
    """What can be changed about a cluster."""

    name = serializers.CharField(max_length=_MAX_TEXT, required=False, trim_whitespace=False)
    stage = serializers.CharField(max_length=_MAX_TEXT, required=False)
    is_protected = serializers.BooleanField(required=False)


class CredentialCreation(StrictSerializer):
    """A credential for one cluster."""

    name = serializers.CharField(max_length=_MAX_TEXT, trim_whitespace=False)
    expires_at = serializers.DateTimeField(required=False, allow_null=True, default=None)


# --- Answers ---------------------------------------------------------------------------------------------------------


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


class ClusterSchema(serializers.Serializer[Any]):
    """An engine cluster: as wished once `observed_generation` has reached `spec_generation` and Available holds."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    stage = serializers.ChoiceField(choices=[word.value for word in Stage])
    region = serializers.CharField()
    plan_type = serializers.CharField()
    channel = serializers.CharField()
    release = serializers.CharField()
    partitions = serializers.IntegerField()
    lifecycle = serializers.ChoiceField(choices=[word.value for word in Lifecycle])
    phase = serializers.ChoiceField(choices=[word.value for word in Phase], help_text="For people; never branch on it.")
    is_protected = serializers.BooleanField()
    delete_after = serializers.DateTimeField(allow_null=True)
    spec_generation = serializers.IntegerField()
    observed_generation = serializers.IntegerField()
    conditions = ConditionSchema(many=True)
    endpoint = EndpointSchema(allow_null=True)
    created_at = serializers.DateTimeField()
    current_operation = serializers.UUIDField(allow_null=True)


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


class OperationSchema(serializers.Serializer[Any]):
    """An accepted change and how far it is."""

    id = serializers.UUIDField()
    cluster_id = serializers.UUIDField()
    kind = serializers.ChoiceField(choices=[word.value for word in OperationKind])
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
    changes = serializers.DictField(
        child=serializers.ListField(child=serializers.JSONField(allow_null=True), min_length=2, max_length=2),
        help_text="Field -> [before, after].",
    )
    reversible = serializers.BooleanField()
    expected_seconds = serializers.FloatField()
    interrupts_engine = serializers.BooleanField()


class RegionSchema(serializers.Serializer[Any]):
    """A place for clusters."""

    slug = serializers.CharField()
    name = serializers.CharField()


class PlanTypeSchema(serializers.Serializer[Any]):
    """Hardware and layout; sizes in MiB."""

    slug = serializers.CharField()
    name = serializers.CharField()
    brokers = serializers.IntegerField()
    partitions = serializers.IntegerField(help_text="Fixed when a cluster is created.")
    replication_factor = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    disk_mib = serializers.IntegerField()


class ReleaseSchema(serializers.Serializer[Any]):
    """An engine release and what its licence allows."""

    version = serializers.CharField()
    licence = serializers.CharField()
    licence_allows = serializers.CharField()
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
