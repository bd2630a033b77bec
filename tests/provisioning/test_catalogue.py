from __future__ import annotations

import re

import pytest
from django.core.management import call_command

from provisioning.catalogue import CHANNELS, PLAN_TYPES, RELEASES
from provisioning.licences import Licence, Offering, refusal
from provisioning.models import PlanType
from provisioning.states import Stage

VERSIONS = {release.version: release for release in RELEASES}


def test_every_release_names_a_whole_checksum_and_its_coordinates() -> None:
    for release in RELEASES:
        assert re.fullmatch(r"[0-9a-f]{64}", release.sha256), release.version
        assert release.coordinates.split(":")[2] == release.version


def test_channels_and_upgrade_paths_name_releases_that_exist() -> None:
    for channel in CHANNELS:
        assert channel.default_release in channel.releases
        assert set(channel.releases) <= VERSIONS.keys()
    for release in RELEASES:
        assert set(release.upgrades_from) <= VERSIONS.keys() - {release.version}


def test_the_first_channels_default_may_run_in_production_inside_a_company() -> None:
    licence = VERSIONS[CHANNELS[0].default_release].licence
    assert licence is Licence.ZEEBE_COMMUNITY_1_1
    assert refusal(licence, stage=Stage.PROD, offering=Offering.INTERNAL, has_license_key=False) is None


def test_sizes_fit_together() -> None:
    for size in PLAN_TYPES:
        assert size.heap_mib < size.memory_mib
        assert size.replication_factor <= size.brokers
        assert size.partitions >= 1


@pytest.mark.django_db
@pytest.mark.usefixtures("nothing_else")
def test_a_size_that_comes_with_an_upgrade_is_offered_by_an_operator() -> None:
    was_offered = set(PlanType.objects.filter(is_offered=True).exclude(slug="large").values_list("slug", flat=True))
    PlanType.objects.filter(slug="large").delete()
    call_command("bootstrap")
    assert not PlanType.objects.get(slug="large").is_offered
    assert set(PlanType.objects.filter(is_offered=True).values_list("slug", flat=True)) == was_offered
