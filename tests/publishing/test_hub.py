"""A folder for the hub: what timm makes of it, what it says, and what is refused."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from added_entries import fresh, other, put  # noqa: F401  fresh is a fixture
from made_campaign import made_entry
from tiny_runs import call, refused

import grafs_timm
from grafs_timm.activations.genotype import Genotype
from grafs_timm.activations.named import Activation
from grafs_timm.cli import publish as cli_publish
from grafs_timm.errors import GrafsError, RunError, WeightsError
from grafs_timm.models import timm_names
from grafs_timm.models.weights import create_from, save_pretrained
from grafs_timm.publishing import hub
from grafs_timm.zoo import lookup as zoo

ZOO = "grafs_resnet_shipped1"
NAME = "grafs_resnet_outside1"
MINE = {
    "format": "grafs-cell/1", "u1": {"op": "identity"}, "u2": {"op": "scale", "gamma": 0.7}, "b1": {"op": "gate"},
    "u3": {"op": "relu"}, "u4": {"op": "identity"}, "b2": {"op": "max"},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_entry(tmp_path_factory.mktemp("made") / "zoo", NAME)


@pytest.fixture(autouse=True)
def shipped(made, fresh, monkeypatch):  # noqa: F811
    """An entry that the package carries, beside its own."""
    contents = other(made, ZOO)
    activation = Activation(ZOO, Genotype.from_dict(contents.genotype))
    entry = zoo.Entry(activation, contents.family, False, True, "relu", Path(f"zoo/resnet/{ZOO}.json"))
    entry.__dict__["contents"] = contents
    both = zoo.entries() | {ZOO: entry}
    monkeypatch.setattr(zoo, "entries", lambda: both)
    timm_names.register()


def trained(activation, folder, architecture="test_resnet", **settings):
    torch.manual_seed(0)
    model = grafs_timm.create_model(architecture, activation=activation, num_classes=3, **settings)
    save_pretrained(model, folder)
    return model.eval()


def outputs(model):
    with torch.no_grad():
        return model.eval()(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7)))


def header(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_a_zoo_name_without_weights(tmp_path):
    folder = hub.write(tmp_path / "out", ZOO, card="# Mine\n", model="test_resnet", model_args={"num_classes": 3})
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "activation.json"}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_args"]["act_layer"] == ZOO
    assert config["activation"]["name"] == ZOO
    model = timm.create_model(f"local-dir:{folder}")
    assert ZOO in str(model.act1)
    assert model.num_classes == 3
    assert header(folder)["library_name"] == "timm"
    assert "# Mine" in (folder / "README.md").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [folder]  # nothing is left beside


@pytest.mark.parametrize("lone", [False, True], ids=["folder", "file"])
def test_weights_are_what_timm_loads(lone, tmp_path):
    model = trained(ZOO, tmp_path / "weights")
    how = {"model": "test_resnet", "model_args": {"num_classes": 3}} if lone else {}
    source = tmp_path / "weights" / "model.safetensors" if lone else tmp_path / "weights"
    folder = hub.write(tmp_path / "out", ZOO, card="", weights=source, **how)
    assert torch.equal(outputs(timm.create_model(f"local-dir:{folder}", pretrained=True)), outputs(model))
    assert torch.equal(outputs(grafs_timm.create_model(f"local-dir:{folder}", pretrained=True)), outputs(model))
    assert "pretrained=True" in (folder / "README.md").read_text(encoding="utf-8")


def test_weights_of_a_genotype_file_get_the_entrys_name(tmp_path):
    file = tmp_path / "genotype.json"
    file.write_text(json.dumps(zoo.entries()[ZOO].genotype.to_dict()), encoding="utf-8")
    model = trained(str(file), tmp_path / "weights")
    folder = hub.write(tmp_path / "out", ZOO, card="", weights=tmp_path / "weights")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["activation"]["name"] == ZOO
    assert torch.equal(outputs(timm.create_model(f"local-dir:{folder}", pretrained=True)), outputs(model))


def test_a_function_of_no_name_loads_through_this_package(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(Genotype.from_dict(MINE).to_dict()), encoding="utf-8")
    folder = hub.write(tmp_path / "out", file, card="", model="test_resnet")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert 'grafs_timm.create_model("local-dir:out")' in readme
    assert "act_layer" not in json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_args", {})
    assert "mine" in str(create_from(folder).act1)


def test_an_architecture_that_takes_no_names_is_loaded_by_this_package(tmp_path):
    folder = hub.write(tmp_path / "out", ZOO, card="", model="mixer_s32_224", model_args={"img_size": 64, "num_classes": 3})
    assert 'grafs_timm.create_model("local-dir:out")' in (folder / "README.md").read_text(encoding="utf-8")
    assert ZOO in str(grafs_timm.create_model(f"local-dir:{folder}").blocks[0])


def test_an_entry_from_outside_travels_with_its_folder(made, tmp_path, monkeypatch):
    source = put(made, tmp_path / "resnet" / f"{NAME}.json")
    source.with_name("x.png").write_bytes(b"picture")
    source.with_suffix(".md").write_text(
        "![f](x.png) [log](evidence/a.csv) ![out](../../y.png) [site](https://a.b)\n", encoding="utf-8"
    )
    folder = hub.publish(source, tmp_path / "out", model="test_resnet")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "![f](x.png) log out [site](https://a.b)" in readme
    assert (folder / "x.png").read_bytes() == b"picture"
    assert header(folder)["license"] == "apache-2.0"
    assert header(folder)["datasets"] == [made.batches[0].provenance.data]
    monkeypatch.setattr(zoo, "_added", {})  # as on another machine
    for names in (timm.layers.create_act._ACT_LAYER_DEFAULT, timm.layers.create_act._ACT_LAYER_ME):
        names.pop(NAME, None)
    monkeypatch.chdir(tmp_path)
    code = readme.split("```python\n")[1].split("```")[0].replace("local-dir:out", f"local-dir:{folder}")
    scope = {}
    exec(code, scope)  # our own text, written above
    assert NAME in str(scope["model"].act1)
    assert grafs_timm.get_activation(NAME).contents == made


def test_weights_of_another_function_are_refused_with_both_names(tmp_path):
    trained("silu", tmp_path / "silu")
    with pytest.raises(WeightsError, match=rf"trained with silu, not with {ZOO}"):
        hub.write(tmp_path / "out", ZOO, card="", weights=tmp_path / "silu")
    with pytest.raises(WeightsError, match=rf"trained with silu, not with {ZOO}"):
        hub.write(tmp_path / "out", ZOO, card="", weights=tmp_path / "silu" / "model.safetensors", model="test_resnet")
    assert not (tmp_path / "out").exists()
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(__import__("safetensors.torch").torch.save({"a": torch.zeros(1)}))
    with pytest.raises(WeightsError, match="does not say which activation"):
        hub.write(tmp_path / "out", ZOO, card="", weights=bare, model="test_resnet")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "test_resnt"}, "test_resnet"),
        ({"model": "../../etc"}, "no architecture"),
        ({"model": "local-dir:/tmp"}, "no architecture"),
        ({"model": "test_resnet", "model_args": {"act_layer": "relu"}}, "act_layer is not to be given"),
        ({"model": "test_resnet", "model_args": {"checkpoint_path": "../x"}}, "checkpoint_path is not to be given"),
        ({"model": "test_resnet", "model_args": {"colour": 3}}, "cannot build test_resnet"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, said, tmp_path):
    with pytest.raises(WeightsError, match=said):
        hub.write(tmp_path / "out", ZOO, card="", **settings)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_and_timms_own_are_refused(tmp_path):
    (tmp_path / "a").write_text("mine", encoding="utf-8")
    for folder in (tmp_path, tmp_path / "a"):
        with pytest.raises(RunError, match="not empty"):
            hub.write(folder, ZOO, card="", model="test_resnet")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "mine"
    with pytest.raises(GrafsError, match="timm's own"):
        hub.write(tmp_path / "out", "gelu", card="", model="test_resnet")
    (tmp_path / "empty").mkdir()
    assert (hub.write(tmp_path / "empty", ZOO, card="", model="test_resnet") / "README.md").is_file()


def test_the_command_writes_the_folder(tmp_path):
    out, options = tmp_path / "out", ("--model", "test_resnet", "--model-arg", "num_classes=7")
    assert "written: " in call("publish", ZOO, "--hub-dir", out, *options).output
    assert timm.create_model(f"local-dir:{out}").num_classes == 7
    assert "--alias goes without --hub-dir" in refused("publish", ZOO, "--hub-dir", out, "--alias")
    assert "--model goes with --hub-dir" in refused("publish", ZOO, "--model", "test_resnet")
    assert "is not a ledger" in refused("publish", tmp_path)
    assert cli_publish.parsed(("a=1", "b=x", "c=[1, 2]")) == {"a": 1, "b": "x", "c": [1, 2]}
    for pair in ("a", "a-b=1", "=2"):
        with pytest.raises(GrafsError, match="key=value"):
            cli_publish.parsed((pair,))
