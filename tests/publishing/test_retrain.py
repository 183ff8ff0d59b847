"""A training of an entry once more: the embedded digits by the recipe in its evidence, beside what the entry reports."""

import shutil

import pytest
from made_campaign import made_campaign
from tiny_runs import call, refused

from grafs_timm.comparison.campaign import Campaign
from grafs_timm.publishing import card_plots
from grafs_timm.publishing import requirements as publishable
from grafs_timm.publishing.publish import publish
from grafs_timm.publishing.retrain import retrain
from grafs_timm.publishing.verify import verify
from grafs_timm.runs.run_training import run_training
from grafs_timm.zoo import entry_file

NAME = "grafs_resnet_digits_standard_s0"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    publish(made_campaign(place / "zoo", cost="searches_s0"), label="searches_s0")
    return place / "zoo"


@pytest.fixture(scope="module")
def again(published):
    return retrain(published, NAME, seed=1)


def test_a_seed_is_trained_again_by_the_recipe_of_the_evidence(published, again, tmp_path):
    contents = entry_file.read(published / "resnet" / f"{NAME}.json")
    batch = contents.batches[0]
    campaign = Campaign.read(published / "resnet" / "evidence" / batch.evidence.folder)
    genotype = publishable.genotype_of(campaign, batch.label)
    expected = run_training(campaign.trainings_by[campaign.home], genotype, tmp_path / "own", seed=1, quiet=True)
    assert again.verified.again == expected["test_accuracy"]
    reported = batch.metric("cifar_resnet20", "digits", batch.label).each["1"]
    assert again.verified.reported == reported
    assert str(again).startswith(f"{NAME}, cifar_resnet20 on digits, seed 1: reported {reported:.2f} %")
    assert "processor a made-up processor -> " in str(again)  # the campaign is made up
    assert entry_file.read(published / "resnet" / f"{NAME}.json") == contents


@pytest.mark.parametrize(
    ("apart", "sd", "verdict"),
    [
        (0.0, 0.5, "equal bits"),
        (0.9, 0.5, "within the spread over seeds, 2 sd = 1.00"),
        (-0.9, 0.5, "within the spread over seeds, 2 sd = 1.00"),
        (1.1, 0.5, "outside the spread over seeds, 2 sd = 1.00"),
        (0.1, None, "apart; one training seed tells no spread"),
    ],
)
def test_it_is_judged_by_the_spread_over_seeds(again, apart, sd, verdict):
    from dataclasses import replace

    verified = again.verified.model_copy(update={"again": again.verified.reported + apart})
    assert replace(again, verified=verified, sd=sd).verdict == verdict


def test_the_same_hardware_and_versions_are_said(again):
    from dataclasses import replace

    first = again.first.model_copy(update={"hardware": dict(again.hardware), "versions": again.verified.versions})
    assert str(replace(again, first=first)).endswith("; the same hardware and versions")


def test_what_came_out_is_recorded_beside_what_was_reported(published, tmp_path, monkeypatch):
    monkeypatch.setattr(card_plots, "draw", lambda contents, folder: [])
    zoo = tmp_path / "zoo"
    shutil.copytree(published, zoo)
    said = call("zoo", "verify", NAME, "--zoo", zoo, "--retrain", "--record", "--device", "cpu").stdout
    (own,) = entry_file.read(zoo / "resnet" / f"{NAME}.json").verified
    assert f"now {own.again:.2f} %" in said
    assert f"{own.again:.2f}" in (zoo / "resnet" / f"{NAME}.md").read_text(encoding="utf-8")
    assert all(each.ok for each in verify(zoo)), "\n".join(map(str, verify(zoo)))


def test_seeds_and_names_that_are_not_there(published):
    assert "no training seed 7; there are: 0, 1, 2" in refused(
        "zoo", "verify", NAME, "--zoo", published, "--retrain", "--seed", "7"
    )
    assert "nearest" in refused("zoo", "verify", "grafs_resnet_digits_standard_s1", "--zoo", published, "--retrain")
