import pytest
import timm
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from grafs_timm.errors import UnknownNameError
from grafs_timm.families import FAMILIES, family_of, usual_activation


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
    ],
)
def test_family_of_a_name(architecture, family):
    assert family_of(architecture) == family


def test_family_of_a_model():
    assert family_of(timm.create_model("cifar_vit_tiny", depth=1)) == "vit"
    assert family_of(timm.create_model("cifar_resnet20")) == "resnet"
    assert family_of(nn.DataParallel(timm.create_model("resnet10t"))) == "resnet"
    assert family_of(ResNet(BasicBlock, [1, 1, 1, 1])) == "resnet"


def test_family_of_a_class_derived_from_timms():
    class Mine(ResNet):
        pass

    assert family_of(Mine(BasicBlock, [1, 1, 1, 1])) == "resnet"


def test_unknown_model_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"timm has no model 'resnet51'.*nearest: .*resnet"):
        family_of("resnet51")


@pytest.mark.parametrize("architecture", ["swin_tiny_patch4_window7_224", "vit_small_r26_s32_224"])
def test_family_without_a_row_says_so(architecture):
    with pytest.raises(UnknownNameError, match=rf"{architecture} \(timm.models.\w+\).*the families: resnet, vit"):
        family_of(architecture)


def test_a_module_that_timm_did_not_build():
    with pytest.raises(UnknownNameError, match="this Linear is of no family"):
        family_of(nn.Linear(2, 2))


def test_usual_activation():
    assert usual_activation("resnetv2_50") == "relu"
    assert usual_activation("cifar_vit_small") == "gelu"


def test_every_row_names_what_exists():
    modules = set(timm.list_modules())
    for name, family in FAMILIES.items():
        assert name == family.name
        assert set(family.modules) <= modules
        for architecture in (family.small, *family.larger):
            assert family_of(architecture) == name
