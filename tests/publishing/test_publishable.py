"""What an entry says of a campaign, computed from its ledger; and evidence that is missing, changed or contradicts itself."""

import json
from dataclasses import replace

import pytest
from made_campaign import made_campaign
from made_ledger import FOUND, X, made_ledger

from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.activations.published import list_published
from grafs_timm.comparison import statistics
from grafs_timm.comparison.campaign import Campaign
from grafs_timm.comparison.results import Place
from grafs_timm.errors import RunError
from grafs_timm.publishing import evidence
from grafs_timm.publishing.requirements import batch, best, budget, genotype_of, lacking
from grafs_timm.zoo.entry import Evidence
from grafs_timm.zoo.lookup import USUAL, known_as


def of(folder, label=None):
    campaign = Campaign.read(folder)
    return batch(campaign, evidence.named(campaign), label)


@pytest.fixture
def folder(tmp_path):
    return made_campaign(tmp_path / "zoo", cost="searches_s3")


def test_every_training_and_search_is_told_of(folder):
    campaign, own = Campaign.read(folder), of(folder, "searches_s3")
    assert lacking(campaign) == []
    assert [each.seed for each in own.searches if each.chosen] == [3]
    assert [each.same_as for each in own.searches] == [None, "gelu", "relu", None, "silu"]
    assert all(each.near in list_published() for each in own.searches)
    assert {row.activation for row in own.metrics if row.model == "cifar_resnet20"} == {
        *campaign.given, *(f"searches_s{seed}" for seed in range(5)),
    }  # fmt: skip
    assert own.places[0] == ("cifar_resnet20", "digits")
    assert (own.train_images, own.epochs, own.usual, own.budget) == (300, 2, "relu", "standard")
    assert own.cost.ratio == 1.5
    assert own.provenance.budget.startswith("standard: 300 training images")
    assert own.provenance.hardware == "0.1 h on a made-up processor"
    assert own.choice.full_trainings == pytest.approx(5 * 20 / 4)  # searches: the trainings serve to choose and to report
    assert "5 searched and 1 random activations" in own.choice.searched_against_random


def test_a_search_that_ended_in_the_function_of_an_earlier_one_says_so(tmp_path):
    """ReLU³ twice, the second one twice as high: one function up to scales, trained once."""
    once = Genotype(Gene("relu"), Gene("relu"), Gene("mul"), X, Gene("relu"), Gene("mul"))
    again = Genotype(Gene("relu"), Gene("relu"), Gene("mul"), Gene("scale", 2.0), Gene("relu"), Gene("mul"))
    own = of(made_campaign(tmp_path / "zoo", found=(*FOUND[:3], once, again), cost="searches_s3"), "searches_s3")
    assert [each.same_as for each in own.searches] == [None, "gelu", "relu", None, "searches_s3"]
    twin, first = (own.metric("cifar_resnet20", "digits", f"searches_s{seed}") for seed in (4, 3))
    assert twin.each == first.each
    assert next(each for each in own.spreads if each.kind == "found" and each.model == "cifar_resnet20").members == 5


def test_a_search_that_ended_in_a_baseline_has_its_figures_and_no_training_of_its_own(folder):
    own = of(folder, "searches_s3")
    assert own.metric("cifar_resnet20", "digits", "searches_s1").each == own.metric("cifar_resnet20", "digits", "gelu").each
    assert not [line for line in Campaign.read(folder).ledger.lines if line.function == FOUND[1].sha256]


def test_what_models_are_built_with_is_part_of_the_budget(tmp_path):
    """A model of a known name and another width is another model."""
    made = made_campaign(tmp_path / "zoo", cost="", of_text=True, model_kwargs={"embed_dim": 96, "num_heads": 2})
    assert "; every model built with embed_dim=96, num_heads=2;" in budget(Campaign.read(made))


def test_the_numbers_are_those_of_the_logs(folder):
    """Against the mean and the paired interval worked out anew from the lines of the ledger."""
    table = {}
    for path in folder.glob("*.jsonl"):
        line = json.loads(path.read_text(encoding="utf-8"))
        if line["kind"] == "training" and line["model"] == "cifar_resnet20":
            table.setdefault(line["function"], {})[line["seed"]] = line["log"][-1]["test_accuracy"]
    own, ours, theirs = of(folder, "searches_s3"), table[FOUND[3].sha256], table["relu"]
    row = own.metric("cifar_resnet20", "digits", "searches_s3")
    assert row.mean == pytest.approx(sum(ours.values()) / len(ours), abs=1e-6)
    expected = statistics.difference(ours, theirs)
    assert (row.difference.mean, row.difference.low) == pytest.approx((expected.mean, expected.low), abs=1e-6)
    assert own.metric("cifar_resnet20", "digits", "relu").difference is None


def test_no_interval_is_narrowed_by_stopping(folder):
    """A retired activation is looked at twice: its interval is that of 97.5 %, over the seeds it had."""
    row = of(folder).metric("cifar_resnet20", "digits", "random0")
    assert (row.retired, row.n, row.difference.level) == (3, 3, 0.975)
    campaign = Campaign.read(folder)
    rows = [each for each in campaign.results("test") if each.place == campaign.home]
    scores = {label: {each.seed: each.value for each in rows if each.activation == label} for label in ("random0", "relu")}
    usual, wide = (statistics.difference(scores["random0"], scores["relu"], level=level) for level in (0.95, 0.975))
    assert row.difference.low == pytest.approx(wide.low, abs=1e-6)
    assert wide.high - wide.low > 1.3 * (usual.high - usual.low)


def test_repetitions_are_counted_and_change_no_figure(folder):
    before = of(folder, "searches_s3")
    campaign = Campaign.read(folder)
    line = next(line for line in campaign.ledger.lines if line.function == "gelu" and line.model == "cifar_resnet20")
    from grafs_timm.comparison import ledger

    fields = line.model_dump() | {"date": "2027-01-01T00:00:00Z", "hardware": {"processor": "another"}}
    log = [each | {"test_accuracy": each["test_accuracy"] + 0.5} for each in fields["log"]]
    for name in ("format", "key", "sha256"):
        del fields[name]
    ledger.add(folder, [ledger.made(**fields | {"log": log})])
    after = of(folder, "searches_s3")
    own, was = (each.metric("cifar_resnet20", "digits", "gelu") for each in (after, before))
    assert (own.repeated, was.repeated) == (1, 0)
    assert own.each == was.each


def test_the_best_on_held_out_data_is_taken_and_never_a_usual_activation(tmp_path):
    figures = {"searches_s0": 89.0, "searches_s3": 90.5, "gelu": 99.0}
    folder = tmp_path / "zoo" / "resnet" / "evidence" / "c"
    campaign = made_ledger(folder, figures)
    assert best(campaign) == "searches_s3"
    assert known_as(genotype_of(campaign, "searches_s1"), USUAL) == "gelu"
    assert campaign.home == Place("cifar_resnet20", "digits")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"campaign": {"searches": 4}}, "4 searches; at least 5"),
        ({"transfer": {"random": 0}}, "0 random cells"),
        ({"campaign": {"seeds": 2, "keep_seeds": 2, "retire_after": 2}}, "2 of 3 trainings"),
        ({"transfer": {"random": 1, "baselines": ["relu", "gelu"]}}, "no silu, elu, leaky_relu"),
        ({"found": (FOUND[1],) * 5}, "every search ended in a baseline"),
    ],
)
def test_too_little_to_publish(tmp_path, changes, said):
    campaign = Campaign.read(made_campaign(tmp_path / "zoo", **changes))
    assert any(said in each for each in lacking(campaign)), lacking(campaign)


def test_a_training_that_is_missing(folder):
    for path in folder.glob("cifar_resnet20.digits.s[1-9].gelu.*"):
        path.unlink()
    assert lacking(Campaign.read(folder)) == ["gelu, cifar_resnet20 on digits: 1 of 3 trainings"]


def test_evidence_that_is_missing_or_was_changed(folder):
    campaign = Campaign.read(folder)
    named = evidence.named(campaign)
    assert evidence.restored(named, folder).ledger.lines == campaign.ledger.lines
    for name in ("recipe.yaml", "activations.json", "cost.csv"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        with pytest.raises(RunError, match=f"{name}: the evidence was changed"):
            evidence.restored(named, folder)
        (folder / name).unlink()
        with pytest.raises(RunError, match=f"{name}: the evidence is missing"):
            evidence.restored(named, folder)
        (folder / name).write_bytes(content)
    files = {name: sha for name, sha in named.files.items() if name != "recipe.yaml"}
    with pytest.raises(RunError, match=r"recipe.yaml: the entry names no such evidence"):
        evidence.restored(Evidence(folder=named.folder, files=files, lines=named.lines), folder)
    next(folder.glob("*.gelu.*")).unlink()
    with pytest.raises(RunError, match=r"the line [0-9a-f]{16} is missing or was changed"):
        evidence.restored(named, folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("cost.csv", "float32,gelu", ",gelu", "not a table of timings"),
        ("recipe.yaml", "epochs: 2", "epoch: 2", "is not a recipe"),
        ("recipe.yaml", "epochs: 2", "epochs: 3", "its key does not fit"),
        ("activations.json", '"op": "relu"', '"op": "rellu"', "is damaged"),
        ("activations.json", "grafs-campaign/1", "grafs-campaign/2", "this version reads 'grafs-campaign/1'"),
    ],
)
def test_evidence_that_is_damaged_names_the_file(folder, name, old, new, said):
    text = (folder / name).read_text(encoding="utf-8")
    assert old in text
    (folder / name).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(RunError) as error:
        of(folder, "searches_s3")
    assert said in str(error.value)
    assert str(folder) in str(error.value)


def test_a_label_that_nothing_has(folder):
    with pytest.raises(RunError, match="no function is called 'searches_s7'; there are: searches_s0, "):
        genotype_of(Campaign.read(folder), "searches_s7")


def test_a_closed_campaign_is_read_and_wants_nothing(folder):
    campaign = replace(Campaign.read(folder), closed=True)
    assert list(campaign.stages()) == []
