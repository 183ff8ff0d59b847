"""Ledgers that become entries: new ones, further evidence, and what is refused before anything is written."""

import json

import pytest
from made_campaign import made_campaign
from made_ledger import FOUND, X, made_ledger
from tiny_runs import ROOT, call, contents, refused

from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.errors import RunError
from grafs_timm.publishing import card_plots, claims
from grafs_timm.publishing.publish import publish
from grafs_timm.publishing.verify import verify
from grafs_timm.zoo import entry_file

NAME = "grafs_resnet_digits_standard_s0"
SAME = Genotype(FOUND[0].u1, Gene("square"), Gene("left"), X, FOUND[0].u4, FOUND[0].b2)  # u2 is not used


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Pictures take seconds; one test draws them."""
    if request.node.name != "test_a_ledger_becomes_an_entry_with_its_pages":
        monkeypatch.setattr(card_plots, "draw", lambda contents, folder: [])


@pytest.fixture
def zoo(tmp_path):
    return tmp_path / "zoo"


def entries(zoo):
    return {path.stem: entry_file.read(path) for path in sorted((zoo / "resnet").glob("*.json"))}


def test_a_ledger_becomes_an_entry_with_its_pages(zoo):
    folder = made_campaign(zoo)
    before = contents(folder)
    done = publish(folder)
    assert done.said == (f"searches_s0 is the new entry {NAME}",)
    own = entries(zoo)[NAME]
    assert done.entries == (own,)
    assert own.alias
    (batch,) = own.batches
    assert (batch.evidence.folder, len(batch.evidence.lines)) == ("digits_standard", len(list(folder.glob("*.jsonl"))))
    assert contents(folder) == before  # a ledger is never written by publishing
    assert (zoo / "README.md").exists()
    assert {path.suffix for path in (zoo / "resnet").glob(f"{NAME}*")} == {".json", ".md", ".png"}
    assert all(each.ok for each in verify(zoo)), "\n".join(map(str, verify(zoo)))


def test_published_again_it_is_the_same_to_the_last_byte(zoo):
    folder = made_campaign(zoo)
    publish(folder)
    before = contents(zoo)
    again = publish(folder)
    assert f"{NAME} got the figures of digits_standard" in again.said
    assert contents(zoo) == before


def test_a_ledger_that_grew_is_valid_before_and_after_it_is_published(zoo):
    folder = zoo / "resnet" / "evidence" / "digits_standard"
    made_ledger(folder, {"searches_s0": 92.0}, rounds=2)
    publish(folder)
    assert claims.home(entries(zoo)[NAME].batches[0]).n == 3
    before = verify(zoo)[0]
    made_ledger(folder, {"searches_s0": 92.0})
    grown = next(each for each in verify(zoo) if each.name == NAME)
    assert (before.lines, before.notes) == (grown.lines, ())
    assert "more lines: grafs-timm publish adds them" in grown.notes[0]
    publish(folder)
    assert claims.home(entries(zoo)[NAME].batches[0]).n == 4
    assert not next(each for each in verify(zoo) if each.name == NAME).notes


def test_only_pictures_of_entries_that_changed_are_drawn_and_once(zoo, monkeypatch):
    drawn = []
    monkeypatch.setattr(card_plots, "draw", lambda contents, folder: drawn.append(contents.name))
    folder = made_campaign(zoo)
    publish(folder)
    assert drawn == [NAME]
    publish(folder)
    assert drawn == [NAME]
    others = (FOUND[3], FOUND[1], FOUND[4], FOUND[2], FOUND[3])
    own = publish(made_campaign(zoo, "second", others, cost="searches_s0", seed=7), name="grafs_resnet_b", label="searches_s0")
    assert drawn == [NAME, "grafs_resnet_b"]
    assert [each.name for each in own.entries] == ["grafs_resnet_b"]


def test_the_same_function_from_another_campaign_is_further_evidence(zoo):
    publish(made_campaign(zoo))
    others = (FOUND[3], FOUND[1], SAME, FOUND[2], FOUND[4])
    done = publish(made_campaign(zoo, "second", others, cost="searches_s2", seed=7))
    assert f"{NAME} got the figures of second" in done.said
    (own,) = entries(zoo).values()
    first, further = own.batches
    assert (first.label, further.label) == ("searches_s0", "searches_s2")
    assert (first.evidence.folder, further.evidence.folder) == ("digits_standard", "second")


def test_a_function_that_a_campaign_was_given_gets_its_figures(zoo, tmp_path):
    """No search of the second campaign found it: the entry has a batch of measurements alone."""
    publish(made_campaign(zoo))
    given = tmp_path / "mine.json"
    given.write_text(json.dumps(FOUND[0].to_dict()), encoding="utf-8")
    asked = {"transfer": {"random": 1, "activations": [str(given)]}}
    others = (FOUND[1], FOUND[3], FOUND[2], FOUND[4], FOUND[3])
    folder = made_campaign(zoo, "second", others, cost="", seed=3, **asked)
    done = publish(folder, label="searches_s1")
    batch = entries(zoo)[NAME].batches[1]
    assert (batch.label, batch.provenance.search_seed) == ("mine", None)
    assert not any(each.chosen for each in batch.searches)
    assert claims.home(batch).n == 3
    assert f"{NAME} got the figures of second" in done.said
    assert all(each.ok for each in verify(zoo) if "picture" not in str(each)), "\n".join(map(str, verify(zoo)))


def test_another_function_of_the_family_gets_the_alias_when_told_so(zoo):
    publish(made_campaign(zoo))
    second = made_campaign(zoo, "second", cost="searches_s3", seed=7)
    other = "grafs_resnet_digits_standard_s3"
    publish(second, label="searches_s3")
    assert {name: each.alias for name, each in entries(zoo).items()} == {NAME: True, other: False}
    publish(second, label="searches_s3", alias=True)
    assert {name: each.alias for name, each in entries(zoo).items()} == {NAME: False, other: True}


@pytest.mark.parametrize(("lift", "recommended"), [(3.0, True), (-3.0, False)])
def test_only_what_is_shown_to_be_better_is_recommended(zoo, lift, recommended):
    publish(made_campaign(zoo, lift=lift))
    assert entries(zoo)[NAME].recommended is recommended


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"campaign": {"searches": 4}}, {}, "4 searches; at least 5"),
        ({"transfer": {"random": 0}}, {}, "0 random cells in the campaign"),
        ({"campaign": {"seeds": 2, "keep_seeds": 2, "retire_after": 2}}, {}, "2 of 3 trainings"),
        ({}, {"label": "searches_s1"}, "searches_s1 is gelu up to scales"),
        ({}, {"label": "searches_s9"}, "no function is called 'searches_s9'"),
        ({}, {"name": "grafs_vit_mine"}, "grafs_resnet_<id>"),
        ({}, {"name": "grafs_resnet_../x"}, "grafs_resnet_<id>"),
        ({"cost": "searches_s4"}, {"label": "searches_s0"}, "no timing of 'searches_s0'"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(zoo, changes, options, said):
    folder = made_campaign(zoo, **changes)
    before = contents(zoo)
    with pytest.raises(RunError) as error:
        publish(folder, **options)
    assert said in str(error.value)
    assert contents(zoo) == before


def test_a_name_that_another_function_has(zoo):
    publish(made_campaign(zoo))
    second = made_campaign(zoo, "second", cost="searches_s3", seed=7)
    before = contents(zoo)
    with pytest.raises(RunError, match=f"{NAME} is taken by another function; give --name, such as"):
        publish(second, label="searches_s3", name=NAME)
    assert contents(zoo) == before


def test_timings_are_not_lost_by_publishing_again(zoo):
    folder = made_campaign(zoo)
    publish(folder)
    (folder / "cost.csv").unlink()
    with pytest.raises(RunError, match=r"has timings, this campaign no cost\.csv"):
        publish(folder)


def test_the_command(zoo):
    folder = made_campaign(zoo)
    said = call("publish", folder).stdout
    assert f"{NAME}: f(x) = " in said
    assert "is not a ledger: it has no recipe.yaml" in refused("publish", zoo)
    assert "--hub-dir" in refused("publish", folder, "--model", "resnet18")


def test_a_gpt_is_told_of_in_nats(zoo):
    folder = made_campaign(zoo, of_text=True, lift=3.0)
    own = next(iter(publish(folder, name="grafs_gpt_a1").entries))
    (batch,) = own.batches
    assert (batch.measure, batch.usual, batch.epochs, batch.steps_per_epoch) == ("loss", "gelu", 2, 10)
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.jsonl")]
    found = FOUND[0].sha256
    losses = [line["log"][-1]["test_loss"] for line in lines if line["function"] == found]
    home = claims.home(batch)
    assert home.mean == pytest.approx(sum(losses) / 3)
    assert home.difference.mean > 0  # its losses are lower by about four hundredths
    assert 2 < batch.searches[0].held_out < 2.5
    card = (zoo / "gpt" / "grafs_gpt_a1.md").read_text(encoding="utf-8")
    assert "for 20 steps on the training text" in card
    assert "Loss in nats per token on the test split" in card
    assert f"| {home.mean:.4f} ± {home.sd:.4f} | 3 | +0.0" in card
    for word in ("points", "per cent", "images", "epoch"):
        assert word not in card
    assert "standard: tales.txt in windows of 16 tokens, 8 a step; 5 searches of 40 steps, trainings of 20 steps" in card
    assert "median loss 2." in batch.choice.searched_against_random
    assert [text for each in verify(zoo) for text in each.wrong if "the picture is missing" not in text] == []


def test_a_given_function_that_a_search_finds_again_is_published_under_its_label(zoo, tmp_path):
    given = tmp_path / "mine.json"
    given.write_text(json.dumps(FOUND[0].to_dict()), encoding="utf-8")
    asked = {"transfer": {"random": 1, "activations": [str(given)]}}
    made_ledger(zoo / "resnet" / "evidence" / "c", {"mine": 93.0}, **asked)
    own = publish(zoo / "resnet" / "evidence" / "c").entries[0]
    (batch,) = own.batches
    assert (batch.label, batch.provenance.search_seed) == ("mine", 0)
    assert [each.label for each in batch.searches if each.chosen] == ["mine"]
    assert [text for each in verify(zoo) for text in each.wrong if "the picture is missing" not in text] == []


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nowhere", "nowhere is not a ledger: it has no recipe.yaml; ledgers: "),
        ("zoo", "is not a ledger: it has no recipe.yaml; ledgers: "),
        ("grafs_resnet", "grafs_resnet is an entry of the zoo, not a ledger; --hub-dir DIR makes"),
        ("grafs_vit", "is an entry of the zoo"),
        (next(ROOT.glob("zoo/resnet/grafs_*.json")), "is an entry of the zoo"),
        (ROOT / "pyproject.toml", "grafs-timm campaign run FAMILY begins one"),
    ],
)
def test_what_is_no_ledger_is_told_what_it_is_or_what_there_is(what, said):
    assert said in refused("publish", what)
