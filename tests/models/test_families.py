"""The table of families: it covers timm, and what it says of each family is what timm's stock models show."""

import sys
from collections import Counter
from functools import cache

import pytest
import timm
import torch
from timm.models import _registry, is_model_in_modules
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.overrides import TorchFunctionMode

from grafs_timm.errors import UnknownNameError
from grafs_timm.models.families import FAMILIES, default_activation, family_of, nearest_family

MODULES = [module for module in timm.list_modules() if f"timm.models.{module}" in sys.modules]
# timm's names of the non-linearities found in its models; sigmoid, hard-sigmoid and soft-max are gates.
NAMES = {
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "GELU": "gelu", "GELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu", "SiLU": "silu", "Hardswish": "hard_swish", "Mish": "mish", "ELU": "elu", "PReLU": "prelu",
}  # fmt: skip


class NoInitialisation(TorchFunctionMode):
    """Skips what fills a tensor: on the meta device it changes nothing, and is a good third of a model's construction."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if args and func.__name__ in {"normal_", "uniform_", "kaiming_uniform_", "fill_", "zero_", "clamp_"}:
            return args[0]
        return func(*args, **(kwargs or {}))


@cache
def stock(architecture: str) -> nn.Module:
    with torch.device("meta"), NoInitialisation():
        return timm.create_model(architecture)


def parameters(architecture: str) -> int:
    return sum(parameter.numel() for parameter in stock(architecture).parameters())


def test_every_module_of_timm_stands_in_one_row():
    rows = Counter(module for family in FAMILIES.values() for module in family.modules)
    assert rows == Counter(MODULES)


def test_every_architecture_of_timm_has_a_family():
    names = [name for name in timm.list_models() if is_model_in_modules(name, MODULES)]
    assert len(names) > 1000
    for name in names:
        family = FAMILIES[family_of(name)]
        assert is_model_in_modules(name, family.modules) or (name.startswith("mobilenetv2_") and family.name == "mobilenetv2")


@pytest.mark.parametrize("name", FAMILIES)
def test_row_is_what_the_stock_models_show(name):
    family = FAMILIES[name]
    assert family.name == name
    assert 2 <= len(set(family.larger)) == len(family.larger) <= 4
    assert {family_of(architecture) for architecture in (family.small, *family.larger)} == {name}
    assert family_of(stock(family.small)) == name
    found = Counter(NAMES[kind] for kind in (type(m).__name__ for m in stock(family.small).modules()) if kind in NAMES)
    (commonest, count), *others = found.most_common()
    assert commonest == family.activation
    assert all(count > fewer for _, fewer in others)  # no tie
    assert all(parameters(architecture) > parameters(family.small) for architecture in family.larger)


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("resnet50", "resnet"),
        ("resnet50.a1_in1k", "resnet"),
        ("resnetv2_50", "resnet"),
        ("resnext50_32x4d", "resnet"),
        ("cifar_resnet20", "resnet"),
        ("cifar_resnet110", "resnet"),
        ("vit_small_patch16_224", "vit"),
        ("vit_base_patch16_clip_224.openai", "vit"),
        ("deit_tiny_patch16_224", "vit"),
        ("vit_tiny_patch16_224_in21k", "vit"),  # a deprecated name
        ("cifar_vit_tiny", "vit"),
        ("vit_small_r26_s32_224", "vit_hybrid"),
        ("swin_tiny_patch4_window7_224", "swin"),
        ("efficientnet_b0", "efficientnet"),
        ("mixer_b16_224", "mlp_mixer"),
        ("cifar_mixer_small", "mlp_mixer"),
        ("gpt_small", "gpt"),
    ],
)
def test_family_of_a_name(architecture, family):
    assert family_of(architecture) == family


def test_family_of_a_model():
    assert family_of(timm.create_model("cifar_vit_tiny", depth=1)) == "vit"
    assert family_of(timm.create_model("cifar_resnet20")) == "resnet"
    assert family_of(nn.DataParallel(timm.create_model("resnet10t"))) == "resnet"
    assert family_of(timm.create_model("resnet10t", features_only=True)) == "resnet"
    assert family_of(ResNet(BasicBlock, [1, 1, 1, 1])) == "resnet"


class Mine(ResNet):
    pass


def test_family_of_a_class_derived_from_timms():
    assert family_of(Mine(BasicBlock, [1, 1, 1, 1])) == "resnet"


def test_a_users_own_architecture(monkeypatch):
    """Its file's name says nothing, even where timm has a module of that name; the class it is built from does."""

    def vgg_of_mine(pretrained=False, **settings):
        return Mine(BasicBlock, [1, 1, 1, 1], **settings)

    monkeypatch.setitem(_registry._model_entrypoints, "vgg_of_mine", vgg_of_mine)
    monkeypatch.setitem(_registry._model_to_module, "vgg_of_mine", "vgg")
    monkeypatch.setitem(_registry._module_to_models, "vgg", _registry._module_to_models["vgg"] | {"vgg_of_mine"})
    with pytest.raises(UnknownNameError, match=r"^vgg_of_mine belongs to no family in the table; the families: resnet, .*vit,"):
        family_of("vgg_of_mine")
    model = vgg_of_mine()
    model.pretrained_cfg = {"architecture": "vgg_of_mine"}
    assert family_of(model) == "resnet"


def test_unknown_model_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"timm has no model 'resnet51'.*nearest: .*resnet"):
        family_of("resnet51")


def test_a_module_that_timm_did_not_build():
    with pytest.raises(UnknownNameError, match=r"this Linear belongs to no family in the table; the families: resnet, .*vit, "):
        family_of(nn.Linear(2, 2))


def test_default_activation():
    assert default_activation("resnetv2_50") == "relu"
    assert default_activation("cifar_vit_small") == "gelu"
    assert default_activation("efficientnet_b0") == "silu"
    assert default_activation("mobilenetv3_large_100.ra_in1k") == "hard_swish"


@pytest.mark.parametrize(
    ("family", "have", "expected"),
    [
        ("vit", ["resnet", "vit"], "vit"),  # itself
        ("regnet", ["vit", "resnet"], "resnet"),  # the same activation
        ("swin", ["convnext", "pvt", "vit"], "vit"),  # of GELU the same kind, of those the first in the table
        ("convnext", ["resnet", "vit"], "vit"),  # activation before kind
        ("efficientnet", ["vit", "resnet"], "resnet"),  # no activation shared: the kind
        ("levit", ["vit", "resnet"], "resnet"),  # nothing shared: the table's order
        ("vit", ["bert", "resnet"], "resnet"),  # a family that the table lacks
        ("vit", ["bert"], None),
        ("gpt", ["resnet", "convnext", "vit"], "vit"),
        ("vit", [], None),
    ],
)
def test_nearest_family(family, have, expected):
    assert nearest_family(family, have) == expected


def test_nearest_family_of_an_unknown_one():
    with pytest.raises(UnknownNameError, match=r"no family 'resnest'; nearest: resnet"):
        nearest_family("resnest", ["resnet"])
