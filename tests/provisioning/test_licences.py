from __future__ import annotations

import pytest

from provisioning.errors import LicenceRefuses
from provisioning.licences import Licence, Offering, allows, refusal, require_allowed, title_of
from provisioning.states import Stage

COMMUNITY, CAMUNDA = Licence.ZEEBE_COMMUNITY_1_1, Licence.CAMUNDA_1_0


@pytest.mark.parametrize(
    ("licence", "stage", "offering", "key", "allowed"),
    [
        (COMMUNITY, Stage.PROD, Offering.INTERNAL, False, True),
        (COMMUNITY, Stage.DEV, Offering.INTERNAL, False, True),
        (COMMUNITY, Stage.DEV, Offering.COMMERCIAL, False, False),
        (COMMUNITY, Stage.DEV, Offering.COMMERCIAL, True, False),
        (CAMUNDA, Stage.DEV, Offering.INTERNAL, False, True),
        (CAMUNDA, Stage.TEST, Offering.INTERNAL, False, True),
        (CAMUNDA, Stage.STAGE, Offering.INTERNAL, False, True),
        (CAMUNDA, Stage.PROD, Offering.INTERNAL, False, False),
        (CAMUNDA, Stage.PROD, Offering.INTERNAL, True, True),
        (CAMUNDA, Stage.DEV, Offering.COMMERCIAL, False, False),
        (CAMUNDA, Stage.PROD, Offering.COMMERCIAL, True, True),
    ],
)
def test_stage_by_offering_by_licence(
    licence: Licence, stage: Stage, offering: Offering, key: bool, allowed: bool
) -> None:
    assert (refusal(licence, stage=stage, offering=offering, has_license_key=key) is None) is allowed


def test_a_refusal_says_what_would_allow_it() -> None:
    with pytest.raises(LicenceRefuses) as caught:
        require_allowed(CAMUNDA, stage=Stage.PROD, offering=Offering.INTERNAL, has_license_key=False)
    assert caught.value.code == "licence_refuses"
    assert title_of(CAMUNDA) in caught.value.message
    assert title_of(COMMUNITY) in caught.value.message
    assert "licence key" in caught.value.message


@pytest.mark.parametrize("licence", Licence)
def test_every_licence_has_a_title_and_a_sentence(licence: Licence) -> None:
    assert title_of(licence)
    assert allows(licence).endswith(".")
