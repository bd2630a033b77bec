"""Fill an installation's catalogue and make its first token key. May run again: it never overwrites what is there."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from billing.models import Plan
from billing.plans import STARTING_PLANS
from provisioning.backends.local.layout import create_region
from provisioning.catalogue import CHANNELS, HOME_REGION, PLAN_TYPES, RELEASES, RegionEntry
from provisioning.models import Channel, PlanType, Region, Release
from provisioning.placement import KUBERNETES_CAP
from provisioning.sweeper import publish_keys
from tenants import services as tenancy


class Command(BaseCommand):
    """Run once after `migrate`."""

    help = "Fill the catalogue (plans, region, sizes, releases, channels) and make the first token-signing key."

    def add_arguments(self, parser: CommandParser) -> None:
        """Another first region than this machine: in a pod, an engine would be gone with the pod."""
        parser.add_argument("--kubernetes-region", metavar="SLUG", help="begin with this region, not with this machine")
        parser.add_argument("--region-name", metavar="NAME", help="what people call it (SLUG)")
        parser.add_argument("--region-domain", metavar="DOMAIN", help="its engines are <cluster id>.DOMAIN")

    def handle(self, *args: Any, **options: Any) -> None:
        """Insert what is missing, and bring the keys to the regions' mirrors."""
        region = _region(options["kubernetes_region"], options["region_name"], options["region_domain"])
        with transaction.atomic():
            _fill(region)
            tenancy.ensure_signing_key()
        publish_keys()


def _region(slug: str | None, name: str | None, domain: str | None) -> RegionEntry:
    if slug is None:
        return HOME_REGION
    if not domain:
        raise CommandError("--kubernetes-region needs --region-domain.")
    return RegionEntry(slug, name or slug, backend="kubernetes", domain=domain, max_clusters=KUBERNETES_CAP)


def _fill(region: RegionEntry) -> None:
    for terms in STARTING_PLANS:
        _insert(Plan, "slug", asdict(terms))
    if not Region.objects.filter(slug=region.slug).exists():
        if region.backend == "local":
            # Only with the row: later, a missing folder means a missing disk, and must not come back empty.
            create_region(settings.HOME_DIR / region.slug)
        _insert(Region, "slug", asdict(region))
    # What comes with an upgrade, the processes of the previous release may not understand: an operator offers it later.
    is_new = not PlanType.objects.exists()
    for size in PLAN_TYPES:
        _insert(PlanType, "slug", asdict(size) | {"is_offered": is_new})
    for release in RELEASES:
        paths = {"upgrades_from": list(release.upgrades_from), "rolls_from": list(release.rolls_from)}
        fields = asdict(release) | {"coordinates": release.coordinates, **paths}
        _insert(Release, "version", fields)
    for channel in CHANNELS:
        fields = {"slug": channel.slug, "name": channel.name, "default_release_id": channel.default_release}
        if _insert(Channel, "slug", fields):
            offered = Release.objects.filter(version__in=channel.releases)
            Channel.objects.get(slug=channel.slug).releases.set(offered)


def _insert(model: type[Any], key: str, fields: dict[str, Any]) -> bool:
    return bool(model.objects.get_or_create(**{key: fields[key]}, defaults=fields)[1])
