"""The table's accuracy, measured: value, gradient for x, gradient for every α and γ, against the exact cell."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, library

from grafs_timm.search.cell import Cell
from grafs_timm.search.table import Grid, lookup

SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "tanh": torch.tanh, "gelu": F.gelu, "asinh": torch.asinh}
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def rows_of(function: Callable[[Tensor], Tensor], grid: Grid) -> Tensor:
    return grid.rows(function(grid.points(dtype=torch.float64))[None]).float()[0]


def cell_and_draw(seed: int) -> tuple[Cell, dict[str, Tensor]]:
    """A cell well away from its start, and one site's draw, differentiable in α."""
    torch.manual_seed(seed)
    cell = Cell()
    with torch.no_grad():
        for alpha in cell.alpha.values():
            alpha.normal_(std=1.0)
    return cell, cell.draw(1)


def gradients(cell: Cell, y: Tensor, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """∂/∂x, ∂/∂α (all slots in one vector), ∂/∂γ for the incoming gradient g."""
    parameters = [*cell.alpha.values(), *cell.gamma.values()]
    slope, *rest = torch.autograd.grad(y, [x, *parameters], g, retain_graph=True)
    alphas, gammas = rest[: len(cell.alpha)], rest[len(cell.alpha) :]
    return slope, torch.cat(alphas), torch.cat(gammas)


def compare(seed: int, intervals: int, dtype: torch.dtype = torch.float32, n: int = 20_000) -> dict[str, float]:
    """Relative errors, mean absolute, of the tabulated against the exact cell; the incoming gradient goes with x.

    Mean absolute because a saturating candidate has a kink that need not lie on a knot: the few inputs in that one interval
    get a slope between the two, and the share of such inputs is what falls with the width.
    """
    cell, weights = cell_and_draw(seed)
    grid = Grid(intervals=intervals)
    x = (2 * torch.randn(n, dtype=dtype)).requires_grad_()
    g = torch.randn(n, dtype=dtype) + x.detach().sin()
    exact = cell.evaluate(x[None], weights)[0]
    table = lookup(x, grid.rows(cell.evaluate(grid.points(dtype=dtype), weights))[0], grid)
    pairs = zip((exact, *gradients(cell, exact, x, g)), (table, *gradients(cell, table, x, g)), strict=True)
    names = ("value", "x", "alpha", "gamma")
    return {
        name: float((b - a).abs().mean().detach() / a.abs().mean().detach()) for name, (a, b) in zip(names, pairs, strict=True)
    }


def test_relaxed_cell_through_the_default_table() -> None:
    """Medians over draws: single ones differ by how much of x lies in the few intervals with a kink inside."""
    runs = [(compare(seed, 4096), compare(seed, 4096, torch.float64)) for seed in range(8)]
    for name, limit in (("value", 2e-5), ("x", 8e-3), ("alpha", 3e-3), ("gamma", 3e-3)):
        single, double = (statistics.median(run[i][name] for run in runs) for i in range(2))
        print(f"{name}: {single:.1e}, of which the interpolation itself {double:.1e}")
        assert double < limit
        assert single < 1.3 * double + 5e-4, "the kernels add more than the histogram's eighth of an interval"


def test_error_falls_as_the_grid_refines() -> None:
    """In float64, where the table's gradient is the exact one of the interpolation and nothing is kept in 16 bits."""

    def errors(intervals: int) -> dict[str, float]:
        runs = [compare(seed, intervals, torch.float64) for seed in range(3)]
        return {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}

    coarse, middle, fine = (errors(n) for n in (128, 512, 2048))
    print("\n".join(f"{n} intervals: {e}" for n, e in ((128, coarse), (512, middle), (2048, fine))))
    for name in coarse:
        assert middle[name] < coarse[name] / 2, name
        assert fine[name] < middle[name] / 2, name


@pytest.mark.parametrize("name", SMOOTH)
def test_second_order_in_the_value(name: str) -> None:
    x = torch.linspace(-4, 4, 5001, dtype=torch.float64)
    errors = []
    for intervals in (256, 512, 1024):
        grid = Grid(intervals=intervals)
        rows = grid.rows(SMOOTH[name](grid.points(dtype=torch.float64))[None])[0]
        errors.append(float((lookup(x, rows, grid) - SMOOTH[name](x)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_a_kink_at_zero_is_exact() -> None:
    grid = Grid(intervals=64)
    x = torch.linspace(-3, 3, 1000).requires_grad_()
    y = lookup(x, rows_of(F.relu, grid), grid)
    assert torch.allclose(y, F.relu(x), atol=1e-6)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(slope, (x.detach() > 0).float())


@pytest.mark.parametrize("n", [1000, 40_000], ids=["plain", "compiled"])
def test_outside_the_grid_it_goes_on_with_the_edge_slope_and_counts(n: int) -> None:
    grid = Grid(-4, 4, 1024)
    x = torch.linspace(-20, 20, n).requires_grad_()
    counter = torch.zeros((), dtype=torch.float64)
    y = lookup(x, rows_of(F.silu, grid), grid, counter)
    edge = torch.tensor([-4.0, 4.0], dtype=torch.float64, requires_grad=True)
    at = F.silu(edge)
    (slope,) = torch.autograd.grad(at.sum(), edge)
    left, right = x.detach() < -4, x.detach() > 4
    assert torch.allclose(y[left].double(), at[0] + slope[0] * (x[left].double() + 4), atol=1e-4)
    assert torch.allclose(y[right].double(), at[1] + slope[1] * (x[right].double() - 4), atol=1e-4)
    assert float(counter) == pytest.approx(int(left.sum() + right.sum()) / n, abs=1e-12)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(grad[left], slope[0].float(), atol=1e-5)
    assert torch.allclose(grad[right], slope[1].float(), atol=1e-5)


@pytest.mark.parametrize("n", [1000, 40_000], ids=["plain", "compiled"])
def test_gradient_of_the_table_outside_the_grid(n: int) -> None:
    grid = Grid(-2, 2, 256)
    rows = rows_of(F.silu, grid)
    x = (6 * torch.randn(n)).double()
    g = torch.randn(n).double()
    by_dtype = []
    for dtype in (torch.float32, torch.float64):
        r = rows.clone().requires_grad_()
        lookup(x.to(dtype), r, grid).backward(g.to(dtype))
        by_dtype.append(r.grad)
    binned, exact = by_dtype
    for row in (0, 257):  # the distance from the edge is kept to a thousandth of itself
        assert (binned[row].double() - exact[row]).abs().max() <= 1e-3 * (g * (x.abs() - 2))[x.abs() > 2].abs().sum()
        assert exact[row].abs().min() > 0.1


def test_float64_table_passes_gradcheck() -> None:
    grid = Grid(-2, 2, 8)
    rows = rows_of(F.silu, grid).double().requires_grad_()
    x = torch.tensor([-3.3, -1.9, -0.3, 0.2, 1.1, 1.95, 2.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, r: lookup(x, r, grid), (x, rows))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_memory_formats(dtype: torch.dtype) -> None:
    grid = Grid()
    rows, base = rows_of(F.gelu, grid), torch.randn(4, 6, 32, 32).to(dtype)
    forms = {
        "contiguous": base,
        "channels_last": base.to(memory_format=torch.channels_last),
        "transposed": base.transpose(1, 3),
        "strided": base[:, :, ::2],
        "scalar": base[0, 0, 0, 0],
        "empty": base[:0],
        "one": base.reshape(-1)[:1],
    }
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for name, x in forms.items():
        x = x.detach().requires_grad_()
        y = lookup(x, rows, grid)
        assert (y.shape, y.dtype) == (x.shape, x.dtype), name
        assert torch.allclose(y, F.gelu(x), atol=tolerance, rtol=tolerance), name
        (slope,) = torch.autograd.grad(y, x, torch.ones_like(x))
        z = x.detach().double().requires_grad_()
        (exact,) = torch.autograd.grad(F.gelu(z).sum(), z)
        assert torch.allclose(slope.double(), exact, atol=5 * tolerance + 1e-2), name
    assert lookup(forms["channels_last"], rows, grid).is_contiguous(memory_format=torch.channels_last)


def test_compiled_and_plain_kernels_agree() -> None:
    grid, x, g = Grid(), torch.randn(40_000) * 3, torch.randn(40_000)
    rows = rows_of(F.silu, grid)

    def run(split: int) -> tuple[Tensor, Tensor, Tensor]:
        r, z = rows.clone().requires_grad_(), x.clone().requires_grad_()
        y = torch.cat([lookup(part, r, grid) for part in z.split(split)])
        y.backward(g)
        return y, z.grad, r.grad

    for whole, parts in zip(run(40_000), run(4_000), strict=True):
        assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("inplace", [False, True], ids=["new", "inplace"])
@pytest.mark.parametrize("n", [100, 40_000])
def test_what_is_not_finite_spoils_its_own_place_and_the_tables_gradient(n: int, inplace: bool, dtype: torch.dtype) -> None:
    grid = Grid()
    special = torch.tensor([[-0.5, 2.5, torch.nan]])
    rows = grid.rows(F.silu(grid.points())[None], special)[0].requires_grad_()
    leaf = torch.randn(n).to(dtype)
    leaf[7], leaf[20], leaf[50] = torch.nan, torch.inf, -torch.inf
    leaf.requires_grad_()
    y = lookup(leaf * 1, rows, grid, inplace=inplace)
    assert y.isnan().nonzero().tolist() == [[7]]
    assert (float(y[20]), float(y[50])) == (2.5, -0.5)
    x_grad, rows_grad = torch.autograd.grad(y, [leaf, rows], torch.randn_like(y))
    assert x_grad.isnan().nonzero().flatten().tolist() == [7, 20, 50]
    assert rows_grad.isnan().any()


def test_huge_numbers_stay_what_the_line_makes_of_them() -> None:
    grid = Grid()
    x = torch.tensor([3e38, -3e38, 1e30, 65536.0, 7e4])
    torch.testing.assert_close(lookup(x, rows_of(F.leaky_relu, grid), grid), F.leaky_relu(x), rtol=2e-4, atol=0)
    assert lookup(x[1:2], rows_of(F.relu, grid), grid).abs() < 1e33  # a slope of 0, up to rounding, times 3e38


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_in_place_is_the_same_and_overwrites(layout: torch.memory_format, dtype: torch.dtype) -> None:
    grid = Grid()
    rows = rows_of(F.gelu, grid).requires_grad_()
    x = torch.randn(2, 8, 40, 40).to(dtype).to(memory_format=layout).requires_grad_()
    g = torch.randn(2, 8, 40, 40).to(dtype)
    apart = lookup(x * 1, rows, grid)
    source = x * 1
    over = lookup(source, rows, grid, inplace=True)
    assert over.data_ptr() == source.data_ptr()
    assert torch.equal(over, apart)
    for one, other in zip(torch.autograd.grad(over, [x, rows], g), torch.autograd.grad(apart, [x, rows], g), strict=True):
        assert torch.equal(one, other)
    kept = x.detach().clone()
    with torch.no_grad():
        assert lookup(kept, rows, grid, inplace=True).data_ptr() == kept.data_ptr()
    assert torch.equal(kept, apart)


def test_rows_of_another_dtype_or_layout_are_read_rightly() -> None:
    grid, x = Grid(), torch.randn(50)
    rows = rows_of(F.silu, grid)
    expected = lookup(x, rows, grid)
    assert torch.equal(lookup(x, rows.double(), grid), expected)
    assert torch.equal(lookup(x, rows.T.contiguous().T, grid), expected)
    assert torch.equal(lookup(x.clone(), rows.double(), grid, inplace=True), expected)


def test_export_and_compile_see_one_operator() -> None:
    grid = Grid()

    class Tabulated(torch.nn.Module):
        def forward(self, x: Tensor, rows: Tensor) -> Tensor:
            return lookup(x * 2, rows, grid, inplace=True) + 1

    module, rows, x = Tabulated(), rows_of(F.silu, grid), torch.randn(64)
    program = torch.export.export(module, (x, rows))
    assert "grafs_timm.lookup.default" in program.graph_module.code
    assert torch.equal(program.module()(x, rows), module(x, rows))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    r, s = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    compiled(a, r).sum().backward()
    module(b, s).sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert torch.equal(r.grad, s.grad)


def test_the_operators_pass_torchs_own_checks() -> None:
    grid = Grid(-2, 2, 8)
    rows = rows_of(F.silu, grid).requires_grad_()
    samples = [
        torch.randn(3, 5),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(0),
        torch.randn(()),
    ]
    for x in samples:
        arguments = (x.requires_grad_(), rows, grid.low, grid.high, True)
        library.opcheck(torch.ops.grafs_timm.lookup.default, arguments, test_utils=CHECKS)
    place = torch.ops.grafs_timm.lookup(samples[0], rows, grid.low, grid.high, True)[1]
    g = torch.randn(3, 5)
    for name, rest in (("lookup_slope", ()), ("lookup_slope_and_rows", (True,))):
        operator = getattr(torch.ops.grafs_timm, name).default
        arguments = (g, place, rows.detach(), grid.low, grid.high, *rest)
        library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_a_weight_step_keeps_one_tensor_of_half_the_size() -> None:
    grid, kept = Grid(), []
    x = torch.randn(64, 64, requires_grad=True)
    rows = rows_of(F.silu, grid)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        lookup(x, rows, grid)
    sizes = sorted(t.numel() * t.element_size() for t in kept if t.data_ptr() != rows.data_ptr())
    assert sizes == [x.numel() * 2]


def test_the_same_call_gives_the_same_bits() -> None:
    grid, x, g = Grid(), torch.randn(50_000), torch.randn(50_000)
    results = []
    for _ in range(3):
        r = rows_of(F.silu, grid).requires_grad_()
        lookup(x, r, grid).backward(g)
        results.append(r.grad)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_bad_input_is_named() -> None:
    grid = Grid()
    with pytest.raises(TypeError, match="int64"):
        lookup(torch.arange(3), rows_of(F.silu, grid), grid)
    with pytest.raises(ValueError, match="4101"):
        lookup(torch.randn(3), torch.randn(7, 2), grid)
    with pytest.raises(ValueError, match="two knots"):
        Grid(intervals=0)
    with pytest.raises(ValueError, match="at most 8,192"):
        Grid(intervals=8193)
    with pytest.raises(ValueError, match="no knot at 0"):
        Grid(-1, 2, 100)
    with pytest.raises(ValueError, match="low < high"):
        Grid(2, 1)
    with pytest.raises(ValueError, match="low < high"):
        Grid(-1, float("inf"))
