"""The zoo's names in timm's factories: whatever a model is built for, whatever timm has already, whatever timm it is."""

import json
import pickle
import subprocess
import sys
import tomllib
import warnings

import pytest
import timm
import torch
from timm.layers import (
    create_act,
    create_act_layer,
    get_act_fn,
    get_act_layer,
    set_exportable,
    set_layer_config,
    set_scriptable,
)
from tiny_runs import ROOT

import grafs_timm
from grafs_timm.activations import timm_maps
from grafs_timm.activations.activation import FoundActivation
from grafs_timm.models import timm_names
from grafs_timm.zoo import lookup as zoo

MAPS = ("_ACT_LAYER_DEFAULT", "_ACT_LAYER_ME", "_ACT_FN_DEFAULT", "_ACT_FN_ME")
NAME = "grafs_resnet"


@pytest.fixture
def maps(monkeypatch):
    """timm's maps as they are without the zoo, put back after the test."""
    for key in MAPS:
        own = {name: each for name, each in getattr(create_act, key).items() if not name.startswith("grafs_")}
        monkeypatch.setattr(create_act, key, own)
    return {key: getattr(create_act, key) for key in MAPS}


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"exportable": True},
        {"scriptable": True},
        {"exportable": True, "scriptable": True},
        {"exportable": False, "scriptable": False, "no_jit": True},
    ],
)
def test_found_whatever_a_model_is_built_for(setting):
    x = torch.linspace(-4, 4, 33)
    for name in grafs_timm.list_activations():
        expected = grafs_timm.act_layer(name)()(x)
        assert torch.allclose(expected, grafs_timm.get_activation(name).genotype(x), rtol=1e-6, atol=1e-6)
        with set_layer_config(**setting):
            assert torch.equal(get_act_layer(name)()(x), expected)
            assert torch.equal(create_act_layer(name.upper(), inplace=True)(x), expected)
            assert torch.equal(get_act_fn(name)(x), expected)
            assert torch.equal(get_act_fn(name)(x, inplace=True), expected)
            assert grafs_timm.get_activation(name).name in str(timm.create_model("test_resnet", act_layer=name).act1)


def test_found_in_each_map_alone(maps, monkeypatch):
    timm_names.register()
    for switch in (set_exportable, set_scriptable):
        with switch(True):
            default = get_act_layer(NAME), get_act_fn(NAME)
        monkeypatch.delitem(maps["_ACT_LAYER_DEFAULT"], NAME)
        monkeypatch.delitem(maps["_ACT_FN_DEFAULT"], NAME)
        assert (get_act_layer(NAME), get_act_fn(NAME)) == default
        timm_names.register()


def test_without_the_memory_efficient_maps(maps, monkeypatch):
    monkeypatch.delattr(create_act, "_ACT_LAYER_ME")
    monkeypatch.delattr(create_act, "_ACT_FN_ME")
    monkeypatch.setattr(timm_maps, "layer", maps["_ACT_LAYER_DEFAULT"].get)  # timm's own would look in what is gone
    monkeypatch.setattr(timm_maps, "function", maps["_ACT_FN_DEFAULT"].get)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timm_names.register()
    assert issubclass(maps["_ACT_LAYER_DEFAULT"][NAME], FoundActivation)


def test_twice_changes_nothing(maps):
    timm_names.register()
    before = {key: dict(each) for key, each in maps.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        timm_names.register()
    for key in MAPS:
        assert maps[key] == before[key]


@pytest.mark.parametrize("key", MAPS)
def test_a_name_of_timms_own_stays(maps, key):
    maps[key][NAME] = own = torch.nn.Tanh if "LAYER" in key else torch.tanh
    before = {each: maps[each].get(NAME) for each in MAPS}
    with pytest.warns(UserWarning, match="'grafs_resnet' of its own, which is kept"):
        timm_names.register()
    assert {each: maps[each].get(NAME) for each in MAPS} == before
    assert maps[key][NAME] is own
    others = set(zoo.names()) - {NAME}
    assert others
    assert all(name in maps[each] for name in others for each in MAPS)


def test_a_timm_that_is_too_old(maps, monkeypatch):
    monkeypatch.setattr(timm, "__version__", "1.0.23.dev0")
    with pytest.warns(UserWarning, match=r"not known to timm: timm 1\.0\.23\.dev0 is older than timm>=1\.0\.24 \(tested"):
        timm_names.register()
    assert not any(NAME in each for each in maps.values())


@pytest.mark.parametrize("key", ["_ACT_LAYER_DEFAULT", "_ACT_FN_DEFAULT"])
def test_maps_of_another_kind(maps, monkeypatch, key):
    monkeypatch.setattr(create_act, key, list(maps[key]))
    with pytest.warns(UserWarning, match=r"does not keep the activations of its factories where timm>=1\.0\.24"):
        timm_names.register()
    assert not any(NAME in each for each in maps.values())


def test_maps_that_timm_no_longer_reads(maps, monkeypatch):
    monkeypatch.setattr(timm_maps, "get_act_layer", {"relu": torch.nn.ReLU}.__getitem__)
    with pytest.warns(UserWarning, match=r"does not read 'grafs_\w+' from the maps that timm>=1\.0\.24"):
        timm_names.register()


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=ROOT)


@pytest.mark.parametrize(
    "moved",
    [
        "timm.layers.create_act = types.ModuleType('create_act')",
        pytest.param("del timm.layers.create_act", marks=pytest.mark.slow),
    ],
    ids=["maps", "module"],
)
def test_the_package_works_where_the_maps_have_moved(moved):
    done = python(
        "import types, timm.layers\n"
        f"{moved}\n"
        "import grafs_timm\n"
        "print(grafs_timm.replace_activations(timm.create_model('test_resnet'), 'grafs_resnet').replaced)\n"
        "print(grafs_timm.act_layer('gelu').__name__)\n"
    )
    assert done.returncode == 0, done.stderr
    replaced, gelu = done.stdout.split()
    assert int(replaced) > 0
    assert gelu == "GELU"
    assert "timm>=1.0.24" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "lacks",
    [
        "sys.modules['timm.layers'] = None",
        pytest.param("del timm.layers.calculate_drop_path_rates", marks=pytest.mark.slow),
    ],
)
def test_a_timm_that_cannot_be_used_is_named(lacks):
    done = python(f"import sys, timm.layers; timm.__version__ = '0.9.16'; {lacks}; import grafs_timm")
    assert done.returncode == 1
    *_, said = done.stderr.splitlines()
    assert said.startswith("ImportError: grafs_timm cannot be used with timm 0.9.16 (")
    assert "it supports timm>=1.0.24" in said


def test_the_range_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"timm{timm_maps.SUPPORTED}" in project["dependencies"]


def test_a_function_travels_by_pickle():
    function = pickle.loads(pickle.dumps(get_act_fn(NAME)))
    x = torch.linspace(-4, 4, 33)
    assert torch.equal(function(x), get_act_fn(NAME)(x))


def test_model_args_of_a_config(tmp_path):
    """timm's local-dir: takes the name from a config.json as its own scripts take it from the command line."""
    config = {"architecture": "test_resnet", "num_classes": 3, "model_args": {"act_layer": NAME}, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = timm.create_model(f"local-dir:{tmp_path}")
    assert isinstance(model.act1, FoundActivation)


def test_normaliser_free_networks_find_the_gain_of_a_name():
    model = timm.create_model("nf_resnet26", act_layer="grafs_resnet", num_classes=3).eval()
    ours = grafs_timm.create_model("nf_resnet26", "grafs_resnet", num_classes=3)
    scale, replaced = model.stages[0][0].conv1.scale, ours.stages[0][0].conv1.scale
    assert scale == pytest.approx(replaced, rel=1e-9)
