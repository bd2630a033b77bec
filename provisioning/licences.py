"""What an engine's licence allows: stage x offering x licence. Pure.

Our reading of the licence texts in NOTICE, not legal advice.
"""

from __future__ import annotations

from enum import StrEnum

from provisioning.errors import LicenceRefuses
from provisioning.states import Stage


class Offering(StrEnum):
    """What the installation is: for the people of one company, or a service that third parties pay for."""

    INTERNAL = "internal"
    COMMERCIAL = "commercial"


class Licence(StrEnum):
    """Licences of the engine releases in the catalogue."""

    ZEEBE_COMMUNITY_1_1 = "zeebe-community-1.1"
    CAMUNDA_1_0 = "camunda-1.0"


_TITLES = {
    Licence.ZEEBE_COMMUNITY_1_1: "Zeebe Community License 1.1",
    Licence.CAMUNDA_1_0: "Camunda License 1.0",
}

_ALLOWS = {
    Licence.ZEEBE_COMMUNITY_1_1: (
        "Any stage, production included, inside one company; not as a commercial service for third parties."
    ),
    Licence.CAMUNDA_1_0: "Development, test and staging; production needs a licence key from Camunda.",
}


def title_of(licence: Licence) -> str:
    """The licence's own name."""
    return _TITLES[licence]


def allows(licence: Licence) -> str:
    """One sentence on what the licence allows."""
    return _ALLOWS[licence]


def refusal(licence: Licence, *, stage: Stage, offering: Offering, has_license_key: bool) -> str | None:
    """Why this combination is not allowed and what would allow it; None when it is allowed."""
    if has_license_key and licence is Licence.CAMUNDA_1_0:
        return None
    if offering is Offering.COMMERCIAL:
        return (
            f"The {title_of(licence)} of this release does not cover a commercial service for third parties. "
            "It would need an agreement with Camunda and a licence key set by the operator."
        )
    if licence is Licence.CAMUNDA_1_0 and stage is Stage.PROD:
        return (
            f"The {title_of(licence)} of this release does not cover the stage “prod”. Choose a release under the "
            f"{title_of(Licence.ZEEBE_COMMUNITY_1_1)}, another stage, or ask the operator to set a licence key."
        )
    return None


def require_allowed(licence: Licence, *, stage: Stage, offering: Offering, has_license_key: bool) -> None:
    """Pass, or raise `LicenceRefuses` with the sentence."""
    sentence = refusal(licence, stage=stage, offering=offering, has_license_key=has_license_key)
    if sentence:
        raise LicenceRefuses(sentence, stage=str(stage), licence=str(licence))
