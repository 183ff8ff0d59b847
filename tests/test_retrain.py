"""A training of an entry once more: the embedded digits by the recipe in its evidence, beside what the entry reports."""

import shutil

import pytest
from made_campaign import ABOUT, made_campaign
from tiny_runs import call, refused

from grafs_timm import entry_file, publishable
from grafs_timm.evidence import Records
from grafs_timm.publish import publish
from grafs_timm.retrain import retrain
from grafs_timm.run_evaluate import run_evaluate
from grafs_timm.verify import verify

NAME = "grafs_resnet_digits_s0"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    campaign = made_campaign(place / "c", cost="searches_s0")
    publish(campaign, place / "zoo", hardware=ABOUT["hardware"], commit=ABOUT["commit"], label="searches_s0")
    return place / "zoo"


def test_a_seed_is_trained_again_by_the_recipe_of_the_evidence(published, tmp_path):
    contents = entry_file.read(published / "resnet" / f"{NAME}.json")
    batch = contents.batches[0]
    records = Records.read(published / "resnet" / "evidence" / batch.evidence.folder)
    genotype = publishable.search_of(records, batch.label).genotype
    expected = run_evaluate(
        records.matrix.cell_recipe("cifar_resnet20", "digits"), genotype, tmp_path / "own", seed=1, quiet=True
    )
    again = retrain(published, NAME, seed=1)
    assert again.verified.again == expected["test_accuracy"]
    reported = batch.metric("cifar_resnet20", "digits", batch.label).each["1"]
    assert again.verified.reported == reported
    assert not again.equal  # the campaign is made up
    assert str(again).startswith(f"apart  {NAME}, cifar_resnet20 on digits, seed 1: reported {reported:.2f} %")
    assert entry_file.read(published / "resnet" / f"{NAME}.json") == contents


def test_what_came_out_is_recorded_beside_what_was_reported(published, tmp_path):
    zoo = tmp_path / "zoo"
    shutil.copytree(published, zoo)
    said = call("zoo", "verify", NAME, "--zoo", zoo, "--retrain", "--record", "--device", "cpu").stdout
    (own,) = entry_file.read(zoo / "resnet" / f"{NAME}.json").verified
    assert f"now {own.again:.2f} %" in said
    assert f"{own.again:.2f}" in (zoo / "resnet" / f"{NAME}.md").read_text()
    assert all(each.ok for each in verify(zoo)), "\n".join(map(str, verify(zoo)))


def test_seeds_and_names_that_are_not_there(published):
    assert "no training seed 7; there are: 0, 1, 2" in refused(
        "zoo", "verify", NAME, "--zoo", published, "--retrain", "--seed", "7"
    )
    assert "nearest" in refused("zoo", "verify", "grafs_resnet_digits_s1", "--zoo", published, "--retrain")
