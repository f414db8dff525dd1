"""Trying repeats one by one, as a screen does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratory.dataset.balance import Concept
from loratory.dataset.concept_folders import ConceptFolders
from loratory.dataset.what_if import WhatIf, start

GUIDE = ConceptFolders(
    (Concept("10_plate", 51, 10), Concept("1_empty", 0, 1), Concept("10_leather", 43, 10), Concept("10_cloth", 32, 10)),
    (Concept("1_hunter", 2000, 1),),
)


def tried(table: WhatIf) -> list[int]:
    return [row.repeats for row in table.balance.rows]


def exposures(table: WhatIf) -> list[float]:
    return [row.exposure(table.run_epochs) for row in table.balance.rows]


def test_from_what_is_to_what_could_be() -> None:
    table = start(GUIDE, 100)
    assert (tried(table), table.moves, table.run_epochs) == ([10, 10, 10], (), 10)
    even = table.balanced()
    assert tried(even) == [10, 12, 16]
    assert even.moves == (("10_leather", "12_leather"), ("10_cloth", "16_cloth"))
    assert table.before.residual == even.before.residual > even.balance.residual
    halved = even.divided()
    assert (tried(halved), halved.run_epochs) == ([5, 6, 8], 20)
    assert exposures(halved) == exposures(even)
    assert halved.reset() == table


def test_epochs_that_were_given_are_multiplied_by_dividing() -> None:
    even = start(GUIDE, 100, epochs=7).balanced()
    assert even.divided().epochs == 14
    assert exposures(even.divided()) == exposures(even)


def test_the_repeats_tried_for_the_largest_folder_set_the_target() -> None:
    assert tried(start(GUIDE, 100).set_repeats("10_plate", 5).balanced()) == [5, 6, 8]
    assert tried(start(GUIDE, 100).set_repeats("10_cloth", 3).balanced()) == [10, 12, 16]


@pytest.mark.parametrize(("given", "taken"), [(0, 1), (-5, 1), (10_001, 10_000), (7, 7)])
def test_repeats_are_brought_within_what_training_takes(given: int, taken: int) -> None:
    assert tried(start(GUIDE, 100).set_repeats("10_cloth", given))[2] == taken


def test_regularization_follows_the_visits() -> None:
    table = start(GUIDE, 100, epochs=1)
    reg = table.regularization
    assert reg is not None and (reg.visits, reg.never) == (1260, 740)
    more = table.balanced().regularization
    assert more is not None and (more.visits, more.never) == (1538, 462)


def test_advice_leads_to_a_finer_balance() -> None:
    table = start(GUIDE, 100).set_repeats("10_plate", 1).balanced()
    assert table.advice is not None
    repeats, residual = table.advice
    assert table.set_repeats("10_plate", repeats).balanced().balance.residual == residual < table.balance.residual


@given(st.lists(st.tuples(st.sampled_from(["10_plate", "10_leather", "10_cloth"]), st.integers(1, 99)), max_size=6))
def test_changing_one_folder_changes_no_other(changes: list[tuple[str, int]]) -> None:
    table, expected = start(GUIDE, 100), {"10_plate": 10, "10_leather": 10, "10_cloth": 10}
    for name, repeats in changes:
        table = table.set_repeats(name, repeats)
        expected[name] = repeats
    assert {row.name: row.repeats for row in table.balance.rows} == expected


def test_no_pictures_no_table() -> None:
    with pytest.raises(ValueError, match="no folder"):
        start(ConceptFolders((Concept("1_empty", 0, 1),), ()), 100)
