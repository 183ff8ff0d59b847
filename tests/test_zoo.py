"""The zoo: entries that are read and known to timm by name, and broken ones that are not."""

import json

import pytest
import timm
import torch
from timm.layers import create_act, get_act_fn, get_act_layer
from tiny_runs import call, refused

import grafs_timm
from grafs_timm import registry, resources, zoo
from grafs_timm.activation import FoundActivation
from grafs_timm.errors import GenotypeError, GrafsError, UnknownNameError
from grafs_timm.formula import Genotype

GENOTYPE = {
    "format": "grafs-cell/1", "u1": {"op": "identity"}, "u2": {"op": "scale", "gamma": 1.5}, "b1": {"op": "gate"},
    "u3": {"op": "relu"}, "u4": {"op": "identity"}, "b2": {"op": "max"},
}  # fmt: skip
OTHER = GENOTYPE | {"u2": {"op": "scale", "gamma": 0.75}}
ROW = {"model": "cifar_resnet20", "data": "digits", "activation": "grafs_resnet_a1", "n": 3, "mean": 97.5, "sd": 0.25}


def entry(name="grafs_resnet_a1", **changes):
    return {
        "format": "grafs-zoo/1", "name": name, "family": "resnet", "recommended": True, "genotype": GENOTYPE,
        "provenance": {"recipe": "resnet_digits", "seed": 0}, "metrics": [ROW], "searches": [],
    } | changes  # fmt: skip


def put(folder, data):
    path = folder / "resnet" / f"{data['name']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A zoo of two entries for ResNets, registered with timm for the length of a test."""
    put(tmp_path, entry())
    put(tmp_path, entry("grafs_resnet_b2", recommended=False, genotype=OTHER, metrics=[]))
    monkeypatch.setattr(resources, "folder", lambda name: tmp_path)
    for table in ("_ACT_LAYER_DEFAULT", "_ACT_LAYER_ME", "_ACT_FN_DEFAULT", "_ACT_FN_ME"):
        monkeypatch.setattr(create_act, table, dict(getattr(create_act, table)))
    zoo.entries.cache_clear()
    registry.register()
    yield tmp_path
    zoo.entries.cache_clear()


def test_names(shelf):
    assert list(zoo.names()) == ["grafs_resnet", "grafs_resnet_a1", "grafs_resnet_b2"]
    assert zoo.list_activations("*_B*") == ["grafs_resnet_b2"]
    found = zoo.get_activation("GRAFS_ResNet")
    assert found.name == "grafs_resnet_a1"
    assert found.formula == Genotype.from_dict(GENOTYPE).text
    with pytest.raises(UnknownNameError, match="grafs_resnet"):
        zoo.get_activation("grafs_resnt")


@pytest.mark.parametrize("name", ["grafs_resnet", "GRAFS_RESNET", "grafs_resnet_b2"])
def test_timm_knows_the_name(shelf, name):
    model = timm.create_model("resnet18", act_layer=name)
    sites = [module for module in model.modules() if isinstance(module, FoundActivation)]
    assert len(sites) == 17
    x = torch.linspace(-3, 3, 7)
    expected = Genotype.from_dict(OTHER if name.endswith("b2") else GENOTYPE)(x)
    assert torch.equal(sites[0](x), expected)
    assert torch.equal(get_act_layer(name)()(x), expected)
    assert torch.equal(get_act_layer(name)(inplace=True)(x), expected)
    assert torch.equal(get_act_fn(name)(x), expected)


def test_create_model_picks_the_family(shelf):
    model = grafs_timm.create_model("resnet18", num_classes=3)
    assert model.activation_report.replaced == 17
    assert model.activation_report.by == "grafs_resnet"
    with pytest.raises(
        GrafsError, match=r"no activation for the family 'vit' of vit_tiny_patch16_224; the nearest .* 'resnet'"
    ):
        grafs_timm.create_model("vit_tiny_patch16_224")
    with pytest.raises(UnknownNameError, match="resnet18"):
        grafs_timm.create_model("resnet_18")


def test_an_empty_zoo_says_so(shelf):
    for path in (shelf / "resnet").iterdir():
        path.unlink()
    zoo.entries.cache_clear()
    with pytest.raises(GrafsError, match="resnet18; it is empty"):
        grafs_timm.create_model("resnet18")


def test_ways_to_name_an_activation(shelf, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GENOTYPE))
    genotype = Genotype.from_dict(GENOTYPE)
    for given in ("grafs_resnet", "grafs_resnet_a1", path, str(path), GENOTYPE, genotype, zoo.get_activation("grafs_resnet")):
        found = zoo.resolve(given)
        assert found.sha256 == genotype.sha256
        assert zoo.resolve(found) is found
        assert zoo.resolve(found.layer).sha256 == genotype.sha256
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
    for part in ("seed: 0", "97.50 ± 0.25 % (n = 3)", 'act_layer="grafs_resnet"', zoo.get_activation("grafs_resnet").formula):
        assert part in shown
    assert "grafs_resnet" in refused("zoo", "show", "grafs_resnit")
    drawn = call("zoo", "plot", "grafs_resnet", "relu", "--out", tmp_path / "a.png")
    assert drawn.exit_code == 0, drawn.output


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "grafs-zoo/9"}, "format"),
        ({"extra": 1}, "unknown fields"),
        ({"family": "vit"}, "name must be"),
        ({"genotype": GENOTYPE | {"u1": {"op": "identiy"}}}, "identity"),
        ({"genotype": None}, "genotype"),
        ({"recommended": "no"}, "recommended"),
        ({"provenance": []}, "provenance"),
        ({"metrics": 3}, "metrics"),
        ({"metrics": ["97 %"]}, "metrics"),
        ({"metrics": [{key: ROW[key] for key in ROW if key != "sd"}]}, "sd"),
        ({"metrics": [ROW | {"mean": "97"}]}, "mean"),
        ({"searches": {}}, "searches"),
    ],
)
def test_broken_entries(shelf, changes, said):
    path = put(shelf, entry(**changes))
    zoo.entries.cache_clear()
    with pytest.raises(GenotypeError, match=said) as error:
        zoo.Entry.read(path)
    assert str(path) in str(error.value)
    assert said in refused("zoo", "list")
    with pytest.warns(UserWarning, match="not known to timm"):
        registry.register()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 200_000, b"{}"])
def test_files_that_are_no_entry(shelf, content):
    path = shelf / "resnet" / "grafs_resnet_c3.json"
    path.write_bytes(content)
    with pytest.raises(GenotypeError, match="not a zoo entry"):
        zoo.Entry.read(path)


def test_two_recommended_in_a_family(shelf):
    put(shelf, entry("grafs_resnet_c3"))
    zoo.entries.cache_clear()
    with pytest.raises(GenotypeError, match="grafs_resnet_a1 and grafs_resnet_c3"):
        zoo.entries()
