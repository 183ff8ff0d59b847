"""A config.json that somebody else wrote, and checkpoints: what is wrong with one is told in one line."""

import json
from pathlib import Path

import pytest
import timm
import torch
from timm.models._hub import save_config_for_hf

import grafs_timm
from grafs_timm.errors import GrafsError, WeightsError
from grafs_timm.models.weights import create_from, save_pretrained
from grafs_timm.zoo.model_config import CONFIG, read_config


def _changed(folder: Path, where: str, value: object) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    place = config
    *parents, key = where.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[key] = value
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("pretrained_cfg.input_size", "large"), ("pretrained_cfg.input_size", [3, 0, 32]), ("pretrained_cfg.input_size", [32]),
        ("pretrained_cfg.input_size", [3, 10**12, 32]), ("pretrained_cfg.num_classes", "ten"),
        ("pretrained_cfg.num_classes", -1), ("pretrained_cfg.num_classes", 10**18), ("pretrained_cfg.mean", "grey"),
        ("pretrained_cfg.std", [[1]]), ("pretrained_cfg.first_conv", 7), ("pretrained_cfg.first_conv", {"a": 1}),
        ("pretrained_cfg.classifier", [1]), ("pretrained_cfg.crop_pct", "all"), ("pretrained_cfg.crop_pct", float("nan")),
        ("pretrained_cfg.interpolation", "cubist"), ("pretrained_cfg.pool_size", 7), ("pretrained_cfg.label_offset", "x"),
        ("pretrained_cfg.custom_load", "yes"), ("pretrained_cfg.fixed_input_size", 3), ("pretrained_cfg", [1]),
        ("pretrained_cfg", None), ("pretrained_cfg", "resnet"), ("num_classes", "many"), ("num_features", []),
        ("label_names", "cat"), ("model_args", "depth=3"), ("model_args.in_chans", "three"), ("model_args.in_chans", 0),
        ("model_args.in_chans", [3]), ("model_args.num_classes", {"a": 1}), ("model_args.num_classes", 10**9),
        ("model_args.drop_rate", "high"), ("model_args.drop_rate", 7), ("model_args.global_pool", "poll"),
        ("model_args.global_pool", 3), ("model_args.layers", []), ("model_args.channels", [1, 2]), ("model_args.unknown", 1),
        ("model_args.output_stride", 5), ("model_args.features_only", "x"), ("model_args.out_indices", [99]),
        ("model_args.block", "Bottleneck"), ("model_args.norm_layer", "nothing"), ("model_args.checkpoint_path", "a.pth"),
        ("architecture", 3), ("architecture", "x" * 10_000), ("model_args.x", [[[[[[[[1]]]]]]]]), ("model_args.x", "a" * 5000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_wrong_value_of_a_config_is_told_by_one_line(tmp_path, where, value, pretrained):
    folder = save_pretrained(timm.create_model("test_resnet", num_classes=3), tmp_path / "mine")
    _changed(folder, where, value)
    with pytest.raises(GrafsError) as caught:
        grafs_timm.create_model(f"local-dir:{folder}", pretrained=pretrained)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 1500
    assert str(folder) in message


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000, b" " * (5 << 20)])
def test_a_config_that_is_none_is_told(tmp_path, content):
    folder = save_pretrained(timm.create_model("test_resnet", num_classes=3), tmp_path / "mine")
    (folder / CONFIG).write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        create_from(folder)


@pytest.mark.parametrize(
    "pattern", ["resnet18*", "vit_tiny*", "deit_tiny_distilled*", "convnext_atto*", "efficientnet_b0*", "levit*"]
)
def test_configs_of_timms_own_pass(tmp_path, pattern):
    for name in timm.list_models(pattern)[:4]:
        with torch.device("meta"):
            model = timm.create_model(name)
        save_config_for_hf(model, tmp_path / CONFIG)
        assert read_config(tmp_path)["architecture"] == name.split(".")[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"), (b"", "does not load"), (b"noise", "does not load"), (b"PK\x03\x04", "does not load"),
        ("folder", "load_pretrained"), ("other", "does not load into test_resnet"),
        (b"\x80\x02c__builtin__\neval\n.", "does not load"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_a_checkpoint_that_does_not_load_is_told_by_one_line(tmp_path, content, message, suffix):
    path = tmp_path / f"a{suffix}"
    if content == "folder":
        path.mkdir()
    elif content == "other":
        torch.save(timm.create_model("test_vit").state_dict(), path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        grafs_timm.create_model("test_resnet", "relu", checkpoint_path=path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_checkpoint_that_fits_is_loaded(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
    found = grafs_timm.create_model("test_resnet", "relu", num_classes=3, checkpoint_path=tmp_path / "a.pth")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(found.eval()(x), model.eval()(x))
