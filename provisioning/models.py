"""Rows about what can be had, what is wished, what was seen of it, and what was done about it."""

from __future__ import annotations

import uuid
from datetime import timedelta
from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from provisioning.licences import Licence
from provisioning.spec import Lifecycle
from provisioning.states import OPEN_STATES, OperationKind, OperationState, Stage, StepKind, StepState
from tenants.models import Audience, OwnedByOrganization
from tenants.naming import MAX_NAME_LENGTH
from tenants.scoping import OrganizationQuerySet


class Region(models.Model):
    """A place where engine clusters live: this machine, or one Kubernetes cluster."""

    slug = models.SlugField(primary_key=True, max_length=32)
    name = models.CharField(max_length=50)
    backend = models.CharField(max_length=16, choices=[("local", "local process")])
    domain = models.CharField(max_length=100, help_text="Engines are reached at <cluster id>.<domain>.")
    is_open = models.BooleanField(default=True, help_text="Whether new clusters may be placed here.")

    def __str__(self) -> str:
        return self.name


class PlanType(models.Model):
    """Hardware and layout of an engine cluster; sizes in MiB."""

    slug = models.SlugField(primary_key=True, max_length=32)
    name = models.CharField(max_length=50)
    brokers = models.PositiveSmallIntegerField()
    partitions = models.PositiveSmallIntegerField(help_text="Fixed when a cluster is created.")
    replication_factor = models.PositiveSmallIntegerField()
    memory_mib = models.PositiveIntegerField()
    heap_mib = models.PositiveIntegerField()
    disk_mib = models.PositiveIntegerField()
    is_offered = models.BooleanField(default=True)

    def __str__(self) -> str:
        return self.name


class Release(models.Model):
    """An engine release: where it comes from, what its licence allows, and which releases it can follow."""

    version = models.CharField(primary_key=True, max_length=20)
    coordinates = models.CharField(max_length=120)
    sha256 = models.CharField(max_length=64)
    main_class = models.CharField(max_length=120)
    licence = models.CharField(max_length=32, choices=[(licence.value, licence.value) for licence in Licence])
    serves_rest = models.BooleanField()
    upgrades_from = ArrayField(models.CharField(max_length=20), default=list, blank=True)
    is_offered = models.BooleanField(default=True)

    def __str__(self) -> str:
        return self.version


class Channel(models.Model):
    """A line of releases that a cluster follows."""

    slug = models.SlugField(primary_key=True, max_length=32)
    name = models.CharField(max_length=50)
    default_release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="+")
    releases = models.ManyToManyField(Release, related_name="channels")

    def __str__(self) -> str:
        return self.name


class ClusterQuerySet(OrganizationQuerySet["Cluster"]):
    """Clusters, and the claims that make concurrent turns safe."""

    def live(self) -> ClusterQuerySet:
        """All that are not tombstones."""
        return self.filter(deleted_at=None)

    def counted(self) -> ClusterQuerySet:
        """Those that count against the plan: a deletion frees its place when it is accepted."""
        return self.live().exclude(lifecycle=Lifecycle.DELETED)

    def due(self) -> ClusterQuerySet:
        """Those whose time has come and that no turn holds; a tombstone's never comes again."""
        return self.live().filter(due_at__lte=Now()).filter(Q(lease_expires_at=None) | Q(lease_expires_at__lte=Now()))

    def claim(self, cluster_id: UUID, *, ttl: timedelta) -> bool:
        """Take the reconcile lease of a due cluster; False when it is not due or another turn holds it.

        One statement. The winner's fencing epoch is the row's `lease_epoch` from here on. The due time moves to the
        lease's end, so a turn that dies is taken up again; a wake-up during the turn sets it to an earlier time,
        which `record_turn` keeps.
        """
        end = Now() + ttl
        claimed = self.due().filter(pk=cluster_id)
        return bool(claimed.update(lease_epoch=F("lease_epoch") + 1, lease_expires_at=end, due_at=end))


class Cluster(OwnedByOrganization):
    """An engine cluster: the wish, the lease, and the last sight. Never anything of what the engine works on."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    audience = models.OneToOneField(Audience, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=MAX_NAME_LENGTH)
    stage = models.CharField(max_length=8, choices=[(stage.value, stage.value) for stage in Stage])
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="clusters")
    plan_type = models.ForeignKey(PlanType, on_delete=models.PROTECT, related_name="clusters")
    channel = models.ForeignKey(Channel, on_delete=models.PROTECT, related_name="clusters")
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="clusters")
    partitions = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    lifecycle = models.CharField(
        max_length=12, choices=[(word.value, word.value) for word in Lifecycle], default=Lifecycle.RUNNING.value
    )
    is_protected = models.BooleanField(default=False)
    delete_after = models.DateTimeField(null=True, blank=True)
    spec_generation = models.PositiveIntegerField(default=1)

    observed_generation = models.PositiveIntegerField(default=0)
    conditions = models.JSONField(default=list)
    was_healthy = models.BooleanField(default=False)
    endpoint_grpc = models.CharField(max_length=200, blank=True)
    endpoint_rest = models.CharField(max_length=200, blank=True)
    seen_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    due_at = models.DateTimeField(null=True, blank=True, db_default=Now())
    lease_epoch = models.PositiveBigIntegerField(default=0)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0)
    start_attempts = models.PositiveIntegerField(default=0)
    start_after = models.DateTimeField(null=True, blank=True)

    objects = ClusterQuerySet.as_manager()  # type: ignore[misc] # django-stubs makes each manager its own class

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                condition=Q(deleted_at=None) & ~Q(lifecycle=Lifecycle.DELETED.value),
                name="cluster_name_once",
            )
        ]
        indexes = [
            models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="cluster_due"),
            models.Index(fields=["organization", "-created_at", "-id"], name="cluster_newest_first"),
        ]

    def __str__(self) -> str:
        return self.name


class Operation(OwnedByOrganization):
    """One accepted change, with its steps: history and progress for people.

    The pair of generations on the cluster stays the truth for programs.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="operations")
    kind = models.CharField(max_length=16, choices=[(kind.value, kind.value) for kind in OperationKind])
    state = models.CharField(
        max_length=12, choices=[(s.value, s.value) for s in OperationState], default=OperationState.PENDING.value
    )
    changes = models.JSONField(default=dict)
    spec_generation = models.PositiveIntegerField()
    actor_kind = models.CharField(max_length=12)
    actor_label = models.CharField(max_length=254)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.TextField(blank=True)
    attempts = models.PositiveSmallIntegerField(default=1)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["cluster"],
                condition=Q(state__in=[state.value for state in OPEN_STATES]),
                name="operation_one_open",
            )
        ]
        indexes = [models.Index(fields=["organization", "-created_at", "-id"], name="operation_newest_first")]


class OperationStep(OwnedByOrganization):
    """One step of an operation; `waits_for` is a sentence of ours or of the region's, never of the engine's log."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    operation = models.ForeignKey(Operation, on_delete=models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=16, choices=[(kind.value, kind.value) for kind in StepKind])
    state = models.CharField(
        max_length=8, choices=[(s.value, s.value) for s in StepState], default=StepState.PENDING.value
    )
    waits_for = models.TextField(blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position"]
        constraints = [models.UniqueConstraint(fields=["operation", "position"], name="step_position_once")]
        indexes = [
            models.Index(fields=["kind", "-finished_at"], condition=Q(state=StepState.DONE.value), name="step_history")
        ]
