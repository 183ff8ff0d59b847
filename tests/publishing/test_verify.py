"""A zoo whose numbers its evidence gives is ok; each single thing that is altered is found, and named by its field."""

import json
import shutil

import pytest
from made_campaign import made_campaign
from made_ledger import FOUND
from tiny_runs import call, refused

from grafs_timm.errors import UnknownNameError
from grafs_timm.publishing import pages
from grafs_timm.publishing.publish import publish
from grafs_timm.publishing.verify import verify
from grafs_timm.zoo import entry_file
from grafs_timm.zoo.entry import canonical_sha256

NAME, OTHER = "grafs_resnet_digits_standard_s0", "grafs_resnet_digits_standard_s3"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A zoo of two entries; the first has two batches."""
    place = tmp_path_factory.mktemp("published")
    again = (FOUND[3], FOUND[1], FOUND[0], FOUND[2], FOUND[4])
    for number, (found, label) in enumerate([(FOUND, "searches_s0"), (again, "searches_s2"), (FOUND, "searches_s3")]):
        publish(made_campaign(place / "zoo", f"c{number}", found, cost=label, seed=number), label=label)
    return place / "zoo"


@pytest.fixture
def shelf(published, tmp_path):
    shutil.copytree(published, tmp_path / "zoo")
    return tmp_path / "zoo"


def test_what_was_published_is_what_its_evidence_gives(shelf):
    checked = verify(shelf)
    assert [each.name for each in checked] == [NAME, OTHER, "the zoo as a whole"]
    assert all(each.ok for each in checked), "\n".join(map(str, checked))
    assert checked[0].values > 2 * 15 * 10  # batches of 15 rows
    assert checked[0].lines == sum(len(list(shelf.glob(f"resnet/evidence/c{number}/*.jsonl"))) for number in (0, 1, 2))
    assert [each.name for each in verify(shelf, [OTHER])] == [OTHER]
    said = call("zoo", "verify", "--zoo", shelf)
    assert said.exit_code == 0
    assert said.stdout.startswith(f"ok     {NAME}: ")


def rewrite(shelf, change, name=NAME):
    """The entry with a change, its hash and all pages made to fit: only the evidence tells."""
    path = shelf / "resnet" / f"{name}.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    data["sha256"] = canonical_sha256(data)
    path.write_text(entry_file.text(entry_file.parse(data, str(path))), encoding="utf-8")
    pages.write(shelf, pictures=False)


def shifted(row, by):
    row["each"] = {seed: value + by for seed, value in row["each"].items()}
    row["mean"] = round(row["mean"] + by, 6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: shifted(d["batches"][0]["metrics"][2], 0.5), "batches[0].metrics[2].mean: the file says"),
        (lambda d: d["batches"][0]["metrics"][1].update(sd=0.01), "batches[0].metrics[1].sd: the file says 0.01"),
        (lambda d: d["batches"][1]["metrics"][1]["difference"].update(low=0.5), "batches[1].metrics[1].difference.low"),
        (lambda d: d["batches"][0]["metrics"].pop(), "batches[0].metrics: the file has "),
        (lambda d: d["batches"][0]["spreads"][0].update(sd=9.0), "batches[0].spreads[0].sd"),
        (lambda d: d["batches"][0]["searches"][2].update(held_out=99.0), "batches[0].searches[2].held_out"),
        (lambda d: d["batches"][0]["searches"].pop(), "batches[0].searches: the file has 4"),
        (lambda d: d["batches"][0]["choice"].update(why="It is better."), "batches[0].choice.why"),
        (lambda d: d["batches"][0]["choice"].update(full_trainings=1.0), "batches[0].choice.full_trainings"),
        (lambda d: d["batches"][0]["cost"].update(ratio=0.9), "batches[0].cost.ratio: the file says 0.9"),
        (lambda d: d["batches"][0]["provenance"].update(hardware="an H100"), "batches[0].provenance.hardware"),
        (lambda d: d["batches"][0]["provenance"].update(budget="full: all"), "batches[0].provenance.budget"),
        (lambda d: d["batches"][0].update(budget="full"), "batches[0].budget"),
        (lambda d: d["batches"][0]["evidence"]["lines"].pop(), "batches[0]"),
        (lambda d: d.update(recommended=not d["recommended"]), "recommended: the file says"),
        (lambda d: d["batches"][0].update(epochs=200), "batches[0].epochs: the file says 200"),
        (lambda d: d["facts"].update(lipschitz=1.0), "facts.lipschitz: the file says 1.0"),
        (lambda d: d["facts"].update(kinks=[1.0]), "facts.kinks: the file has 1"),
        (lambda d: d.update(alias=False), "resnet: one entry a family has its alias grafs_resnet, got none"),
    ],
)
def test_a_number_that_the_evidence_does_not_give(shelf, change, said):
    rewrite(shelf, change)
    checked = verify(shelf)
    wrong = [line for each in checked for line in each.wrong]
    assert any(line.startswith(said) for line in wrong), wrong


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (f"resnet/{NAME}.json", None, f"no entry {NAME!r}"),
        (f"resnet/{NAME}.md", None, "cannot be read"),
        (f"resnet/{NAME}.md", b"Better than everything.", "is not what the entries give"),
        (f"resnet/{NAME}.png", None, "the picture is missing"),
        ("README.md", b"# The best", "README.md is not what the entries give"),
        ("resnet/evidence/c0/recipe.yaml", None, "the evidence is missing"),
        ("resnet/evidence/c0/activations.json", b"{}", "the evidence was changed"),
        ("resnet/evidence/c0/more.jsonl", b"{}", "line 1 is cut short"),
        ("resnet/evidence/c0/more.jsonl", b"{}\n", "more.jsonl, line 1: format"),
        ("resnet/evidence/c0/more.csv", b"a,b", "not part of a ledger"),
        ("resnet/evidence/other/more.csv", b"a,b", "is not a ledger"),
        (f"resnet/{NAME}.json", b"{}", "format must be"),
    ],
)
def test_a_file_that_is_missing_or_another(shelf, file, change, said):
    path = shelf / file
    path.parent.mkdir(exist_ok=True)
    path.unlink() if change is None else path.write_bytes(change)
    if said == f"no entry {NAME!r}":
        with pytest.raises(UnknownNameError, match="nearest: grafs_resnet_digits_standard_s3"):
            verify(shelf, [NAME])
        return
    checked = verify(shelf)
    assert any(said in line for each in checked for line in each.wrong), [str(each) for each in checked]


def test_the_command_tells_what_is_wrong_and_fails(shelf):
    (shelf / "README.md").write_text("# The best", encoding="utf-8")
    said = call("zoo", "verify", "--zoo", shelf)
    assert said.exit_code == 1
    assert "WRONG  the zoo as a whole\n  " in said.stdout
    assert f"ok     {OTHER}" in said.stdout


def test_one_function_under_two_names(shelf):
    path, twin = shelf / "resnet" / f"{NAME}.json", "grafs_resnet_twin"
    data = json.loads(path.read_text(encoding="utf-8")) | {"name": twin, "alias": False}
    (shelf / "resnet" / f"{twin}.json").write_text(json.dumps(data | {"sha256": canonical_sha256(data)}), encoding="utf-8")
    pages.write(shelf)
    assert any(f"{NAME} and {twin} are the same function" in line for line in verify(shelf)[-1].wrong)


def test_wrong_calls(shelf):
    assert "nearest" in refused("zoo", "verify", "grafs_resnet_digits_standard_s1", "--zoo", shelf)
    assert "--retrain needs the NAME" in refused("zoo", "verify", "--retrain", "--zoo", shelf)
    assert "go with --retrain" in refused("zoo", "verify", NAME, "--record", "--zoo", shelf)
