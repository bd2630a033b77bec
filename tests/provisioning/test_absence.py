"""What ran out while the database was away is forgiven, and nothing else."""

from __future__ import annotations

from provisioning.absence import Absence


def test_leases_are_forgiven_while_the_database_is_away_and_for_a_while_after_its_return() -> None:
    times = [0.0]
    absence = Absence(40.0, lambda: times[-1])
    absence.end()
    seen = [absence.forgives]
    absence.note()
    times.append(600.0)
    seen.append(absence.forgives)
    absence.end()
    times.append(639.0)
    absence.end()
    seen.append(absence.forgives)
    times.append(640.0)
    seen.append(absence.forgives)
    assert seen == [False, True, True, False]
