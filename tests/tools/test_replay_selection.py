"""Selections replayed on recorded trainings recommend what the recorded ones did."""

from __future__ import annotations

import pytest
import replay_selection
from tiny_runs import ROOT

from grafs_timm.comparison.campaign import Campaign
from grafs_timm.comparison.results import Place

FAMILIES = {"gpt": "tinystories", "mlp_mixer": "cifar10", "resnet": "cifar10", "vit": "cifar10"}


@pytest.mark.parametrize("family", [*FAMILIES])
def test_the_recorded_choices_are_made_again_for_less(family):
    """In each order of the recorded seeds, at a seventh of the 34 to 86 full trainings or so that they took."""
    campaign = Campaign.read(ROOT / "zoo" / family / "evidence" / f"{FAMILIES[family]}_reduced_1")
    row = replay_selection.choice(campaign)
    assert row["full_comparison"] == {"gpt": "searches_s2", "resnet": "relu"}.get(family, "gelu")
    assert row["same"] == row["replays"] >= 48
    assert row["trainings"] <= 10


def test_a_place_of_a_matrix():
    campaign = Campaign.read(ROOT / "zoo" / "resnet" / "evidence" / "cifar10_reduced_1")
    row = replay_selection.matrix(campaign, Place("cifar_resnet20", "fashion-mnist"))
    assert row is not None
    assert (row["same"], row["replays"], row["full_comparison"]) == (6, 6, "relu")
    assert row["regret"] >= 0
