import pytest
import timm
import torch
from torch import nn

from grafs_timm.models import small_models as models

# Weights, biases and BatchNorm's two vectors, counted by hand from section 4.2 of He et al. 2015 for n = 3.
RESNET20 = 3 * 9 * 16 + 6 * 16 * 16 * 9 + (16 * 32 + 5 * 32 * 32) * 9 + (32 * 64 + 5 * 64 * 64) * 9
RESNET20 += 2 * (7 * 16 + 6 * 32 + 6 * 64) + 64 * 10 + 10
SIZES = {8: 75_290, 20: RESNET20, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("depth", SIZES)
def test_resnet_has_the_published_size_and_layers(depth):
    model = timm.create_model(f"cifar_resnet{depth}")
    assert parameters(model) == SIZES[depth]
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth


def test_resnet20_has_269722_parameters():
    assert RESNET20 == 269_722


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28), (32, 32), (64, 64)])
def test_resnet_takes_any_size_from_8(size):
    model = timm.create_model("cifar_resnet20", in_chans=1, num_classes=7).eval()
    x = torch.randn(2, 1, *size)
    assert model(x).shape == (2, 7)
    assert model.forward_features(x).shape == (2, 64, -(-size[0] // 4), -(-size[1] // 4))


def test_resnet_sites_are_separate_modules():
    model = timm.create_model("cifar_resnet20", act_layer="silu")
    sites = [module for module in model.modules() if isinstance(module, nn.SiLU)]
    assert len(sites) == len(set(map(id, sites))) == 19
    assert all(site.inplace for site in sites)
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())


@pytest.mark.parametrize("act_layer", [nn.Tanh, "gelu", nn.ELU])
def test_resnet_takes_a_class_or_a_name_with_or_without_inplace(act_layer):
    model = timm.create_model("cifar_resnet20", act_layer=act_layer)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_resnet_shortcut_subsamples_and_fills_with_zeros():
    block = models.CifarBlock(16, 32, 2, nn.Identity, 0.0).eval()
    nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.randn(2, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()


def test_resnet_starts_with_he_initialisation():
    torch.manual_seed(0)
    model = timm.create_model("cifar_resnet20")
    weight = model.layer3[2].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_resnet_rejects_another_depth():
    with pytest.raises(ValueError, match=r"6n\+2 layers.*not 18"):
        models.CifarResNet(depth=18)


@pytest.mark.parametrize(("name", "width"), [("cifar_resnet20", 64), ("cifar_vit_tiny", 512)])
def test_timm_interface(name, width):
    model = timm.create_model(name, drop_rate=0.1, drop_path_rate=0.1)
    x = torch.randn(2, 3, 32, 32)
    assert model.num_features == width
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, width)
    assert model.get_classifier().out_features == model.num_classes == 10
    model.reset_classifier(5)
    assert model(x).shape == (2, 5)
    model.reset_classifier(0)
    assert model(x).shape == (2, width)
    assert model.pretrained_cfg["architecture"] == name
    assert model.default_cfg["input_size"] == (3, 32, 32)
    features = timm.create_model(name, features_only=True)(x)
    assert features[-1].shape == (2, width, 8, 8)


@pytest.mark.parametrize(
    ("name", "depth", "heads", "hidden", "size"),
    [("cifar_vit_tiny", 4, 6, 256, 4_277_258), ("cifar_vit_small", 6, 8, 512, 9_532_938)],
)
def test_vit_has_the_published_shape(name, depth, heads, hidden, size):
    model = timm.create_model(name)
    assert len(model.blocks) == depth
    for block in model.blocks:
        assert block.attn.qkv.weight.shape == (3 * heads * 64, 512)
        assert block.attn.num_heads == heads
        assert block.mlp.fc1.weight.shape == (hidden, 512)
        assert isinstance(block.mlp.act, nn.GELU) or "GELU" in type(block.mlp.act).__name__
    assert parameters(model) == size
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_vit_passes_its_arguments_on():
    model = timm.create_model("cifar_vit_tiny", img_size=8, in_chans=1, num_classes=3, act_layer=nn.Tanh, depth=2)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert [type(block.mlp.act) for block in model.blocks] == [nn.Tanh] * 2


@pytest.mark.parametrize(("name", "blocks", "width"), [("cifar_mixer_tiny", 4, 128), ("cifar_mixer_small", 6, 192)])
def test_mixer_has_the_stated_shape(name, blocks, width):
    model = timm.create_model(name)
    assert [block.mlp_channels.fc1.weight.shape for block in model.blocks] == [(4 * width, width)] * blocks
    assert [block.mlp_tokens.fc1.weight.shape for block in model.blocks] == [(width // 2, 64)] * blocks
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_mixer_passes_its_arguments_on():
    model = timm.create_model("cifar_mixer_tiny", img_size=8, in_chans=1, num_classes=3, act_layer=nn.Tanh, num_blocks=2)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert [type(block.mlp_channels.act) for block in model.blocks] == [nn.Tanh] * 2


@pytest.mark.parametrize(
    ("name", "count", "sites", "classes"),
    [("cifar_resnet20_b", 272_474, 19, 10), ("cifar_vgg16_bn", 15_032_868, 14, 100), ("cifar_mobilenetv2", 2_236_682, 35, 10)],
)
def test_the_networks_of_the_benchmark(name, count, sites, classes):
    model = timm.create_model(name, num_classes=classes, act_layer="golu")
    assert parameters(model) == count
    assert sum(type(module) is timm.layers.get_act_layer("golu") for module in model.modules()) == sites
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, classes)


def test_the_head_of_vgg_is_replaced():
    model, x = timm.create_model("cifar_vgg16_bn"), torch.randn(2, 3, 32, 32)
    assert model.get_classifier().out_features == model.num_classes == 100
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 512)
    for classes, outputs in ((5, 5), (0, 512)):
        model.reset_classifier(classes, global_pool="max")
        assert model(x).shape == (2, outputs)


def test_mobilenetv2_is_timms_but_for_its_strides():
    ours, theirs = timm.create_model("cifar_mobilenetv2"), timm.create_model("mobilenetv2_100", num_classes=10)
    assert parameters(ours) == parameters(theirs)
    assert ours.forward_features(torch.randn(1, 3, 32, 32)).shape[2:] == (4, 4)
    theirs.load_state_dict(ours.state_dict())


def test_names_are_registered():
    assert set(timm.list_models("cifar_*")) == {f"cifar_resnet{depth}" for depth in SIZES} | {
        "cifar_resnet20_b",
        "cifar_vgg16_bn",
        "cifar_mobilenetv2",
        "cifar_vit_tiny",
        "cifar_vit_small",
        "cifar_mixer_tiny",
        "cifar_mixer_small",
    }
