"""The leaderboard: a row an entry, the one with the alias first, words no stronger than intervals, and links."""

import re

import pytest
from made_campaign import made_entry

from grafs_timm.publishing import claims, leaderboard


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return made_entry(tmp_path_factory.mktemp("board") / "zoo")


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| <a")]


def test_a_row_an_entry_the_one_with_the_alias_first_in_its_family(entry):
    others = [
        entry.model_copy(update={"name": "grafs_resnet_a0", "alias": False}),
        entry.model_copy(update={"name": "grafs_vit_a1", "family": "vit"}),
    ]
    text = leaderboard.text([*reversed(others), entry])
    assert re.findall(r'href="(.*?)\.md"', text) == ["resnet/grafs_resnet_a1", "resnet/grafs_resnet_a0", "vit/grafs_vit_a1"]
    assert [" recommended)" in row for row in rows(text)] == [True, False, True]
    assert "(= `grafs_vit`, recommended)" in text


def test_a_row_holds_effect_elsewhere_cost_and_budget(entry):
    (row,) = rows(leaderboard.text([entry]))
    own, counted = claims.at_home(entry.batches[0]), claims.elsewhere(entry.batches[0])
    assert f"{own.measured}, {own.side}" in row
    assert re.search(
        rf"better {counted.better} \(\d\), worse {counted.worse} \(\d\), no difference shown {counted.not_shown} of", row
    )
    assert "1.50 × GELU | standard |" in row


def test_the_adjusted_verdict_counts_all_comparisons_of_the_page(entry):
    """One comparison at p = 0.02 holds alone, and no more beside others."""
    batch = entry.batches[0]
    home = claims.home(batch)

    def with_p(p):
        own = home.difference.model_copy(update={"mean": 1.0, "low": 0.3, "high": 1.7, "p": p})
        rows = tuple(
            row.model_copy(update={"difference": own if row is home else None})
            for row in batch.metrics
            if row is home or row.activation != batch.label
        )
        return batch.model_copy(update={"metrics": rows})

    alone = entry.model_copy(update={"batches": (with_p(0.02),)})
    assert rows(leaderboard.text([alone]))[0].count("better than relu") == 2  # effect, and adjusted
    three = [alone, *(alone.model_copy(update={"name": f"grafs_resnet_z{n}", "batches": (with_p(0.04),)}) for n in (1, 2))]
    first = next(row for row in rows(leaderboard.text(three)) if "`grafs_resnet_a1`" in row)
    assert first.count("better than relu") == 1
    assert "| no difference shown |" in first


def test_what_was_not_measured_is_not_claimed(entry):
    batch = entry.batches[0].model_copy(update={"cost": None, "metrics": entry.batches[0].metrics[-1:]})
    (row,) = rows(leaderboard.text([entry.model_copy(update={"batches": (batch,)})]))
    assert "not timed" in row
    assert row.count("not measured") == 2
    assert "better" not in row


def test_a_bar_in_a_formula_does_not_break_the_table(entry):
    absolute = {"u1": {"op": "abs"}, "u2": {"op": "identity"}, "b1": {"op": "left"}, "u3": {"op": "identity"},
                "u4": {"op": "identity"}, "b2": {"op": "left"}, "format": "grafs-cell/1"}  # fmt: skip
    (row,) = rows(leaderboard.text([entry.model_copy(update={"genotype": absolute})]))
    assert len(re.findall(r"(?<!\\)\|", row)) == 12


def test_many_entries_have_many_intervals(entry):
    count = claims.intervals(entry.batches[0])
    text = leaderboard.text([entry, entry.model_copy(update={"name": "grafs_resnet_a2", "alias": False})])
    assert f"2 entries of {len(entry.batches[0].searches)} searches" in text  # of one campaign
    assert f"{2 * count} intervals of 95 %" in text


def test_an_empty_zoo_says_so():
    assert "There is no entry yet." in leaderboard.text([])
