"""A found activation as a module: right values and gradients, x alone kept, copies, compilers and exports."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models._features_fx import create_feature_extractor
from torch import Tensor, nn
from torch._inductor.exc import InvalidCxxCompiler

import grafs_timm
from grafs_timm.activations.activation import FoundActivation, activation_class
from grafs_timm.activations.curve import curve_of
from grafs_timm.activations.genotype import Gene, Genotype, random_genotype

GATED = Genotype(Gene("silu"), Gene("scale", 0.5221), Gene("gate"), Gene("asinh"), Gene("gelu"), Gene("add"))
RANDOM = [random_genotype(np.random.default_rng(seed)) for seed in range(12)]


@pytest.mark.parametrize("genotype", [GATED, *RANDOM], ids=lambda g: g.sha256[:6])
def test_value_and_gradient_are_the_genotypes(genotype: Genotype) -> None:
    layer = activation_class(genotype)()
    x = torch.linspace(-6, 6, 257).requires_grad_()
    z = x.detach().clone().requires_grad_()
    y, plain = layer(x), genotype(z)
    assert torch.equal(y, plain)
    if not plain.requires_grad:
        plain = plain + 0 * z
    g = torch.randn_like(x)
    torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], torch.autograd.grad(plain, z, g)[0])


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3),
    "strided": lambda x: x[:, :, ::2],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_tensor_goes_through_in_one_pass_to_the_same_numbers(layout: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    for genotype in [GATED, *RANDOM[:4]]:
        layer = activation_class(genotype)()
        x = LAYOUTS[layout]((4 * torch.randn(4, 16, 32, 34)).to(dtype)).detach().requires_grad_()
        y, plain = layer(x), genotype(x)
        assert y.dtype == dtype
        assert layout != "channels_last" or y.is_contiguous(memory_format=torch.channels_last)
        g = torch.randn_like(x)
        (slope,) = torch.autograd.grad(y, x, g)
        expected = torch.autograd.grad(plain, x, g)[0] if plain.requires_grad else torch.zeros_like(x)
        torch.testing.assert_close(y, plain.detach(), atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(slope, expected, atol=20 * tolerance, rtol=20 * tolerance)
        with torch.no_grad():
            assert torch.equal(layer(x), y)


def test_without_a_compiler_it_is_the_formula_with_one_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    from grafs_timm.kernels import cpu
    from grafs_timm.utils import compiled

    def no_compiler() -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr(compiled, "_troubles", defaultdict(compiled._Trouble))
    monkeypatch.setattr(cpu, "loops", no_compiler)
    layer, x = activation_class(GATED)(), torch.randn(20_000, requires_grad=True)
    with pytest.warns(UserWarning, match="an activation: no compiler was found"):
        y = layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one notice is enough
        y.sum().backward()
        layer(x)
    assert torch.equal(y, GATED(x))


@pytest.mark.parametrize("n", [1000, 40_000])
def test_training_keeps_the_input_and_nothing_else(n: int) -> None:
    curve_of.cache_clear()  # making the curve computes with gradients too: its tensors are not the caller's
    kept = []
    x = torch.randn(n, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        activation_class(GATED)()(x)
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]


def test_half_precision_and_shapes() -> None:
    layer = activation_class(GATED)()
    exact = layer(torch.linspace(-5, 5, 101).double())
    for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2)):
        y = layer(torch.linspace(-5, 5, 101, dtype=dtype))
        assert y.dtype is dtype
        torch.testing.assert_close(y.double(), exact, atol=tolerance, rtol=tolerance)
    for shape in ((), (0,), (2, 3, 4, 5)):
        assert layer(torch.randn(shape)).shape == shape
    with pytest.raises(TypeError, match="floating"):
        layer(torch.arange(3))


@pytest.mark.parametrize("n", [50, 20_000])
def test_a_gradient_can_be_differentiated_again(n: int) -> None:
    """As gradient penalties do; a second derivative left out of one would go unnoticed."""

    def penalty(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad((w * f(x)).sum(), x, create_graph=True)
        return torch.cat([g.flatten() for g in torch.autograd.grad(slope.square().sum(), (x, w))])

    w = torch.randn(n, requires_grad=True)
    torch.testing.assert_close(
        *(penalty(f, torch.linspace(-3, 3, n, requires_grad=True)) for f in (activation_class(GATED)(), GATED))
    )
    assert torch.autograd.gradgradcheck(activation_class(GATED)(), torch.randn(5, dtype=torch.float64, requires_grad=True))


def test_a_constant_function_has_a_zero_gradient() -> None:
    one = Gene("const", 1.0)
    constant = activation_class(Genotype(one, one, Gene("add"), Gene("identity"), one, Gene("left")))()
    x = torch.randn(5, requires_grad=True)
    constant(x).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_copies_and_pickles_are_the_same_function() -> None:
    model = nn.Sequential(nn.Linear(4, 4), activation_class(GATED, "grafs_test_gated")())
    x, buffer = torch.randn(3, 4), io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)  # a whole pickled model, written one line above
    for other in (copy.deepcopy(model), again):
        assert torch.equal(other(x), model(x))
        assert type(other[1]) is type(model[1])
        assert other[1].activation_name == "grafs_test_gated"


def test_a_model_that_keeps_the_class_is_pickled_too() -> None:
    """As timm's models do that hand their ``act_layer`` on."""
    model = nn.Sequential(activation_class(GATED, "grafs_test_gated")())
    model.act_layer = type(model[0])
    model.base = FoundActivation
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert again.act_layer is model.act_layer is type(again[0])
        assert again.base is FoundActivation


def test_a_timm_model_is_read_by_another_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2, act_layer=activation_class(GATED, "grafs_test_gated")).eval()
    x = torch.randn(1, 3, 32, 32)
    torch.save({"model": model, "x": x, "y": model(x)}, tmp_path / "whole.pt")
    read = """
import sys, torch
whole = torch.load(sys.argv[1], weights_only=False)
torch.testing.assert_close(whole["model"](whole["x"]), whole["y"])
"""
    subprocess.run([sys.executable, "-c", read, str(tmp_path / "whole.pt")], check=True)


def test_timms_way_of_building_it() -> None:
    made = activation_class(GATED, "grafs_test_gated")
    assert made is activation_class(GATED, "grafs_test_gated")
    assert activation_class(GATED) is activation_class(GATED, "found") is activation_class(GATED, name="found")
    assert isinstance(made(), nn.Module)
    assert isinstance(made(inplace=True), nn.Module)
    assert "grafs_test_gated" in repr(made())


def test_compile_sees_the_plain_formula() -> None:
    layer = activation_class(GATED)()
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.randn(512, requires_grad=True)
    torch.testing.assert_close(compiled(x), layer(x), atol=1e-5, rtol=1e-5)
    exported = torch.export.export(layer, (torch.randn(8),)).module()
    z = torch.randn(8)
    torch.testing.assert_close(exported(z), layer(z), atol=1e-6, rtol=1e-6)


def test_the_kernels_made_for_cuda_are_the_formula() -> None:
    """The same compiled functions, made for the CPU here; each is one kernel for any length."""
    from grafs_timm.activations.activation import _by_kernel
    from grafs_timm.activations.curve import gradient

    for count in (3_000, 5_001):
        x, g = torch.randn(count), torch.randn(count)
        torch.testing.assert_close(_by_kernel(GATED, x, None), GATED(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(_by_kernel(GATED, x, g), gradient(GATED, x, g), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("extract", [False, True])
def test_symbolic_tracing_keeps_it_as_one_call(extract: bool) -> None:
    model = grafs_timm.create_model("resnet18", "grafs_resnet", num_classes=3).eval()
    x = torch.randn(1, 3, 32, 32)
    if extract:
        assert torch.equal(create_feature_extractor(model, ["layer2", "fc"])(x)["fc"], model(x))
        return
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    kept = [node for node in traced.graph.nodes if node.op == "call_module" and "act" in str(node.target)]
    assert len(kept) == model.activation_report.replaced


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64", "float8_e4m3fn", "float8_e5m2"])
def test_scripted_too_it_refuses_what_is_no_floating_point_tensor(dtype: str) -> None:
    keep = Gene("identity")
    relu = Genotype(keep, keep, Gene("left"), keep, Gene("relu"), Gene("right"))  # which itself would take integers
    for layer in (activation_class(relu)(), torch.jit.script(activation_class(relu)())):
        with pytest.raises(Exception, match=r"float16, bfloat16, float32|not implemented for '?Float8"):
            layer(torch.ones(8).to(getattr(torch, dtype)))
