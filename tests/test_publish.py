"""Campaigns that become entries: new ones, further evidence, and what is refused before anything is written."""

import hashlib
import json
import shutil

import pytest
from made_campaign import ABOUT, FOUND, X, made_campaign
from tiny_runs import call, refused

from grafs_timm import card_plots, entry_file
from grafs_timm.errors import RunError
from grafs_timm.formula import Gene, Genotype
from grafs_timm.publish import publish
from grafs_timm.verify import verify

WHERE = {"hardware": ABOUT["hardware"], "commit": ABOUT["commit"]}
SCALED = Genotype(FOUND[0].u1, X, Gene("left"), FOUND[0].u3, FOUND[0].u4, FOUND[0].b2)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return made_campaign(tmp_path_factory.mktemp("c") / "resnet", cost="searches_s0")


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Pictures take seconds; one test draws them."""
    if request.node.name != "test_a_campaign_becomes_an_entry_with_its_evidence_and_pages":
        monkeypatch.setattr(card_plots, "draw", lambda contents, folder: [])


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_campaign_becomes_an_entry_with_its_evidence_and_pages(campaign, tmp_path):
    zoo = tmp_path / "zoo"
    done = publish(campaign, zoo, label="searches_s0", **WHERE)
    assert done.path == zoo / "resnet" / "grafs_resnet_digits_s0.json"
    assert done.said == ()
    own = entry_file.read(done.path)
    assert own == done.entry
    assert own.recommended
    (batch,) = own.batches
    folder = zoo / "resnet" / "evidence" / batch.evidence.folder
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == batch.evidence.files
    assert (zoo / "README.md").exists()
    assert {path.name for path in (zoo / "resnet").glob(f"{own.name}*")} >= {f"{own.name}.json", f"{own.name}.md"}
    assert list((zoo / "resnet").glob(f"{own.name}*.png"))


def test_where_the_campaign_lay_is_not_told(campaign, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(campaign, moved)
    publish(moved, tmp_path / "zoo", label="searches_s0", **WHERE)
    told = b"".join(path.read_bytes() for path in (tmp_path / "zoo").rglob("*") if path.is_file())
    assert b"selection/searches" in told
    assert str(campaign).encode() not in told
    assert str(tmp_path).encode() not in told


def test_published_again_it_is_the_same_to_the_last_byte(campaign, tmp_path):
    publish(campaign, tmp_path / "zoo", label="searches_s0", **WHERE)
    before = everything(tmp_path / "zoo")
    again = publish(campaign, tmp_path / "zoo", label="searches_s0", **WHERE)
    assert "published from this campaign before" in again.said[0]
    pages = {path: content for path, content in everything(tmp_path / "zoo").items() if path.suffix != ".png"}
    assert pages == {path: content for path, content in before.items() if path.suffix != ".png"}


def test_the_same_function_from_another_campaign_is_further_evidence(campaign, tmp_path):
    zoo = tmp_path / "zoo"
    publish(campaign, zoo, label="searches_s0", **WHERE)
    others = (FOUND[3], FOUND[1], SCALED, FOUND[2], FOUND[4])
    second = made_campaign(tmp_path / "second", others, cost="searches_s2", seed=7)
    done = publish(second, zoo, label="searches_s2", **WHERE)
    assert "same function as grafs_resnet_digits_s0" in done.said[0]
    assert [path.name for path in (zoo / "resnet").glob("*.json")] == ["grafs_resnet_digits_s0.json"]
    first, further = entry_file.read(done.path).batches
    assert (first.label, further.label) == ("searches_s0", "searches_s2")
    assert first.evidence.folder != further.evidence.folder


def test_another_function_of_the_family_is_not_recommended_unless_told_so(campaign, tmp_path):
    zoo = tmp_path / "zoo"
    publish(campaign, zoo, label="searches_s0", **WHERE)
    second = made_campaign(tmp_path / "second", cost="searches_s3", seed=7)
    done = publish(second, zoo, label="searches_s3", **WHERE)
    assert not done.entry.recommended
    assert "grafs_resnet stays grafs_resnet_digits_s0" in done.said[0]
    assert publish(second, zoo, label="searches_s3", recommend=True, **WHERE).entry.recommended
    recommended = {path.stem: entry_file.read(path).recommended for path in (zoo / "resnet").glob("*.json")}
    assert recommended == {"grafs_resnet_digits_s0": False, "grafs_resnet_digits_s3": True}


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"found": FOUND[:4]}, {}, "4 searches; at least 5"),
        ({"transfer": {"random": 0, "seeds": 3}}, {}, "0 random cells in the matrix"),
        ({"transfer": {"random": 3, "seeds": 1}}, {}, "1 training seeds"),
        ({}, {"label": "searches_s1"}, "searches_s1 is gelu up to scales"),
        ({}, {"label": "searches_s9"}, "no search is called 'searches_s9'"),
        ({}, {"name": "grafs_vit_mine"}, "grafs_resnet_<id>"),
        ({}, {"name": "grafs_resnet_../x"}, "grafs_resnet_<id>"),
        ({"cost": "searches_s4"}, {"label": "searches_s0"}, "no timing of 'searches_s0'"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(tmp_path, changes, options, said):
    folder = made_campaign(tmp_path / "c", **changes)
    with pytest.raises(RunError) as error:
        publish(folder, tmp_path / "zoo", **WHERE, **options)
    assert said in str(error.value)
    assert not (tmp_path / "zoo").exists()


def test_a_name_that_another_function_has(campaign, tmp_path):
    zoo = tmp_path / "zoo"
    publish(campaign, zoo, label="searches_s0", **WHERE)
    second = made_campaign(tmp_path / "second", cost="searches_s3", seed=7)
    before = everything(zoo)
    with pytest.raises(RunError, match="grafs_resnet_digits_s0 is taken by another function; give --name, such as"):
        publish(second, zoo, label="searches_s3", name="grafs_resnet_digits_s0", **WHERE)
    assert everything(zoo) == before


def test_timings_are_not_lost_by_publishing_again(campaign, tmp_path):
    zoo = tmp_path / "zoo"
    publish(campaign, zoo, label="searches_s0", **WHERE)
    without = made_campaign(tmp_path / "again", cost=None)
    with pytest.raises(RunError, match=r"has timings, this campaign no cost\.csv"):
        publish(without, zoo, label="searches_s0", **WHERE)


@pytest.mark.parametrize("missing", ["selection/summary.json", "matrix/matrix.json", "selection/searches/s2/summary.json"])
def test_an_unfinished_campaign(tmp_path, missing):
    folder = made_campaign(tmp_path / "c")
    (folder / missing).unlink()
    with pytest.raises(RunError, match="finished"):
        publish(folder, tmp_path / "zoo", **WHERE)


def test_the_command(campaign, tmp_path):
    options = ("--hardware", "h", "--commit", "c", "--search", "searches_s0", "--zoo", tmp_path / "zoo")
    said = call("publish", campaign, *options).stdout
    assert "grafs_resnet_digits_s0.json: f(x) = " in said
    assert "finished choice" in refused("publish", tmp_path, *options)


def test_a_gpt_is_told_of_in_nats(tmp_path):
    folder, zoo = made_campaign(tmp_path / "gpt", of_text=True, lift=3.0), tmp_path / "zoo"
    own = publish(folder, zoo, label="searches_s0", name="grafs_gpt_a1", **WHERE).entry
    (batch,) = own.batches
    assert (batch.measure, batch.usual, batch.epochs, batch.steps_per_epoch) == ("loss", "gelu", 2, 10)
    lines = (folder / "matrix" / "jobs").glob("searches_s0/gpt_mini/*/s*/log.jsonl")
    losses = [json.loads(path.read_text().splitlines()[-1])["test_loss"] for path in lines]
    home = batch.metric(batch.provenance.model, batch.provenance.data, batch.label)
    assert home.mean == pytest.approx(sum(losses) / 3)
    assert home.difference.mean > 0  # its losses are lower by about three hundredths
    assert 2 < batch.searches[0].held_out < 2.5
    card = (zoo / "gpt" / "grafs_gpt_a1.md").read_text()
    assert "for 20 steps on the training text. Loss in nats per token on the test split" in card
    assert f"| {home.mean:.4f} ± {home.sd:.4f} | 3 | +0.0" in card
    for word in ("points", "per cent", "images", "epoch"):
        assert word not in card
    assert "reduced: tales.txt in windows of 16 tokens, 8 a step; 5 searches of 40 steps, trainings of 20 steps" in card
    assert "median loss 2." in batch.choice.searched_against_random
    assert [text for each in verify(zoo) for text in each.wrong if "the picture is missing" not in text] == []
