"""16-bit inference by a table: every bit pattern, every kind of tensor, and nothing else changed."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._inductor.exc import InvalidCxxCompiler

from grafs_timm.activations import exact
from grafs_timm.activations.activation import activation_class
from grafs_timm.activations.genotype import Gene, Genotype, random_genotype
from grafs_timm.activations.published import get_published, list_published
from grafs_timm.errors import GrafsWarning
from grafs_timm.kernels import lookup
from grafs_timm.utils import compiled

GATED = Genotype(Gene("silu"), Gene("scale", 0.5221), Gene("gate"), Gene("asinh"), Gene("gelu"), Gene("add"))
FORMULAS = [GATED, get_published("golu"), *(random_genotype(np.random.default_rng(seed)) for seed in range(8))]
DTYPES = [torch.bfloat16, torch.float16]


def _all(dtype: torch.dtype) -> Tensor:
    return torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: str(f)[:12])
def test_every_number_is_the_formula_in_float64_rounded_once(formula: Genotype, dtype: torch.dtype) -> None:
    x, top = _all(dtype), torch.finfo(dtype).max
    exactly = formula.within(top)(x.double()).clamp(-top, top)
    got = activation_class(formula)(table=True)(x)
    assert got.dtype == dtype
    assert torch.equal(got.isnan(), exactly.isnan())
    assert not got.isinf().any()
    real = ~exactly.isnan()
    for beside in (torch.inf, -torch.inf):  # no neighbour is nearer
        other = torch.nextafter(got, torch.full_like(got, beside))[real].double()
        assert bool(((got[real].double() - exactly[real]).abs() <= (other - exactly[real]).abs()).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_nan_and_infinity_saturates(dtype: torch.dtype) -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
    for name in ("golu", "sigmoid", "relu"):
        function = get_published(name) if name == "golu" else Genotype(
            Gene("identity"), Gene("identity"), Gene("left"), Gene(name), Gene("identity"), Gene("left")
        )  # fmt: skip
        got = activation_class(function)(table=True)(x)
        assert got[0].isnan()
        assert got[1] in (1, torch.finfo(dtype).max)
        assert got[2] == 0


def test_rounding_is_not_done_twice() -> None:
    tie = 1 + 2.0**-11  # between 1 and its neighbour in float16; float32 loses the 2⁻⁴⁰ that decides
    x = torch.tensor([tie, tie + 2.0**-40, tie - 2.0**-40, -tie - 2.0**-40, 0.0, -0.0, 65504.0], dtype=torch.float64)
    got = exact.nearest(x, torch.float16)
    assert got.tolist() == [1, 1 + 2.0**-10, 1, -1 - 2.0**-10, 0, 0, 65504]
    assert torch.equal(got.signbit(), x.signbit())
    assert x.half()[1] == 1  # what torch does
    generator = np.random.default_rng(0)
    for value in (generator.standard_normal(200) * 10.0 ** generator.integers(-8, 5, 200)).tolist():
        own = exact.nearest(torch.tensor([value], dtype=torch.float64), torch.bfloat16)
        beside = [torch.nextafter(own, torch.tensor([end], dtype=own.dtype)) for end in (torch.inf, -torch.inf)]
        assert all(abs(Fraction(value) - Fraction(own.item())) <= abs(Fraction(value) - Fraction(b.item())) for b in beside)


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "empty": lambda x: x[:0],
    "0-dim": lambda x: x[0, 0, 0, 0],
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "strided": lambda x: x[:, :, ::2],
    "transposed": lambda x: x.transpose(1, 3),
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "odd": lambda x: x.flatten()[1:20],
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_layout_is_looked_up_and_kept(shape: str, dtype: torch.dtype) -> None:
    x = SHAPES[shape](3 * torch.randn(4, 6, 40, 34).to(dtype))
    got = activation_class(GATED)(table=True)(x)
    table = exact.table_of(GATED, dtype)
    assert torch.equal(got, table[(x.view(torch.int16).int() & 0xFFFF).long()])
    assert shape != "channels_last" or got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wider_dtypes_are_as_without(dtype: torch.dtype) -> None:
    x = torch.randn(2**15, dtype=dtype)
    assert torch.equal(activation_class(GATED)(table=True)(x), activation_class(GATED)()(x))


def test_where_a_gradient_is_recorded_it_is_as_without() -> None:
    x = torch.randn(2**15).bfloat16().requires_grad_()
    on, off = activation_class(GATED)(table=True), activation_class(GATED)()
    assert torch.equal(on(x), off(x))
    (first,) = torch.autograd.grad(on(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.isfinite(second).all()
    with torch.no_grad():
        looked_up = on(x)
    assert not looked_up.requires_grad
    assert torch.equal(looked_up, exact.table_of(GATED, torch.bfloat16)[(x.view(torch.int16).int() & 0xFFFF).long()])


def test_modes_and_transforms() -> None:
    layer = activation_class(GATED)(table=True)
    x = torch.randn(4, 33).bfloat16()
    expected = layer(x)
    with torch.inference_mode():
        assert torch.equal(layer(x), expected)
    table = exact.table_of.__wrapped__(GATED, torch.float16)
    exact.table_of.cache_clear()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):  # the table is first made in here
        assert torch.equal(layer(x), expected)
        assert layer(nn.Linear(33, 5)(x.float())).dtype == torch.bfloat16
        layer(x.half())
    torch.testing.assert_close(exact.table_of(GATED, torch.float16), table, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(torch.vmap(layer)(x), expected, atol=1e-2, rtol=1e-2)
    value, slope = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(value, expected, atol=1e-2, rtol=1e-2)
    assert slope.abs().sum() > 0
    assert torch.func.grad(lambda t: layer(t).sum())(x).shape == x.shape


def test_copies_pickles_scripts_and_state() -> None:
    layer = activation_class(GATED)(table=True)
    assert not layer.state_dict()
    assert "table=True" in repr(layer)
    assert "table" not in repr(activation_class(GATED)())
    x = torch.randn(100).half()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.table
        assert torch.equal(other(x), layer(x))
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))
    torch.testing.assert_close(torch.export.export(nn.Sequential(layer), (x,)).module()(x), layer(x))


def test_without_a_compiler_it_is_torchs_own_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler() -> None:
        raise InvalidCxxCompiler

    layer, x = activation_class(GATED)(table=True), torch.randn(2**15).bfloat16()
    expected = layer(x)
    monkeypatch.setattr(compiled, "_troubles", defaultdict(compiled._Trouble))
    monkeypatch.setattr(lookup, "loops", no_compiler)
    with pytest.warns(GrafsWarning, match="install a C"):
        assert torch.equal(layer(x), expected)
    assert torch.equal(layer(x), expected)


def test_the_cache_is_bounded_and_shared() -> None:
    assert exact.table_of(GATED, torch.float16) is exact.table_of(copy.deepcopy(GATED), torch.float16)
    assert exact.table_of.cache_info().maxsize == 64


def test_published_functions_take_the_option() -> None:
    x = torch.randn(64).half()
    for name in list_published()[:5]:
        layer = activation_class(get_published(name))(table=True)
        torch.testing.assert_close(layer(x), get_published(name)(x), atol=2e-3, rtol=2e-3)
