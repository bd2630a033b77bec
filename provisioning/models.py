"""Rows about what can be had, what is wished, what was seen of it, and what was done about it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, cast
from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import connection, models
from django.db.models import F, Func, Q
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

from provisioning import statements
from provisioning.licences import Licence
from provisioning.placement import LABEL, Place
from provisioning.spec import Gateway, Lifecycle
from provisioning.states import (
    OPEN_STATES,
    BackupReason,
    BackupState,
    Hold,
    LeftoverKind,
    LeftoverState,
    OperationKind,
    OperationState,
    RegionState,
    Stage,
    StepKind,
    StepState,
)
from tenants.models import Audience, Organization, OwnedByOrganization
from tenants.naming import MAX_NAME_LENGTH
from tenants.scoping import OrganizationQuerySet


class Region(models.Model):
    """A place where engine clusters live: this machine, or one Kubernetes cluster."""

    slug = models.SlugField(primary_key=True, max_length=32)
    name = models.CharField(max_length=50)
    backend = models.CharField(max_length=16, choices=[("local", "local process"), ("kubernetes", "Kubernetes")])
    domain = models.CharField(max_length=100, help_text="Engines are reached at <cluster id>.<domain>.")
    is_open = models.BooleanField(default=True, help_text="Whether new clusters may be placed here.")
    labels = ArrayField(
        models.CharField(max_length=127),
        default=list,
        db_default=[],
        blank=True,
        help_text="What it is, such as country=de, with commas in between. A new cluster may ask for some of them.",
    )
    max_clusters = models.PositiveIntegerField(
        null=True, blank=True, help_text="How many clusters may be here. Empty: nobody counts."
    )
    # How many are, whatever their state. Triggers of the database keep it (docs/adr/0015).
    placed = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    draining_since = models.DateTimeField(null=True, blank=True, editable=False)
    maintenance_since = models.DateTimeField(null=True, blank=True, editable=False)
    maintenance_note = models.CharField(max_length=200, default="", db_default="", blank=True, editable=False)
    # By the clock's own question, every ten seconds; `silence` is the sentence why there is no answer.
    answered_at = models.DateTimeField(null=True, blank=True, editable=False)
    silent_since = models.DateTimeField(null=True, blank=True, editable=False)
    silence = models.CharField(max_length=300, default="", db_default="", blank=True, editable=False)
    # The highest beat that this database has ever sent here: a region that remembers a higher one had it from a newer
    # database, whatever this one has counted since.
    beat = models.PositiveBigIntegerField(default=0, db_default=0, editable=False)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Refuse labels that nobody could ask for."""
        if wrong := [label for label in self.labels if not LABEL.fullmatch(label)]:
            raise ValidationError({"labels": f"“{wrong[0]}” is no label. Write it as name=value, such as country=de."})

    @property
    def place(self) -> Place:
        """The region as placement sees it."""
        return Place(
            slug=self.slug,
            labels=frozenset(self.labels),
            is_open=self.is_open,
            draining_since=self.draining_since,
            maintenance_since=self.maintenance_since,
            silent_since=self.silent_since,
            placed=self.placed,
            max_clusters=self.max_clusters,
        )

    @property
    def state(self) -> RegionState:
        """The one word for its state: what an operator has said of it."""
        if self.maintenance_since is not None:
            return RegionState.MAINTENANCE
        if self.draining_since is not None:
            return RegionState.DRAINING
        return RegionState.OPEN if self.is_open else RegionState.CLOSED


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
    gateway = models.CharField(
        max_length=12,
        choices=[(gateway.value, gateway.value) for gateway in Gateway],
        default=Gateway.EMBEDDED.value,
        db_default=Gateway.EMBEDDED.value,
        help_text="Who answers clients on Kubernetes: every broker, or pods of their own, by gRPC only.",
    )
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
    restore_class = models.CharField(max_length=120, db_default="io.camunda.zeebe.restore.RestoreApp")
    upgrades_from = ArrayField(models.CharField(max_length=20), default=list, blank=True)
    rolls_from = ArrayField(
        models.CharField(max_length=20),
        default=list,
        db_default=[],
        blank=True,
        help_text="Of those, the ones whose brokers it works beside: several brokers are then replaced one by one.",
    )
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
        """Those that count against the plan: a deletion frees its place when it is accepted, a drill takes none."""
        return self.live().exclude(lifecycle=Lifecycle.DELETED).filter(drill_of=None)

    def due(self) -> ClusterQuerySet:
        """Those whose time has come and that no turn holds; a tombstone's never comes again."""
        return self.live().filter(due_at__lte=Now()).filter(Q(lease_expires_at=None) | Q(lease_expires_at__lte=Now()))

    def under_way(self) -> ClusterQuerySet:
        """Those that a turn holds."""
        return self.live().filter(lease_expires_at__gt=Now())

    def claim(self, cluster_id: UUID | None = None, *, ttl: timedelta, is_forgiven: bool = False) -> Cluster | None:
        """Take the reconcile lease of a due cluster; None when none is due, or others hold all that are.

        Without an id it is the fairest row's turn: organizations go round, and whoever was served longest ago is next.

        One prepared statement, which also brings the relations and annotations that a turn decides on, see
        `selectors.turn_subject`. The winner's fencing epoch is the row's
        `lease_epoch`. The due time moves to the lease's end, so a turn that dies is taken up again; a wake-up during
        the turn sets it to an earlier time, which `give_back` keeps.

        With `deaths` the row is a suspect: its last turn never came back, or it was parked for that. Such a turn is
        taken alone, after `begin_alone`. With `is_forgiven` a lease that has run out makes nobody a suspect: nobody
        could give it back.
        """
        statement = _claim_statement(ttl=ttl, is_named=cluster_id is not None, is_forgiven=is_forgiven)
        values = statements.fetch(statement, {"cluster_id": cluster_id})
        return _claimed(values) if values else None

    def begin_alone(self, cluster: Cluster, *, ttl: timedelta) -> bool:
        """Count a suspect's turn as a death until it comes back, and renew its lease; False when it is overtaken.

        Not the claim counts: who waits to be alone may be killed by another suspect, any number of times.
        """
        known = {"id": cluster.pk, "lease_epoch": cluster.lease_epoch, "ttl": ttl}
        return statements.change(statements.BEGIN_ALONE, known) == 1

    def give_back(
        self, cluster: Cluster, *, due_in_seconds: float | None, is_closed: bool = False, **changed: Any
    ) -> bool:
        """End a lease and write what its turn found; False when another turn has taken over, and nothing was written.

        One prepared statement. A wake-up during the turn keeps its due time; a tombstone (`is_closed`) has none.
        """
        known = {
            "id": cluster.pk,
            "lease_epoch": cluster.lease_epoch,
            "is_closed": is_closed,
            "due_in": None if due_in_seconds is None else timedelta(seconds=due_in_seconds),
        }
        columns = {name: _as_written(name, value) for name, value in changed.items()}
        return statements.change(statements.give_back_statement(tuple(columns)), {**columns, **known}) == 1


def _lane() -> Combinable:
    """The organization's lane, as `statements.LANE` has it."""
    last_byte = Func(
        Func(F("organization"), function="uuid_send"), 15, function="get_byte", output_field=models.IntegerField()
    )
    return last_byte.bitand(statements.LANES - 1)


class Cluster(OwnedByOrganization):
    """An engine cluster: the wish, the lease, and the last sight. Never anything of what the engine works on."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    audience = models.OneToOneField(Audience, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=MAX_NAME_LENGTH)
    stage = models.CharField(max_length=8, choices=[(stage.value, stage.value) for stage in Stage])
    # No index on what there are few of: every turn writes each index of this table, and nobody would use these.
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="clusters", db_index=False)
    plan_type = models.ForeignKey(PlanType, on_delete=models.PROTECT, related_name="clusters", db_index=False)
    channel = models.ForeignKey(Channel, on_delete=models.PROTECT, related_name="clusters", db_index=False)
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="clusters", db_index=False)
    partitions = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    # What an upgrade started from, while it has not come to its end.
    former_release = models.ForeignKey(
        Release, null=True, blank=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    # The generation that the last restore of a backup had, which `data_source` names; 0: what the cluster made itself.
    data_epoch = models.PositiveIntegerField(default=0, db_default=0)
    data_source = models.ForeignKey(
        "Backup", null=True, blank=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    # A new release or restored data has to show that it is well, and until when; else the wish is withdrawn.
    is_on_trial = models.BooleanField(default=False, db_default=False)
    trial_ends_at = models.DateTimeField(null=True, blank=True)
    # A throw-away copy that proves this backup, and nobody's cluster otherwise.
    drill_of = models.ForeignKey(
        "Backup", null=True, blank=True, on_delete=models.PROTECT, related_name="drills", db_index=False
    )

    backup_every_hours = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="0: only when somebody asks."
    )
    backups_kept = models.PositiveSmallIntegerField(default=7, db_default=7)
    backup_due_at = models.DateTimeField(null=True, blank=True)
    drill_every_days = models.PositiveSmallIntegerField(default=0, db_default=0, help_text="0: only when asked.")
    drill_due_at = models.DateTimeField(null=True, blank=True)

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
    claimed_at = models.DateTimeField(null=True, blank=True)
    lease_epoch = models.PositiveBigIntegerField(default=0)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    # How many turns in a row were begun and never came back: their worker died, or overslept.
    deaths = models.PositiveSmallIntegerField(default=0, db_default=0)
    failures = models.PositiveIntegerField(default=0)
    start_attempts = models.PositiveIntegerField(default=0)
    start_after = models.DateTimeField(null=True, blank=True)
    # Why nothing is done for this cluster until an operator has looked; "" for all others.
    hold = models.CharField(
        max_length=16, choices=[(hold.value, hold.value) for hold in Hold], default="", db_default="", blank=True
    )

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
            models.Index(_lane(), "due_at", condition=Q(due_at__isnull=False), name="cluster_lane"),
            models.Index(fields=["organization", "-claimed_at"], name="cluster_served"),
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
    # Of a deletion, written before anything goes: kinds and names of what it removes, and which backups are kept.
    receipt = models.JSONField(null=True, blank=True)
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


class Backup(OwnedByOrganization):
    """A backup of one cluster: that it was asked for, where it lies, and what is known of its worth.

    It outlives its cluster. `number` is what the engine calls it; numbers rise within a cluster and are never used
    twice, not even for another try of one that failed.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="backups")
    number = models.PositiveBigIntegerField()
    reason = models.CharField(max_length=16, choices=[(r.value, r.value) for r in BackupReason])
    state = models.CharField(
        max_length=12, choices=[(s.value, s.value) for s in BackupState], default=BackupState.WANTED.value
    )
    # The layout that a cluster needs to be started on it.
    release = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="+")
    brokers = models.PositiveSmallIntegerField()
    partitions = models.PositiveSmallIntegerField()
    replication_factor = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)
    error_message = models.TextField(blank=True)
    # By the last drill: when its copy was healthy, how long that took, and how much time the copy lacked.
    verified_at = models.DateTimeField(null=True, blank=True)
    recovery_seconds = models.FloatField(null=True, blank=True)
    loss_seconds = models.FloatField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cluster", "number"], name="backup_number_once"),
            models.UniqueConstraint(
                fields=["cluster"], condition=Q(state=BackupState.WANTED.value), name="backup_one_wanted"
            ),
        ]
        indexes = [models.Index(fields=["organization", "-created_at", "-id"], name="backup_newest_first")]

    def __str__(self) -> str:
        return f"{self.number} of {self.cluster_id}"


# What a claim brings: a cluster and its relations, each under its alias in the statement.
_CLAIMED: tuple[tuple[str, type[models.Model]], ...] = (
    ("claimed", Cluster),
    ("audience", Audience),
    ("region", Region),
    ("plan_type", PlanType),
    ("release", Release),
    ("former_release", Release),
    ("data_source", Backup),
)


@cache
def _claim_statement(*, ttl: timedelta, is_named: bool, is_forgiven: bool) -> str:
    columns = statements.columns_of(_CLAIMED)
    return statements.claim_statement(columns, ttl=ttl, is_named=is_named, is_forgiven=is_forgiven)


def _as_written(name: str, value: Any) -> Any:
    field = cast("models.Field[Any, Any]", Cluster._meta.get_field(name))
    return field.get_db_prep_save(value, connection)


def _claimed(values: Sequence[Any]) -> Cluster:
    """The row that a claim returned, as a query set with `select_related` and annotations would have made it."""
    rest = iter(values)
    cluster, *related = (cast(Any, statements.instance(model, rest)) for _, model in _CLAIMED)
    for (name, _), row in zip(_CLAIMED[1:], related, strict=True):
        setattr(cluster, name, row)
    for name in ("now", "open_operation_id", "open_operation_kind", "tried_steps"):
        setattr(cluster, name, next(rest))
    cluster.wanted_number, cluster.wanted_reason = rest
    return cast(Cluster, cluster)


class Leftover(models.Model):
    """Something in a region that no wish stands for: what a forced end left behind, or what was found there.

    A ledger: rows stay when the thing is gone. What was found waits for an operator; what was left by a person's own
    force is removed as soon as the region allows. And the other way round: what is wished there, and missing.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    region = models.ForeignKey(Region, on_delete=models.PROTECT, related_name="leftovers")
    organization = models.ForeignKey(Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    kind = models.CharField(max_length=12, choices=[(k.value, k.value) for k in LeftoverKind])
    cluster_id = models.UUIDField()
    # Of a backup, its number; "" otherwise.
    reference = models.CharField(max_length=20, blank=True)
    state = models.CharField(max_length=12, choices=[(s.value, s.value) for s in LeftoverState])
    reason = models.CharField(max_length=200)
    # Our own card of the cluster, as it lay beside the engine, and what there is: processes, folders, ports, sizes.
    card = models.JSONField(default=dict)
    found = models.JSONField(default=list)
    found_at = models.DateTimeField(db_default=Now(), editable=False)
    since = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    error_message = models.TextField(blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = OrganizationQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["region", "kind", "cluster_id", "reference"],
                condition=Q(ended_at=None),
                name="leftover_once",
            )
        ]
        indexes = [models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="leftover_due")]

    def __str__(self) -> str:
        return f"{self.kind} {self.cluster_id} {self.reference}".strip()


class Installation(models.Model):
    """One row: what this database knows of itself.

    `beat` rises with the clock while anything is changed, and is written into every region. A region that has seen a
    higher one was served by a newer database than this: it was restored from an older copy.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    beat = models.PositiveBigIntegerField(default=0)
    # By the database's clock, which may have gone back since.
    beat_at = models.DateTimeField(null=True, blank=True)
    # Whether a turn has done something in a region since.
    has_acted = models.BooleanField(default=False, db_default=False)
    set_back_at = models.DateTimeField(null=True, blank=True)
    # What the regions' registers name and this database does not: credentials issued since the copy was made.
    report = models.JSONField(default=dict)

    def __str__(self) -> str:
        return "This installation"
