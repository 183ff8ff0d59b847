"""What an entry says of a campaign, computed from its evidence; and evidence that is missing, changed or contradicts itself."""

import json

import pytest
from made_campaign import FOUND, X, made_campaign, made_evidence

from grafs_timm import statistics
from grafs_timm.entry import Evidence
from grafs_timm.errors import RunError
from grafs_timm.evidence import COST, RECIPE, SEARCHES, TRAININGS, Records, file_sha256
from grafs_timm.formula import Gene, Genotype
from grafs_timm.publishable import batch, best, budget, lacking, search_of, usual_as


def named(folder):
    return Evidence(folder=folder.name, files={path.name: file_sha256(path) for path in sorted(folder.iterdir())})


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return made_campaign(tmp_path_factory.mktemp("campaign"), cost="searches_s3")


@pytest.fixture
def there(campaign, tmp_path):
    made_evidence(campaign, tmp_path / "e")
    return tmp_path / "e"


def test_every_training_and_search_is_told_of(there):
    records = Records.read(there, named(there).files)
    own = batch(records, named(there), "searches_s3")
    assert lacking(records) == []
    assert [each.seed for each in own.searches if each.chosen] == [3]
    assert [each.same_as for each in own.searches] == [None, "gelu", "relu", None, "silu"]
    assert len(own.metrics) == (5 + 5 + 3) * 2
    assert own.places[0] == ("cifar_resnet20", "digits")
    assert (own.train_images, own.epochs, own.usual) == (400, 2, "relu")
    assert own.cost.ratio == 1.5
    assert own.provenance.budget.startswith("reduced: 400 training images")
    assert own.choice.full_trainings == pytest.approx((5 * 20 + (11 + 4) * 2 * 2 + 3 * 4 * 4) / 4)
    assert "5 searched and 5 random activations" in own.choice.searched_against_random


def test_a_search_that_ended_in_the_function_of_an_earlier_one_says_so(tmp_path):
    """ReLU³ twice, the second one twice as high: one function up to scales, trained once."""
    once = Genotype(Gene("relu"), Gene("relu"), Gene("mul"), X, Gene("relu"), Gene("mul"))
    again = Genotype(Gene("relu"), Gene("relu"), Gene("mul"), Gene("scale", 2.0), Gene("relu"), Gene("mul"))
    campaign = made_campaign(tmp_path / "campaign", (*FOUND[:3], once, again), cost="searches_s3")
    made_evidence(campaign, tmp_path / "e")
    own = batch(Records.read(tmp_path / "e"), named(tmp_path / "e"), "searches_s3")
    assert [each.same_as for each in own.searches] == [None, "gelu", "relu", None, "searches_s3"]


def test_what_models_are_built_with_is_part_of_the_budget(tmp_path):
    """A model of a known name and another width is another model."""
    campaign = made_campaign(tmp_path / "campaign", cost="", of_text=True, model_kwargs={"embed_dim": 96, "num_heads": 2})
    made_evidence(campaign, tmp_path / "e")
    records = Records.read(tmp_path / "e")
    assert "; every model built with embed_dim=96, num_heads=2;" in budget(records.recipe, 5, 4)


def test_the_numbers_are_those_of_the_logs(there):
    """Against the mean and the paired interval worked out anew from the lines of the evidence."""
    own = batch(Records.read(there), named(there), "searches_s3")
    home, table = ("cifar_resnet32", "digits"), {}
    for text in (there / TRAININGS).read_text().splitlines():
        line = json.loads(text)
        if (line["model"], line["data"]) == home:
            table.setdefault(line["activation"], {})[line["seed"]] = line["log"][-1]["test_accuracy"]
    row = own.metric(*home, "searches_s0")
    assert row.mean == pytest.approx(sum(table["searches_s0"].values()) / 3, abs=1e-6)
    expected = statistics.difference(table["searches_s0"], table["relu"])
    assert (row.difference.mean, row.difference.low) == pytest.approx((expected.mean, expected.low), abs=1e-6)
    assert own.metric(*home, "relu").difference is None
    kinds = {(each.kind, each.model): each for each in own.spreads}
    assert kinds["random", "cifar_resnet32"].members == 3
    assert kinds["found", "cifar_resnet20"].members == 5


def test_the_best_of_the_last_trainings_is_taken(there):
    records = Records.read(there)
    label = best(records)
    final = [row for row in records.choice if row.seed >= 4 and row.kind == "found"]
    means = {}
    for row in final:
        means.setdefault(row.activation, []).append(row.accuracy)
    new = {name: sum(values) / 4 for name, values in means.items() if usual_as(search_of(records, name).genotype) is None}
    assert label == max(new, key=new.get)


def test_searches_that_ended_in_one_function_count_each(tmp_path):
    records = made_evidence(made_campaign(tmp_path / "c", (FOUND[0], FOUND[3], FOUND[0], FOUND[1], FOUND[4])), tmp_path / "e")
    own = batch(records, named(tmp_path / "e"), "searches_s0")
    twin = own.metric("cifar_resnet20", "digits", "searches_s2")
    assert twin.each == own.metric("cifar_resnet20", "digits", "searches_s0").each
    assert next(each for each in own.spreads if each.kind == "found").members == 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"found": FOUND[:4]}, "4 searches; at least 5"),
        ({"transfer": {"random": 2, "seeds": 3}}, "2 random cells"),
        ({"transfer": {"random": 3, "seeds": 2}}, "2 training seeds"),
        ({"transfer": {"random": 3, "seeds": 3, "baselines": ["relu", "gelu"]}}, "no silu, elu, leaky_relu"),
        ({"found": (FOUND[1],) * 5}, "every search ended in a usual activation"),
    ],
)
def test_too_little_to_publish(tmp_path, changes, said):
    records = made_evidence(made_campaign(tmp_path / "c", **changes), tmp_path / "e")
    assert any(said in each for each in lacking(records)), lacking(records)


def test_a_training_that_is_missing(there):
    path = there / TRAININGS
    lines = [line for line in path.read_text().splitlines() if not ('"gelu"' in line and '"seed": 1' in line)]
    path.write_text("\n".join(lines) + "\n")
    assert lacking(Records.read(there)) == [
        "gelu, cifar_resnet20 on digits: 2 of 3 trainings", "gelu, cifar_resnet32 on digits: 2 of 3 trainings",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [TRAININGS, RECIPE, "about.json"])
def test_evidence_that_is_missing_or_was_changed(there, name):
    files = named(there).files
    (there / name).write_bytes((there / name).read_bytes() + b" ")
    with pytest.raises(RunError, match=f"{name}: the evidence was changed"):
        Records.read(there, files)
    (there / name).unlink()
    with pytest.raises(RunError, match=f"{name}: the evidence is missing"):
        Records.read(there, files)
    with pytest.raises(RunError, match=f"{name}: the entry names no such evidence"):
        Records.read(there, {key: value for key, value in files.items() if key != name})


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        (TRAININGS, '"test_accuracy"', '"accuracy"', "line 1: has no 'test_accuracy'"),
        (TRAININGS, '"activation": "relu"', '"activation": "rellu"', "'rellu' is none of the matrix's activations"),
        (TRAININGS, '"split": "test"', '"split": "train"', "split is test or validation, got 'train'"),
        (SEARCHES, '"op": "elu"', '"op": "ellu"', "line 1"),
        (SEARCHES, "{", "[", "line 1"),
        (COST, "float32,gelu", ",gelu", "no table of timings"),
        (COST, "searches_s3", "searches_s9", "no timing of 'searches_s3'"),
        (RECIPE, "epochs: 2", "epochs: 3", "2 epochs in its log, 3 in the recipe"),
        (RECIPE, "epochs: 2", "epoch: 2", "is no recipe"),
        ("about.json", "grafs-evidence/1", "grafs-evidence/2", "this version reads 'grafs-evidence/1'"),
    ],
)
def test_evidence_that_is_damaged_names_the_file_and_the_line(there, name, old, new, said):
    text = (there / name).read_text()
    assert old in text
    (there / name).write_text(text.replace(old, new))
    with pytest.raises(RunError) as error:
        batch(Records.read(there), named(there), "searches_s3")
    assert said in str(error.value)
    assert str(there) in str(error.value)


def test_searches_of_another_campaign(there):
    lines = (there / SEARCHES).read_text().splitlines()
    (there / SEARCHES).write_text("\n".join(lines[:4]) + "\n")
    with pytest.raises(RunError, match="tell of different searches"):
        batch(Records.read(there), named(there))


def test_a_label_that_no_search_has(there):
    with pytest.raises(RunError, match="no search is called 'searches_s7'; there are: searches_s0, "):
        batch(Records.read(there), named(there), "searches_s7")
