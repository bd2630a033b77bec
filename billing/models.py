"""Rows about plans and who is on which."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Now

from tenants.models import OwnedByOrganization


class Plan(models.Model):
    """What an organization on this plan may have. No subscription row means the plan `free`."""

    slug = models.SlugField(primary_key=True, max_length=32)
    name = models.CharField(max_length=50)
    max_clusters = models.PositiveIntegerField()
    max_members = models.PositiveIntegerField()
    max_credentials_per_cluster = models.PositiveIntegerField()

    def __str__(self) -> str:
        return self.name


class Subscription(OwnedByOrganization):
    """The plan an organization is on."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="subscriptions")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization"], name="subscription_once")]
