from __future__ import annotations

from billing.plans import FREE, STARTING_PLANS


def test_slugs_are_unique_and_the_free_plan_is_among_them() -> None:
    slugs = [terms.slug for terms in STARTING_PLANS]
    assert len(set(slugs)) == len(slugs)
    assert FREE in STARTING_PLANS


def test_every_plan_lets_an_organization_do_the_main_job() -> None:
    for terms in STARTING_PLANS:
        assert terms.max_clusters >= 1
        assert terms.max_members >= 1
        assert terms.max_credentials_per_cluster >= 2, "rotation needs room for a second credential"
