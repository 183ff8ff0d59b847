"""The zoo: entries that are read and known to timm by name, and broken ones that are not."""

import json

import pytest
import timm
import torch
from made_campaign import made_entry
from made_ledger import FOUND
from timm.layers import create_act, get_act_fn, get_act_layer
from tiny_runs import call, refused

import grafs_timm
from grafs_timm.activations import activation
from grafs_timm.activations.activation import FoundActivation
from grafs_timm.errors import GenotypeError, GrafsError, UnknownNameError
from grafs_timm.models import timm_names
from grafs_timm.utils import resources
from grafs_timm.zoo import lookup as zoo

A1, B2 = FOUND[0], FOUND[3]


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Two entries for ResNets: (contents of the recommended one, of the other)."""
    zoo = tmp_path_factory.mktemp("made") / "zoo"
    first = made_entry(zoo, "grafs_resnet_a1", label="searches_s0", cost="searches_s0")
    second = made_entry(zoo, "grafs_resnet_b2", alias=False, label="searches_s3", cost="searches_s3")
    return first, second


def put(folder, data):
    path = folder / "resnet" / f"{data['name']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch, entries):
    """A zoo of two entries for ResNets, registered with timm for the length of a test."""
    for each in entries:
        put(tmp_path, each.to_dict())
    monkeypatch.setattr(resources, "folder", lambda name: tmp_path)
    for table in ("_ACT_LAYER_DEFAULT", "_ACT_LAYER_ME", "_ACT_FN_DEFAULT", "_ACT_FN_ME"):
        monkeypatch.setattr(create_act, table, dict(getattr(create_act, table)))
    zoo.entries.cache_clear()
    timm_names.register()
    yield tmp_path
    zoo.entries.cache_clear()


def test_names(shelf):
    assert list(zoo.names()) == ["grafs_resnet", "grafs_resnet_a1", "grafs_resnet_b2"]
    assert zoo.list_activations("*_B*") == ["grafs_resnet_b2"]
    found = zoo.get_activation("GRAFS_ResNet")
    assert found.name == "grafs_resnet_a1"
    assert found.formula == A1.text
    assert found.provenance.search_seed == 0
    assert len(found.searches) == 5
    assert {row.activation for row in found.metrics} >= {"searches_s0", "relu", "random0"}
    with pytest.raises(UnknownNameError, match="grafs_resnet"):
        zoo.get_activation("grafs_resnt")


@pytest.mark.parametrize("name", ["grafs_resnet", "GRAFS_RESNET", "grafs_resnet_b2"])
def test_timm_knows_the_name(shelf, name):
    model = timm.create_model("resnet18", act_layer=name)
    sites = [module for module in model.modules() if isinstance(module, FoundActivation)]
    assert len(sites) == 17
    x = torch.linspace(-3, 3, 7)
    expected = (B2 if name.endswith("b2") else A1)(x)
    assert torch.equal(sites[0](x), expected)
    assert torch.equal(get_act_layer(name)()(x), expected)
    assert torch.equal(get_act_layer(name)(inplace=True)(x), expected)
    assert torch.equal(get_act_fn(name)(x), expected)


def test_create_model_picks_the_family(shelf):
    model = grafs_timm.create_model("resnet18", num_classes=3)
    assert model.activation_report.replaced == 17
    assert model.activation_report.by == "grafs_resnet"
    with pytest.warns(UserWarning, match=r"no activation for the family 'vit'; the nearest .* 'resnet'"):
        model = grafs_timm.create_model("vit_tiny_patch16_224")
    assert model.activation_report.by == "the default activation"
    assert any(isinstance(module, torch.nn.GELU) for module in model.modules())
    with pytest.raises(UnknownNameError, match="resnet18"):
        grafs_timm.create_model("resnet_18")


def test_an_empty_zoo_says_so(shelf):
    for path in (shelf / "resnet").iterdir():
        path.unlink()
    zoo.entries.cache_clear()
    with pytest.warns(UserWarning, match="leaves resnet18 with its default activation: the zoo has no activation"):
        grafs_timm.create_model("resnet18")
    assert zoo.names() == {}


def test_what_is_not_shown_to_be_better_loads_by_name_and_says_so_once(shelf, entries, monkeypatch):
    monkeypatch.setattr(activation, "_told", set())
    put(shelf, entries[0].to_dict() | {"recommended": False})
    zoo.entries.cache_clear()
    timm_names.register()
    with pytest.warns(
        UserWarning, match="leaves resnet18 with its default activation: grafs_resnet is not shown to be better than"
    ):
        model = grafs_timm.create_model("resnet18")
    assert not any(isinstance(module, FoundActivation) for module in model.modules())
    assert "grafs_resnet_a1" in call("zoo", "list").stdout
    assert "(not shown to be better than ReLU)" in call("zoo", "list").stdout
    with pytest.warns(UserWarning, match="grafs_resnet_a1: not shown to be better than ReLU; grafs-timm zoo show") as told:
        timm.create_model("resnet18", act_layer="grafs_resnet")  # which makes 17 of them
    assert len(told) == 1


def test_ways_to_name_an_activation(shelf, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(A1.to_dict()), encoding="utf-8")
    genotype = A1
    for given in (
        "grafs_resnet",
        "grafs_resnet_a1",
        path,
        str(path),
        A1.to_dict(),
        genotype,
        zoo.get_activation("grafs_resnet"),
    ):
        found = zoo.resolve(given)
        assert found.sha256 == genotype.sha256
        assert zoo.resolve(found) is found
        assert zoo.resolve(found.layer).sha256 == A1.sha256
    assert zoo.resolve(torch.nn.ReLU).name == "ReLU"
    for wrong in (3, None, ["relu"]):
        with pytest.raises(UnknownNameError, match="an activation is"):
            zoo.resolve(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"), [(torch.nn.ReLU(), "give ReLU itself"), (torch.nn.PReLU(), "parameters all places would share")]
)
def test_an_object_is_refused(wrong, message):
    with pytest.raises(GrafsError, match=message):
        grafs_timm.create_model("resnet18", activation=wrong)


def test_the_activation_is_given_once():
    with pytest.raises(GrafsError, match=r"given twice.*leave act_layer out"):
        grafs_timm.create_model("resnet18", activation="gelu", act_layer="relu")


def test_the_commands(shelf, tmp_path):
    listed = call("zoo", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["grafs_resnet", "grafs_resnet_a1", "grafs_resnet_b2"]
    shown = call("zoo", "show", "grafs_resnet").stdout
    row = next(row for row in zoo.get_activation("grafs_resnet").metrics if row.activation == "searches_s0")
    parts = (
        "search seed 0 on cifar_resnet20, digits: standard: 300",
        f"{row.mean:.2f} ± {row.sd:.2f} %",
        "beside relu",
    )
    for part in (*parts, "cost: 1.50 × GELU", 'act_layer="grafs_resnet"', A1.text):
        assert part in shown
    assert "grafs_resnet" in refused("zoo", "show", "grafs_resnit")
    drawn = call("zoo", "plot", "grafs_resnet", "relu", "--out", tmp_path / "a.png")
    assert drawn.exit_code == 0, drawn.output


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "grafs-zoo/0"}, "format"),
        ({"format": "grafs-zoo/3"}, "newer grafs-timm"),
        ({"family": "vit"}, "name must be"),
        ({"name": 3}, "name must be"),
        ({"genotype": A1.to_dict() | {"u1": {"op": "identiy"}}}, "identity"),
        ({"genotype": None}, "genotype"),
        ({"recommended": "no"}, "recommended"),
        ({"alias": 1}, "alias"),
        ({"batches": []}, "batches"),
    ],
)
def test_entries_whose_name_cannot_be_used(shelf, entries, changes, said):
    path = shelf / "resnet" / "grafs_resnet_a1.json"
    path.write_text(json.dumps(entries[0].to_dict() | changes), encoding="utf-8")
    zoo.entries.cache_clear()
    with pytest.raises(GenotypeError, match=said) as error:
        zoo.Entry.read(path)
    assert str(path) in str(error.value)
    assert said in refused("zoo", "list")
    with pytest.warns(UserWarning, match="not known to timm"):
        timm_names.register()


def test_an_entry_with_a_wrong_number_is_known_by_name_and_its_numbers_are_not_told(shelf, entries):
    data = entries[0].to_dict()
    data["batches"][0]["metrics"][0]["mean"] += 1
    put(shelf, data)
    zoo.entries.cache_clear()
    assert zoo.get_activation("grafs_resnet_a1").formula == A1.text
    with pytest.raises(GenotypeError, match=r"batches\[0\]\.metrics\[0\]\.mean"):
        _ = zoo.get_activation("grafs_resnet_a1").metrics
    assert "mean" in refused("zoo", "show", "grafs_resnet_a1")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 200_000, b"{}"])
def test_files_that_are_no_entry(shelf, content):
    path = shelf / "resnet" / "grafs_resnet_c3.json"
    path.write_bytes(content)
    with pytest.raises(GenotypeError, match="not a zoo entry"):
        zoo.Entry.read(path)


def test_two_with_the_alias_in_a_family(shelf, entries):
    put(shelf, entries[1].to_dict() | {"name": "grafs_resnet_c3", "alias": True})
    zoo.entries.cache_clear()
    with pytest.raises(GenotypeError, match="grafs_resnet_a1 and grafs_resnet_c3"):
        zoo.entries()


@pytest.mark.parametrize("path", sorted(resources.folder("zoo").glob("*/grafs_*.json")), ids=lambda path: path.stem)
def test_the_path_of_an_entry_is_its_activation(path):
    for given in (path, str(path)):
        found = zoo.resolve(given)
        assert (found.name, found.sha256) == (path.stem, zoo.resolve(path.stem).sha256)


def test_a_folder_of_a_run_is_told_what_to_name(tmp_path):
    with pytest.raises(GenotypeError, match=r"Is a directory; name the genotype\.json in it"):
        zoo.resolve(tmp_path)
