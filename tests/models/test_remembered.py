"""Layers that remember the activation they were built with compute by the one that was put in, or are named."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grafs_timm.errors import GrafsError
from grafs_timm.models.replace import replace_activations
from grafs_timm.search.bilevel import ActivationSearch

GATED = {
    "format": "grafs-cell/1", "u1": {"op": "silu"}, "u2": {"op": "scale", "gamma": 0.5221}, "b1": {"op": "gate"},
    "u3": {"op": "asinh"}, "u4": {"op": "gelu"}, "b2": {"op": "add"},
}  # fmt: skip
PADDED = torch.arange(5) >= torch.tensor([[5], [3]])  # [2, 5]: the second of two sentences is three words long


class OwnLayer(nn.TransformerEncoderLayer):
    pass


def layer(activation: object = "gelu", kind: type[nn.Module] = nn.TransformerEncoderLayer, **settings: bool) -> nn.Module:
    return kind(8, 2, 16, dropout=0.0, activation=activation, batch_first=True, **settings)


def encoder(activation: object = "gelu") -> nn.Module:
    return nn.TransformerEncoder(layer(activation), 2)


class WithMask(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, src_key_padding_mask=PADDED)


class Pair(nn.Module):
    """torch's whole transformer, or a decoder layer, with x on both sides."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x)


TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {
    "a layer with a GELU": lambda: layer(nn.GELU()),
    "a layer with a ReLU": lambda: layer(nn.ReLU()),
    "norm first": lambda: layer(nn.GELU(), norm_first=True),
    "the name relu": lambda: layer("relu"),
    "the name gelu": lambda: layer("gelu"),
    "a function": lambda: layer(F.gelu),
    "a function with no fused form": lambda: layer(F.silu),
    "a subclass": lambda: layer(nn.ReLU(), OwnLayer),
    "an encoder": lambda: encoder(nn.GELU()),
    "an encoder of functions": lambda: encoder("relu"),
    "a masked layer": lambda: WithMask(layer(nn.GELU())),
    "a masked encoder": lambda: WithMask(encoder(nn.GELU())),
    "a masked encoder of functions": lambda: WithMask(encoder("gelu")),
    "a decoder layer": lambda: Pair(layer("gelu", nn.TransformerDecoderLayer)),
    "the whole transformer": lambda: Pair(nn.Transformer(8, 2, 1, 1, 16, 0.0, nn.GELU(), batch_first=True)),
}


def words() -> Tensor:
    return torch.randn(2, 5, 8)


def slow(model: nn.Module, x: Tensor) -> Tensor:
    """What the modules compute, without torch's fused evaluation."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            return model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_transformer_evaluates_with_the_activation_that_was_put_in(kind: str) -> None:
    torch.manual_seed(0)
    model, x = TRANSFORMERS[kind]().eval(), words()
    before = slow(model, x)
    report = replace_activations(model, GATED)
    assert report.replaced == report.total >= 1
    seen: list[Tensor] = []
    for module in model.modules():
        if hasattr(module, "genotype"):
            module.forward = lambda x, forward=module.forward: seen.append(x) or forward(x)  # a hook would end the fused path
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            after = model(x)
        assert len(seen) == report.replaced
        seen.clear()
        torch.testing.assert_close(after, slow(model, x))
        seen.clear()
        assert not torch.allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_search_on_a_transformer_evaluates_with_its_sites(kind: str) -> None:
    torch.manual_seed(0)
    model, x = TRANSFORMERS[kind]().eval(), words()
    search = ActivationSearch(model, 10, warm_start=0)
    with torch.no_grad():
        for alpha in search.cell.alpha.values():
            alpha.normal_()
        found = model(x)
    assert search.report.replaced == search.report.total
    torch.testing.assert_close(found, slow(model, x))
    replaced = TRANSFORMERS[kind]().eval()
    replace_activations(replaced, search.genotype())
    replaced.load_state_dict({name: value for name, value in model.state_dict().items() if "usual" not in name})
    torch.testing.assert_close(found, slow(replaced, x), atol=1e-3, rtol=1e-3)


def test_a_copy_and_what_is_loaded_evaluate_with_it_too(tmp_path) -> None:
    torch.manual_seed(0)
    model, x = WithMask(encoder(nn.GELU())).eval(), words()
    replace_activations(model, GATED)
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        torch.testing.assert_close(slow(other, x), slow(model, x))
        with torch.no_grad():
            torch.testing.assert_close(other(x), slow(model, x))


def test_a_transformer_that_keeps_its_activation_keeps_its_fused_evaluation() -> None:
    model = nn.ModuleList([encoder(nn.GELU()), nn.Sequential(nn.Linear(2, 2), nn.ReLU())])
    replace_activations(model[1], GATED)
    assert model[0].use_nested_tensor
    assert all(each.activation_relu_or_gelu == 2 for each in model[0].layers)


def conv(*after: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(3, 4, 1), *after]


@pytest.mark.parametrize(
    ("modules", "size"),
    [
        (conv(nn.ReLU()), (2, 3, 4, 4)), (conv(nn.BatchNorm2d(4), nn.ReLU()), (2, 3, 4, 4)),
        ([nn.BatchNorm2d(3), nn.ReLU()], (2, 3, 4, 4)), ([nn.Linear(3, 4), nn.ReLU()], (2, 3)),
        ([nn.Linear(3, 4), nn.LeakyReLU()], (2, 3)), ([nn.Conv1d(3, 4, 1), nn.ReLU()], (2, 3, 4)),
    ],
)  # fmt: skip
def test_layers_fused_for_quantisation_come_apart(modules: list[nn.Module], size: tuple[int, ...]) -> None:
    kinds = {"Conv2dReLU": "ConvReLU2d", "Conv1dReLU": "ConvReLU1d", "Conv2dBatchNorm2dReLU": "ConvBnReLU2d",
             "BatchNorm2dReLU": "BNReLU2d"}  # fmt: skip
    name = "".join(type(module).__name__ for module in modules)
    one: nn.Module = getattr(torch.ao.nn.intrinsic, kinds.get(name, name))(*modules)
    model = nn.Sequential(one).eval()
    replace_activations(model, GATED)
    assert type(model[0]) is nn.Sequential
    x = torch.randn(size)
    expected = x
    for module in one:
        expected = module(expected)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("kind", ["qat", "quantized"])
def test_an_activation_inside_a_quantised_layer_is_named(kind: str) -> None:
    qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    fused = torch.ao.nn.intrinsic.qat.LinearReLU(3, 4, qconfig=qconfig)
    if kind == "quantized":
        fused = torch.ao.nn.intrinsic.quantized.LinearReLU(3, 4)
    report = replace_activations(nn.Sequential(fused, nn.Linear(4, 4), nn.ReLU()), GATED)
    assert (report.replaced, report.left) == (1, [("0", "fused with its layer")])


def test_the_relu_in_torchvisions_quantisable_additions_is_named() -> None:
    quantisable = pytest.importorskip("torchvision.models.quantization")
    with torch.device("meta"):
        model = quantisable.resnet18(weights=None, quantize=False)
    report = replace_activations(model, GATED)
    assert [reason for _, reason in report.left] == ["fused with its layer"] * 8


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 32, "state_size": 4}


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba", "mamba2"])
def test_layers_that_call_their_activation_by_name_are_named(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = SMALL | ({"num_heads": 4, "head_dim": 8, "n_groups": 1} if kind == "mamba2" else {})
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes))
    with pytest.raises(GrafsError, match="called by its name"):
        replace_activations(model, GATED)


def test_a_hybrid_model_has_its_other_activations_replaced() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 32, "intermediate_size": 24, "num_attention_heads": 2,
        "num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 4,
        "expert_layer_offset": 3, "mamba_d_state": 4, "use_mamba_kernels": False, "num_experts": 2, "pad_token_id": 0,
    }  # fmt: skip
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("jamba", **sizes))
    report = replace_activations(model, GATED)
    assert report.replaced == 2
    assert [reason for _, reason in report.left] == ["called by its name, not as the module"]
