"""The run of mutants itself; running all of them is `make mutants`."""

from __future__ import annotations

import mutants
import pytest

pytestmark = pytest.mark.slow

MUTANTS = [each for module in ("tz_reference", "tz_tiered") for each in mutants.mutations(module)]


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) > 150


def test_listed_mutants_exist() -> None:
    assert mutants.listed() <= {mutant.name for mutant in MUTANTS}


@pytest.mark.parametrize("part", ["without: require(node.value in self.unused", "literals, 13"])
def test_a_vector_kills_a_mutant(part: str) -> None:
    mutant = next(each for each in MUTANTS if part in each.name)
    killer = mutants.killer_of(mutant)
    assert killer is not None
    assert killer.startswith("invalid/")
