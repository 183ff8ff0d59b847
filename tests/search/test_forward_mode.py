"""Forward-mode differentiation of a found activation and of the table is right, as GELU's is, or raises."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from grafs_timm.search.bilevel import ActivationSearch
from grafs_timm.search.table import Grid, lookup
from grafs_timm.zoo.lookup import act_layer

GATED = {
    "format": "grafs-cell/1", "u1": {"op": "silu"}, "u2": {"op": "scale", "gamma": 0.5221}, "b1": {"op": "gate"},
    "u3": {"op": "asinh"}, "u4": {"op": "gelu"}, "b2": {"op": "add"},
}  # fmt: skip


def dual(f: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, t))).tangent


def over_reverse(f: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    """f′(x)·t as the tangent of a gradient's own input: the Hessian of Σ ∫f."""
    return dual(f, x.clone().requires_grad_(), t).detach()


def nested(f: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    return torch.func.jvp(lambda x: f(x) + torch.func.jvp(f, (x,), (torch.zeros_like(x),))[1], (x,), (t,))[1]


WAYS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "a dual tensor": dual,
    "a dual tensor with a gradient": over_reverse,
    "without gradients": torch.no_grad()(dual),
    "in inference": lambda f, x, t: dual(f.eval(), x, t),
    "func.jvp": lambda f, x, t: torch.func.jvp(f, (x,), (t,))[1],
    "func.jvp of jvp": nested,
    "func.linearize": lambda f, x, t: torch.func.linearize(f, x)[1](t),
    "vmap of jvp": lambda f, x, t: torch.func.vmap(lambda x, t: torch.func.jvp(f, (x,), (t,))[1])(x, t),
    "in place": lambda f, x, t: dual(type(f)(inplace=True), x.clone(), t),
}


@pytest.mark.parametrize("size", [(2, 4), (5, 8192)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_the_tangent_of_a_found_activation_is_its_formulas(way: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    f = act_layer(GATED)()
    x, t = torch.randn(size, dtype=dtype), torch.randn(size, dtype=dtype)
    expected = torch.func.jvp(f.genotype, (x,), (t,))[1]
    torch.testing.assert_close(WAYS[way](f, x, t), expected)


@pytest.mark.parametrize("replaced", ["found", "stock"])
def test_a_model_with_weights_has_a_tangent_as_with_gelu(replaced: str) -> None:
    torch.manual_seed(0)
    act = act_layer(GATED)() if replaced == "found" else nn.GELU()
    model, x, t = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 2)), torch.randn(3, 4), torch.randn(3, 4)
    with torch.no_grad():
        difference = (model.double()(x.double() + 1e-6 * t) - model(x.double() - 1e-6 * t)) / 2e-6
    found = dual(model, x.double(), t.double())
    torch.testing.assert_close(found.detach(), difference, rtol=1e-4, atol=1e-5)
    gradient = torch.autograd.grad(found.sum(), list(model.parameters()), allow_unused=True)
    assert gradient[0] is not None


def table() -> tuple[Tensor, Grid]:
    grid = Grid()
    return grid.rows(torch.nn.functional.gelu(grid.points())[None])[0], grid


@pytest.mark.parametrize("shape", [(3,), (5, 8192), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("inplace", [False, True])
def test_the_tangent_of_a_table_is_its_slope(inplace: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    rows, grid = table()
    x, t = torch.randn(shape), torch.randn(shape)
    found = dual(lambda x: lookup(x, rows, grid, inplace=inplace), x.clone(), t)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(lookup(leaf, rows, grid), leaf, t)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, torch.func.jvp(torch.nn.functional.gelu, (x,), (t,))[1], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("way", ["by the table", "func.jvp"])
def test_what_a_table_cannot_differentiate_raises(way: str) -> None:
    rows, grid = table()
    x = torch.randn(5)
    ways: dict[str, Callable[[], object]] = {
        "by the table": lambda: dual(lambda rows: lookup(x, rows, grid), rows, torch.ones_like(rows)),
        "func.jvp": lambda: torch.func.jvp(lambda x: lookup(x, rows, grid), (x,), (x,)),
    }
    with pytest.raises((NotImplementedError, RuntimeError)):
        ways[way]()


def test_a_searched_model_has_the_tangent_of_its_tables() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    ActivationSearch(model, 10, warm_start=0)
    x, t = torch.randn(3, 4), torch.randn(3, 4)
    torch.manual_seed(1)
    found = dual(model, x, t)
    torch.manual_seed(1)
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    columns = [torch.autograd.grad(y[:, k].sum(), leaf, retain_graph=True)[0] for k in range(2)]
    torch.testing.assert_close(found.detach(), torch.stack([(c * t).sum(1) for c in columns], 1), rtol=1e-3, atol=1e-4)
