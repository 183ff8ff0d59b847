"""Weights and the activation they were trained with: saved together, restored together, refused apart."""

import json
import shutil
import subprocess
import sys
import warnings

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open
from timm.utils import ModelEmaV3
from torch import nn

import grafs_timm
from grafs_timm.activations.activation import FoundActivation, activation_class
from grafs_timm.activations.genotype import Genotype
from grafs_timm.activations.named import Activation
from grafs_timm.errors import GrafsError, RunError, WeightsError
from grafs_timm.models import binding, surgery
from grafs_timm.models.replace import replace_activations
from grafs_timm.models.weights import CONFIG, WEIGHTS, activation_of, create_from, load_pretrained, save_pretrained
from grafs_timm.zoo import lookup as zoo

ZOO = "grafs_resnet_c10_s2"
BASE = {
    "format": "grafs-cell/1", "u1": {"op": "identity"}, "u2": {"op": "scale", "gamma": 1.5}, "b1": {"op": "gate"},
    "u3": {"op": "relu"}, "u4": {"op": "identity"}, "b2": {"op": "max"},
}  # fmt: skip
MINE = Genotype.from_dict(BASE)
OTHER = Genotype.from_dict(BASE | {"u2": {"op": "scale", "gamma": 0.75}})
GELU = Genotype.from_dict(BASE | {"u1": {"op": "gelu"}, "b1": {"op": "left"}, "u3": {"op": "identity"}, "b2": {"op": "left"}})


@pytest.fixture(autouse=True)
def said_before(monkeypatch):
    """Each test is a process of its own to what is said once."""
    monkeypatch.setattr(binding, "_warned", False)


def build(architecture="test_resnet", activation=ZOO, seed=0, **settings):
    torch.manual_seed(seed)
    model = timm.create_model(architecture, num_classes=3, **settings).eval()
    if activation is not None:
        replace_activations(model, activation)
    return model


def outputs(model, size=32):
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model.eval()(x)


def edit(folder, change):
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def refuses(said, model, source, **settings):
    """The load fails, saying so, and leaves the model as it was."""
    before = weights_of(model)
    with pytest.raises(WeightsError, match=said) as error:
        load_pretrained(model, source, **settings)
    assert isinstance(error.value, GrafsError)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.fixture
def saved(tmp_path):
    """The folder of a small ResNet with an activation of no zoo."""
    return save_pretrained(build(activation=MINE), tmp_path / "saved")


@pytest.mark.parametrize(
    ("architecture", "activation", "name", "sha256"),
    [
        ("test_resnet", None, "relu", None),
        ("test_vit", None, "gelu", None),
        ("test_resnet", "silu", "silu", None),
        ("seresnet18", MINE, "found", MINE.sha256),
        ("test_resnet", ZOO, ZOO, zoo.get_activation(ZOO).genotype.sha256),
        ("test_resnet", "grafs_resnet", ZOO, zoo.get_activation(ZOO).genotype.sha256),
    ],
)
def test_the_activation_of_a_model(architecture, activation, name, sha256):
    bound = activation_of(build(architecture, activation))
    assert (bound.name, bound.sha256, bound.beside) == (name, sha256, ())
    assert (bound.activation.genotype.sha256 if bound.activation.genotype else None) == sha256
    assert str(bound) == (f"{name} ({sha256[:8]})" if sha256 else name)


def test_what_is_mixed_is_called_so():
    model = build(activation=MINE)
    model.act1 = nn.GELU(approximate="tanh")
    assert str(activation_of(model)) == f"found ({MINE.sha256[:8]}) beside gelu_tanh"
    assert str(activation_of(nn.Sequential(nn.SiLU(), nn.ReLU()))) == "relu beside silu"
    model.act1 = activation_class(OTHER, "second")()
    with pytest.raises(WeightsError, match=rf"second \({OTHER.sha256[:8]}\).*found \({MINE.sha256[:8]}\)"):
        activation_of(model)
    with pytest.raises(WeightsError, match="no activation module"):
        activation_of(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("architecture", "size", "activation"),
    [
        ("test_resnet", 32, ZOO),
        ("test_vit", 160, ZOO),
        ("seresnet18", 32, ZOO),
        ("test_resnet", 32, "silu"),
        ("test_resnet", 32, None),
    ],
)
def test_plain_timm_restores_the_function(tmp_path, architecture, size, activation):
    model = build(architecture, None, **({} if activation is None else {"act_layer": zoo.act_layer(activation)}))
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    assert config["model_args"].get("act_layer") == activation
    assert config["model_args"]["num_classes"] == 3
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(outputs(again, size), outputs(model, size))
    assert activation_of(again) == activation_of(model)
    ours = create_from(tmp_path, pretrained=True)
    assert torch.equal(outputs(ours, size), outputs(model, size))


def test_a_process_that_only_imports_the_package_restores_it(tmp_path):
    model = build(act_layer=ZOO, activation=None)
    save_pretrained(model, tmp_path)
    code = (
        "import sys, timm, torch, grafs_timm\n"
        "torch.set_num_threads(1)\n"
        f"model = timm.create_model('local-dir:{tmp_path}', pretrained=True).eval()\n"
        "x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))\n"
        f"torch.save(model(x).detach(), r'{tmp_path / 'out.pt'}')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), outputs(model))


@pytest.mark.parametrize(
    ("architecture", "activation", "settings"),
    [
        ("test_resnet", MINE, {}),  # no zoo name
        ("test_convnext", MINE, {}),
        ("seresnet18", ZOO, {}),  # by act_layer the gates would change too
        ("pvt_v2_b0", ZOO, {}),  # takes no act_layer
        ("test_resnet", "leaky_relu", {"in_chans": 3, "output_stride": 16}),
    ],
)
def test_the_package_restores_the_rest(tmp_path, architecture, activation, settings):
    model = build(architecture, activation, **settings)
    save_pretrained(model, tmp_path)
    again = create_from(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(outputs(again, 64), outputs(model, 64))
    assert activation_of(again) == activation_of(model)
    kinds = [[(name, str(module)) for name, module in binding.activations_at(m).items()] for m in (model, again)]
    assert kinds[0] == kinds[1]


def test_an_activation_put_into_some_places_comes_back_there(tmp_path):
    model = build("seresnet18", None)
    model.layer1[0].se.act = activation_class(MINE, "mine")()  # a gate, which replacement leaves
    model.layer2[1].act2 = activation_class(MINE, "mine")()
    save_pretrained(model, tmp_path)
    again = create_from(tmp_path, pretrained=True)
    found = {name for name, module in again.named_modules() if isinstance(module, FoundActivation)}
    assert found == {"layer1.0.se.act", "layer2.1.act2"}
    assert activation_of(again).beside == ("relu",)
    assert torch.equal(outputs(again), outputs(model))


def test_a_slope_that_is_not_the_usual_one(tmp_path):
    model = build(activation=None)
    surgery.replace_sites(model, lambda old: nn.LeakyReLU(0.3), by="hand")
    assert activation_of(model).name == "leaky_relu(0.3)"
    save_pretrained(model, tmp_path)
    refuses(r"trained with leaky_relu\(0.3\), the model has leaky_relu:", build(activation="leaky_relu"), tmp_path)
    with pytest.raises(WeightsError, match=r"no activation 'leaky_relu\(0.3\)'"):
        create_from(tmp_path)


def test_weights_of_an_activation_with_parameters(tmp_path):
    model = build(activation="prelu")
    with torch.no_grad():
        model.act1.weight.fill_(0.5)
    save_pretrained(model, tmp_path)
    assert torch.equal(outputs(create_from(tmp_path, pretrained=True)), outputs(model))


def test_settings_adapt_the_weights(saved):
    again = create_from(saved, pretrained=True, num_classes=7)
    model = build(activation=MINE)
    assert again.num_classes == 7
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)) != name.startswith("fc.")
    assert activation_of(again).sha256 == MINE.sha256
    assert not torch.equal(outputs(create_from(saved))[:, :3], outputs(model))  # without pretrained: weights of its own
    with pytest.raises(WeightsError, match="its own activation"):
        create_from(saved, act_layer="relu")
    features = create_from(saved, pretrained=True, features_only=True)
    assert any(isinstance(module, FoundActivation) for module in features.modules())


def test_equal_weights_are_equal_files(tmp_path):
    """Though safetensors, left to itself, writes the metadata in any order."""
    contents = {(save_pretrained(build(), tmp_path / str(n)) / WEIGHTS).read_bytes() for n in range(8)}
    assert len(contents) == 1
    content = contents.pop()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    loaded = safetensors.torch.load(content)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in build().state_dict().items())


def test_the_wrapped_model_is_the_one_saved(tmp_path):
    model = build(activation=MINE)
    ema = ModelEmaV3(nn.Sequential(model)[0])
    for number, wrapped in enumerate((model, ema, torch.compile(model), nn.DataParallel(model))):
        save_pretrained(wrapped, tmp_path / str(number))
        other = build(activation=MINE, seed=1)
        assert load_pretrained(other, tmp_path / str(number)) is other
        assert torch.equal(outputs(other), outputs(model))


def test_saved_again_elsewhere(saved, tmp_path):
    again = save_pretrained(create_from(saved, pretrained=True), tmp_path / "again")
    assert (again / CONFIG).read_bytes() == (saved / CONFIG).read_bytes()  # no trace of the folder it came from
    assert torch.equal(outputs(create_from(again, pretrained=True)), outputs(build(activation=MINE)))


def test_the_files_say_what_they_are_bound_to(saved):
    with safe_open(saved / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert metadata == {"format": "pt", "activation": "found", "activation_sha256": MINE.sha256}
    record = json.loads((saved / CONFIG).read_text(encoding="utf-8"))["activation"]
    assert Genotype.from_dict(record["genotype"]) == MINE
    assert record["sha256"] == MINE.sha256
    assert [path.name for path in sorted(saved.iterdir())] == [CONFIG, WEIGHTS]


def test_another_activation_is_refused(saved, tmp_path):
    both = rf"trained with found \({MINE.sha256[:8]}\), the model has second \({OTHER.sha256[:8]}\)"
    second = build(activation=Activation("second", OTHER))
    lone = shutil.copy(saved / WEIGHTS, tmp_path / "lone.safetensors")
    for source in (saved, str(saved), f"local-dir:{saved}", saved / WEIGHTS, lone):
        refuses(both, second, source)
    refuses(r"the model has relu", build(activation=None), saved)
    stock = save_pretrained(build(activation=None), tmp_path / "stock")
    refuses(r"trained with relu, the model has found", build(activation=MINE), stock)
    refuses('"same" or "any"', second, saved, activation="anything")
    load_pretrained(second, saved, activation="any")
    expected = build(activation=MINE)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)


def test_the_same_function_passes_under_any_name(saved, tmp_path):
    renamed = build(activation=Activation("renamed", MINE), seed=1)
    assert torch.equal(outputs(load_pretrained(renamed, saved)), outputs(build(activation=MINE)))
    stock = build("test_vit", None)
    folder = save_pretrained(stock, tmp_path / "vit")
    as_data = load_pretrained(build("test_vit", GELU, seed=1), folder)
    torch.testing.assert_close(outputs(as_data, 160), outputs(stock, 160), rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_fit(saved):
    refuses(r"fc.weight \[3, \d+\] there, \[5, \d+\] in the model", timm.create_model("test_resnet", num_classes=5), saved,
            activation="any")  # fmt: skip
    refuses(r"missing: cls_token, .* and \d+ more; unexpected: .*conv1", build("test_vit"), saved, activation="any")


def test_weights_without_a_record(saved, tmp_path):
    model = build(activation=MINE)
    bare = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(model.state_dict(), bare)
    with pytest.warns(UserWarning, match="does not say which activation"):
        load_pretrained(build(activation=MINE, seed=1), bare)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretrained(build(activation=None), bare)
    edit(saved, lambda config: config.pop("activation"))
    refuses("trained with found", build(activation=None), saved)  # the weights' own metadata still say so


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_damaged_weights(saved, content):
    model = build(activation=MINE)
    (saved / WEIGHTS).write_bytes(content)
    refuses("damaged", model, saved)
    with pytest.raises(WeightsError, match="damaged"):
        create_from(saved, pretrained=True)


def test_missing_and_cut_off_files(saved, tmp_path):
    model, path = build(activation=MINE), saved / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    refuses("damaged", model, saved)
    path.unlink()
    refuses(f"no weights at {path}", model, saved)
    refuses("no weights at", model, tmp_path / "nowhere")
    pickled = tmp_path / "weights.pth"
    torch.save(model.state_dict(), pickled)
    refuses("is not a .safetensors file", model, pickled)
    with pytest.raises(WeightsError, match="missing or damaged"):
        create_from(tmp_path)


def _set(*keys, value):
    def change(config):
        for key in keys[:-1]:
            config = config.setdefault(key, {})
        config[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("activation", "sha256", value="0" * 64), "the genotype's own is"),
        (_set("activation", "sha256", value=None), "the genotype's own is"),
        (_set("activation", "genotype", "u2", "gamma", value=1.25), "the genotype's own is"),
        (_set("activation", "genotype", "u1", "op", value="identiy"), "identity"),
        (_set("activation", "genotype", value=None), "genotype"),
        (_set("activation", "name", value="../../elsewhere.json"), "without slashes"),
        (_set("activation", "name", value=3), "name"),
        (_set("activation", "file", value="/etc/passwd"), "expected an object of"),
        (_set("activation", "places", value="act1"), "places"),
        (_set("activation", value=[]), "expected an object"),
        (_set("architecture", value="test_resnett"), "test_resnet"),
        (_set("architecture", value="local-dir:/elsewhere"), "has no model"),
        (_set("model_args", value=[]), "model_args"),
        (_set("model_args", "checkpoint_path", value="../other.pth"), "checkpoint_path"),
        (_set("model_args", "pretrained_cfg", value={"file": "../other.pth"}), "pretrained_cfg"),
    ],
)
def test_records_that_are_refused(saved, change, said):
    model = build(activation=MINE)
    edit(saved, change)
    refuses(said, model, saved)
    with pytest.raises(WeightsError, match=said):
        create_from(saved)


def test_two_files_that_disagree(saved, tmp_path):
    other = save_pretrained(build(activation=OTHER), tmp_path / "other")
    shutil.copy(other / WEIGHTS, saved / WEIGHTS)
    refuses(rf"says the weights were trained with found \({MINE.sha256[:8]}\)", build(activation=MINE), saved)


def test_a_file_named_in_the_config_is_refused_and_an_address_not_read(saved, tmp_path):
    trap = save_pretrained(build(activation=MINE, seed=5), tmp_path / "trap")
    edit(saved, lambda config: config["pretrained_cfg"].update(file=str(trap / WEIGHTS), source=""))
    with pytest.raises(WeightsError, match=r"config\.json: pretrained_cfg: file .*names no other file"):
        create_from(saved, pretrained=True)
    edit(saved, lambda config: config["pretrained_cfg"].update(file=None, url="file:///nowhere"))
    for model in (create_from(saved, pretrained=True), create_from(saved, pretrained=True, drop_rate=0.1)):
        assert torch.equal(outputs(model), outputs(build(activation=MINE)))


def test_what_cannot_be_saved(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="not built by timm"):
        save_pretrained(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), tmp_path / "a")
    with torch.device("meta"):
        empty = timm.create_model("test_resnet")
    with pytest.raises(WeightsError, match="meta device"):
        save_pretrained(empty, tmp_path / "a")
    with pytest.raises(WeightsError, match="norm_layer"):
        save_pretrained(timm.create_model("test_resnet", norm_layer=nn.BatchNorm2d), tmp_path / "a")
    with pytest.raises(WeightsError, match="checkpoint_path"):
        save_pretrained(build(), tmp_path / "a", model_args={"checkpoint_path": "x"})
    with pytest.raises(WeightsError, match="without slashes"):
        save_pretrained(build(activation=activation_class(MINE, "a/b")), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(WeightsError, match="is a file"):
        save_pretrained(build(), tmp_path / "file")
    model = timm.create_model("test_resnet", norm_layer=nn.BatchNorm2d)
    save_pretrained(model, tmp_path / "b", model_args={"norm_layer": "batchnorm2d"})
    assert torch.equal(outputs(create_from(tmp_path / "b", pretrained=True)), outputs(model))


def test_a_full_disk_keeps_what_was_there(saved, monkeypatch):
    before = (saved / WEIGHTS).read_bytes(), (saved / CONFIG).read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match="no space left"):
        save_pretrained(build(activation=OTHER), saved)
    assert ((saved / WEIGHTS).read_bytes(), (saved / CONFIG).read_bytes()) == before
    assert len(list(saved.iterdir())) == 2


def test_pretrained_weights_with_another_activation_are_warned_about_once(tmp_path):
    folder = save_pretrained(build("test_vit", None), tmp_path)
    settings = {
        "pretrained": True,
        "num_classes": 3,
        "pretrained_cfg_overlay": {"file": str(folder / WEIGHTS), "num_classes": 3},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grafs_timm.create_model("test_vit", GELU, **settings)  # the same function
        grafs_timm.create_model("test_vit", ZOO, num_classes=3)  # no pretrained weights
    with pytest.warns(UserWarning, match="accuracy falls until it is trained again.*resnet_cifar10_finetune") as said:
        grafs_timm.create_model("test_vit", ZOO, **settings)
    assert [warning.filename for warning in said] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grafs_timm.create_model("test_vit", ZOO, **settings)


@pytest.mark.parametrize(
    "architecture", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050", "regnetx_002"]
)
def test_a_part_of_a_model_is_not_saved_as_one(tmp_path, architecture):
    with torch.device("meta"):
        model = timm.create_model(architecture, features_only=True)
    with pytest.raises(WeightsError, match=r"the part of a model that features_only=True gives.*save the whole model"):
        save_pretrained(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
