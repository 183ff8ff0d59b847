"""Replacement in real timm models, and the report of it."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from grafs_timm.activations.gains import gain
from grafs_timm.activations.genotype import Genotype
from grafs_timm.errors import GrafsError
from grafs_timm.models import activation_table as activations
from grafs_timm.models.create import create_model
from grafs_timm.models.replace import replace_activations
from grafs_timm.models.surgery import find_sites
from grafs_timm.zoo.lookup import act_layer

GATED = {
    "format": "grafs-cell/1", "u1": {"op": "silu"}, "u2": {"op": "scale", "gamma": 0.5221}, "b1": {"op": "gate"},
    "u3": {"op": "asinh"}, "u4": {"op": "gelu"}, "b2": {"op": "add"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "sites"),
    [
        ("resnet18", 17),
        ("resnet50", 49),
        ("resnetv2_50", 49),
        ("vit_tiny_patch16_224", 12),
        ("test_vit", 6),
        ("deit_tiny_patch16_224", 12),
    ],
)
def test_resnets_and_vits_take_it_everywhere(architecture: str, sites: int) -> None:
    model = timm.create_model(architecture, num_classes=3)
    before = [name for name, *_ in find_sites(model)]
    report = replace_activations(model, GATED)
    assert (report.replaced, report.total, report.left) == (sites, sites, [])
    assert before == [name for name, *_ in find_sites(model)]
    assert not any(isinstance(m, (nn.ReLU, nn.GELU)) for m in model.modules())
    assert f"replaced {sites} of {sites}" in str(report)


def test_gates_are_left_and_named() -> None:
    model = timm.create_model("seresnet18", num_classes=3)
    report = replace_activations(model, GATED)
    assert report.left
    assert all(".se" in name for name, _ in report.left)
    assert {reason for _, reason in report.left} == {"squeeze-excite", "sigmoid gate"}
    assert "left: 8 × squeeze-excite (layer1.0.se." in str(report)
    assert report.total == report.replaced + len(report.left)
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()


def only(op: str) -> dict[str, Any]:
    """The genotype of one operation."""
    slots = {slot: {"op": op if slot == "u1" else "identity"} for slot in ("u1", "u2", "u3", "u4")}
    return {"format": "grafs-cell/1", **slots, "b1": {"op": "left"}, "b2": {"op": "left"}}


RELU, GELU, SILU = only("relu"), only("gelu"), only("silu")


@pytest.mark.parametrize(
    ("architecture", "genotype", "size"),
    [
        ("resnet18", RELU, 64), ("res2net50_14w_8s", RELU, 64), ("nf_resnet26", RELU, 64), ("hrnet_w18_small", RELU, 64),
        ("dm_nfnet_f0", GELU, 64), ("test_vit", GELU, 160), ("beit_base_patch16_224", GELU, 224),
        ("xcit_nano_12_p16_224", GELU, 224),
        ("convnext_atto", GELU, 64), ("mixer_s32_224", GELU, 224), ("nfnet_l0", SILU, 64), ("efficientnet_b0", SILU, 64),
        ("swinv2_tiny_window8_256", GELU, 256), ("crossvit_tiny_240", GELU, 240),
    ],
)  # fmt: skip
def test_the_same_function_gives_the_stock_outputs(architecture: str, genotype: dict[str, Any], size: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=5).eval()
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        stock = model(x)
        assert len(replace_activations(model, genotype).was) == 1
        assert torch.allclose(model(x), stock, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "kind", "more"), [("seresnet18", "squeeze_excite", 8), ("swinv2_tiny_window8_256", "position_bias", 12)]
)
def test_side_networks_on_request(architecture: str, kind: str, more: int) -> None:
    with torch.device("meta"):
        model, other = timm.create_model(architecture), timm.create_model(architecture)
    assert replace_activations(other, GATED, also=[kind]).replaced == replace_activations(model, GATED).replaced + more


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(GrafsError, match="nearest: squeeze_excite"):
        replace_activations(nn.Sequential(nn.ReLU()), GATED, also=["squeeze_exite"])


@pytest.mark.parametrize("architecture", ["resnet18", "seresnet18", "convnext_atto", "test_vit", "densenet121"])
def test_timms_own_argument_reaches_the_same_places(architecture: str) -> None:
    also = ["squeeze_excite"] if architecture == "seresnet18" else []
    outputs = []
    for make in (
        lambda: timm.create_model(architecture, num_classes=5, act_layer=act_layer(GATED)),
        lambda: create_model(architecture, GATED, also=also, num_classes=5),
    ):
        torch.manual_seed(0)
        model = make().eval()
        with torch.no_grad():
            outputs.append(model(torch.ones(1, 3, 160, 160)))
    assert torch.allclose(*outputs, atol=1e-6)


def test_a_composite_activation_is_replaced_whole() -> None:
    with torch.device("meta"):
        model = timm.create_model("caformer_s18")
    report = replace_activations(model, GATED)
    assert report.was.keys() == {"StarReLU", "SquaredReLU"}
    assert report.left == []


def test_a_fused_activation_is_named() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnetv2_50d_evos")
    with pytest.raises(GrafsError, match="part of its normalisation"):
        replace_activations(model, GATED)


@pytest.mark.parametrize("architecture", ["xception41p", "legacy_xception", "efficientnet_b0"])
def test_hooks_on_activations_go_on(architecture: str) -> None:
    model = create_model(architecture, GATED, features_only=True).eval()
    assert len(model(torch.ones(1, 3, 96, 96))) == len(model.feature_info)


def test_an_nfnet_gets_the_gain_of_its_function() -> None:
    model = timm.create_model("nf_resnet26")
    conv = model.stages[0][0].conv1
    before = conv.scale
    replace_activations(model, GATED)
    assert conv.scale == pytest.approx(gain(Genotype.from_dict(GATED)) * conv.weight[0].numel() ** -0.5)
    replace_activations(model, RELU)
    assert conv.scale == pytest.approx(before, rel=2e-3)  # timm's own constants are sampled


def test_an_activation_can_be_replaced_again() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    replace_activations(model, GATED)
    replace_activations(model, "leaky_relu")
    assert isinstance(model[1], nn.LeakyReLU)
    assert model[1].inplace is False


def test_the_same_instance_at_two_places_counts_twice() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    assert replace_activations(model, GATED).replaced == 2
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())


def test_mode_and_identity_are_kept() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.GELU()).eval()
    replace_activations(model, GATED)
    assert not model[1].training


def test_no_activation_is_an_error() -> None:
    with pytest.raises(GrafsError, match="no activation module"):
        replace_activations(nn.Linear(2, 2), GATED)


GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": 32, "bos_token_id": 0, "eos_token_id": 0}
LLAMA = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 32}
BERT = LLAMA


@pytest.mark.parametrize(
    ("kind", "sizes", "usual", "left"),
    [
        ("gpt2", GPT2, "NewGELUActivation", []),
        ("gpt2", GPT2 | {"activation_function": "gelu_pytorch_tanh"}, "GELUTanh", []),
        ("gpt2", GPT2 | {"activation_function": "relu2"}, "ReLUSquaredActivation", []),
        ("llama", LLAMA, "SiLU", []),
        ("bert", BERT, "GELUActivation", [("pooler.activation", "tanh")]),
    ],
)
def test_models_of_transformers(kind: str, sizes: dict[str, Any], usual: str, left: list[tuple[str, str]]) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes)).eval()
    report = replace_activations(model, GATED)
    assert (report.replaced, report.left) == (2, left)
    (was,) = report.was
    assert was.removesuffix("Activation").removeprefix("Pytorch") == usual.removesuffix("Activation")
    assert model(torch.randint(32, (2, 8))).last_hidden_state.isfinite().all()


def test_the_tables_of_transformers_name_classes_that_are_there() -> None:
    of_transformers = pytest.importorskip("transformers.activations", reason="transformers is not installed")
    known = activations.replaced()
    made = {
        "gelu",
        "gelu_10",
        "gelu_fast",
        "gelu_new",
        "gelu_pytorch_tanh",
        "gelu_accurate",
        "quick_gelu",
        "silu",
        "mish",
        "relu2",
    }
    assert all(isinstance(of_transformers.ACT2FN[name], known) for name in made)
    assert not any(isinstance(of_transformers.ACT2FN[name], known) for name in ("laplace", "linear", "sigmoid", "tanh"))
