"""The plans an installation starts with, as data. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What an organization on this plan may have."""

    slug: str
    name: str
    max_clusters: int
    max_members: int
    max_credentials_per_cluster: int


FREE = PlanTerms("free", "Free", max_clusters=2, max_members=5, max_credentials_per_cluster=10)
TEAM = PlanTerms("team", "Team", max_clusters=10, max_members=50, max_credentials_per_cluster=50)

STARTING_PLANS = (FREE, TEAM)
