"""What the loops of a tabulated function cost, beside ReLU and a copy of the same bytes; and is the exact table better?

    python tools/bench_table.py [--device cuda] [--out benchmarks/table.csv] [--quick]

Subjects, at the sizes of ResNet20's sites (batch 128) and at 4M elements:

    weights   the loops of a weight step: forward, and the gradient for x from the places
    cell      the loops of an architecture step: forward, and the gradients for x and for the table
    exact …   the same two for a table of all 65,536 values that a 16-bit input can have, indexed by its bits
    atomic    cell, with the table's gradient by atomic adds into memory (CUDA only; why the package does otherwise)

``ratio`` is to torch.relu, ``floor_ratio`` to a copy that moves the same bytes: x, y and what is kept, or the places, g and
∂L/∂x. A row for each subject and half; then the accuracy of both tables against the function itself in float64.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_csv
import click
import torch
import torch.nn.functional as F
from torch import Tensor

from grafs_timm.cli import screen
from grafs_timm.kernels import choose
from grafs_timm.search.cell import Cell
from grafs_timm.search.table import Grid, lookup

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

SHAPES = [(128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8), (2**22,)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PATTERNS = 2**16
CALLS = 10  # of one measurement on CUDA, so that what is timed is the device and not the launch

Call = Callable[[], Any]


# --------------------------------------------------------------------------------------------------- the exact table


def patterns(dtype: torch.dtype, device: str) -> Tensor:
    """Every value of a 16-bit dtype, in the order of its bits."""
    return torch.arange(PATTERNS, device=device, dtype=torch.int32).to(torch.int16).view(dtype)


class Exact:
    """Values and slopes of a function at every 16-bit input. x itself is what is kept for backward."""

    def __init__(self, values: Tensor, slopes: Tensor) -> None:
        self.values, self.slopes = values, slopes  # of x's dtype, float32

    def index(self, x: Tensor) -> Tensor:
        return x.view(torch.int16).int() & 0xFFFF

    def forward(self, x: Tensor) -> Tensor:
        return self.values[self.index(x)]

    def slope(self, g: Tensor, x: Tensor) -> Tensor:
        return (g.float() * self.slopes[self.index(x)]).to(g.dtype)

    def histogram(self, g: Tensor, x: Tensor) -> Tensor:
        """∂L/∂values, float32 [65536]."""
        return torch.bincount(self.index(x), g.float(), minlength=PATTERNS).float()


if triton is not None:

    @triton.jit
    def gather(bits_ptr, g_ptr, table_ptr, out_ptr, size, WEIGH: tl.constexpr, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = at < size
        bits = tl.load(bits_ptr + at, mask=there, other=0).to(tl.int32) & 0xFFFF
        value = tl.load(table_ptr + bits, mask=there, other=0.0)
        if WEIGH:
            value = value * tl.load(g_ptr + at, mask=there, other=0.0).to(tl.float32)
        tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=there)

    @triton.jit
    def scatter(bits_ptr, g_ptr, out_ptr, size, inside, DISTANCE: tl.constexpr, BLOCK: tl.constexpr):
        """DISTANCE: out is [rows, 2] and bits are places, of which those outside the grid (few) are left out."""
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        bits = tl.load(bits_ptr + at, mask=at < size, other=0).to(tl.int32) & 0xFFFF
        g = tl.load(g_ptr + at, mask=at < size, other=0.0).to(tl.float32)
        there = (at < size) & (bits < inside)
        if DISTANCE:
            row = 2 * (bits // 4 + 1)
            tl.atomic_add(out_ptr + row, g, mask=there, sem="relaxed")
            tl.atomic_add(out_ptr + row + 1, g * (2 * (bits % 4) + 1).to(tl.float32), mask=there, sem="relaxed")
        else:
            tl.atomic_add(out_ptr + bits, g, mask=there, sem="relaxed")


class TritonExact(Exact):
    """The same with a kernel each; the histogram by atomic adds."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        gather[(triton.cdiv(x.numel(), 1024),)](x.view(torch.int16), x, self.values, y, x.numel(), WEIGH=False, BLOCK=1024)
        return y

    def slope(self, g: Tensor, x: Tensor) -> Tensor:
        y = torch.empty_like(g)
        gather[(triton.cdiv(x.numel(), 1024),)](x.view(torch.int16), g, self.slopes, y, x.numel(), WEIGH=True, BLOCK=1024)
        return y

    def histogram(self, g: Tensor, x: Tensor) -> Tensor:
        result = torch.zeros(PATTERNS, device=g.device)
        scatter[(triton.cdiv(g.numel(), 1024),)](
            x.view(torch.int16), g, result, g.numel(), PATTERNS, DISTANCE=False, BLOCK=1024
        )
        return result


def rows_by_atomics(g: Tensor, place: Tensor, grid: Grid) -> Tensor:
    """∂L/∂rows [intervals + 5, 2] of the interpolated table, without the rows outside the grid."""
    result = torch.zeros(grid.intervals + 5, 2, device=g.device)
    scatter[(triton.cdiv(g.numel(), 1024),)](place, g, result, g.numel(), 4 * grid.intervals, DISTANCE=True, BLOCK=1024)
    return result * torch.tensor([1.0, grid.width / 8], device=g.device)


# ------------------------------------------------------------------------------------------------------------- time


def timed(calls: dict[str, Call], repeats: int, device: str, count: int = CALLS) -> dict[str, list[float]]:
    """Milliseconds of each call, ``repeats`` times, in turn so that a machine's mood meets all of them.

    On CUDA one measurement is of ``count`` calls in a row.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(2 + repeats):
        for name, call in calls.items():
            if device == "cuda":
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                torch.cuda._sleep(4_000_000)  # the launches queue up meanwhile: what is timed is the device alone
                begin.record()
                for _ in range(count):
                    call()
                end.record()
                torch.cuda.synchronize()
                took = begin.elapsed_time(end) / count
            else:
                start = time.perf_counter()
                call()
                took = (time.perf_counter() - start) * 1e3
            if turn >= 2:
                times[name].append(took)
    return times


def halves(x: Tensor, g: Tensor, grid: Grid, rows: Tensor) -> dict[str, tuple[Call, Call, int]]:
    """subject -> (forward, backward, bytes kept for backward)."""
    kernels = choose(x.device, x.dtype)
    low, high, elements = grid.low, grid.high, x.numel()
    place, y = kernels.forward(x, rows, low, high, True)[1], torch.relu(x)

    def forward() -> Any:
        return kernels.forward(x, rows, low, high, True)

    result: dict[str, tuple[Call, Call, int]] = {
        "relu": (lambda: torch.relu(x), lambda: torch.ops.aten.threshold_backward(g, y, 0), elements * x.element_size()),
        "weights": (forward, lambda: kernels.slope(g, place, rows), 2 * elements),
        "cell": (forward, lambda: kernels.slope_and_rows(g, place, rows, low, high, True), 2 * elements),
    }
    if x.is_cuda and triton is not None:

        def backward_atomic() -> Any:
            slope = kernels.slope(g, place, rows)
            return slope, rows_by_atomics(g, place, grid)

        result["atomic"] = (forward, backward_atomic, 2 * elements)
    if x.element_size() == 2:
        table = TritonExact if x.is_cuda and triton is not None else Exact
        exact = table(F.silu(patterns(x.dtype, x.device.type)), torch.rand(PATTERNS, device=x.device))

        def exact_cell() -> Any:
            return exact.slope(g, x), exact.histogram(g, x)

        result["exact weights"] = (lambda: exact.forward(x), lambda: exact.slope(g, x), 2 * elements)
        result["exact cell"] = (lambda: exact.forward(x), exact_cell, 2 * elements)
    return result


def measure(shape: tuple[int, ...], name: str, device: str, repeats: int) -> list[dict[str, Any]]:
    dtype, elements = DTYPES[name], torch.Size(shape).numel()
    torch.manual_seed(0)
    x, g = torch.randn(elements, device=device).to(dtype), torch.randn(elements, device=device).to(dtype)
    grid = Grid()
    rows = grid.rows(F.silu(grid.points(device, torch.float64))[None]).float()[0].contiguous()
    calls: dict[str, Call] = {}
    subjects = halves(x, g, grid, rows)
    for subject, (forward, backward, _) in subjects.items():
        calls |= {f"{subject}|forward": forward, f"{subject}|backward": backward}
        calls[f"{subject}|full"] = lambda forward=forward, backward=backward: (forward(), backward())
    # the least that has to move: x in, y and 16 bits out; the 16 bits and g in, ∂L/∂x out
    for what, size in {"forward": 2, "backward": 2, "full": 4}.items():
        count = elements * (size * x.element_size() + size) // 2
        source = torch.empty(count, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        calls[f"copy|{what}"] = lambda source=source, target=target: target.copy_(source)
    times = timed(calls, repeats, device)
    medians = {key: statistics.median(values) for key, values in times.items()}
    found = []
    for key, values in times.items():
        subject, what = key.split("|")
        if subject == "copy":
            continue
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        found.append(
            {
                "dtype": name, "subject": subject, "baseline": "relu", "shape": "x".join(map(str, shape)), "what": what,
                "median_ms": middle, "q25_ms": low, "q75_ms": high, "repeats": len(values),
                "bytes_saved": subjects[subject][2], "ratio": middle / medians[f"relu|{what}"],
                "floor_ratio": middle / medians[f"copy|{what}"],
            }
        )  # fmt: skip
    return found


# --------------------------------------------------------------------------------------------------------- accuracy


def relative(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).abs().mean() / true.abs().mean())


def accuracy(name: str, elements: int) -> list[str]:
    """Mean absolute error over mean size of value, ∂L/∂x and ∂L/∂w, w the cell's weights, of both tables against float64."""
    dtype, grid = DTYPES[name], Grid()
    torch.manual_seed(0)
    cell = Cell()
    with torch.no_grad():
        for alpha in cell.alpha.values():
            alpha.normal_()
    weights = {slot: w.detach().double().requires_grad_() for slot, w in cell.draw(1).items()}
    gammas = {slot: gamma.detach().double() for slot, gamma in cell.gamma.items()}
    leaves = list(weights.values())
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "silu": F.silu,
        "relaxed cell": lambda x: cell.evaluate(x, weights, gammas)[0],
    }
    x, g = (2 * torch.randn(elements)).to(dtype), torch.randn(elements).to(dtype) + 0.5
    lines = []
    for title, function in functions.items():
        wanted = [] if title == "silu" else leaves

        def derivatives(y: Tensor, at: Tensor, wanted: list[Tensor] = wanted) -> list[Tensor]:
            first, *rest = torch.autograd.grad(y, [at, *wanted], g.to(y.dtype))
            return [first, torch.cat([r.flatten() for r in rest])] if rest else [first]

        wide = x.double().requires_grad_()
        true = function(wide)
        expected = [true.detach(), *derivatives(true, wide)]
        narrow = x.clone().requires_grad_()
        rows = grid.rows(function(grid.points(dtype=torch.float64))[None]).float()[0]
        y = lookup(narrow, rows, grid)
        got = {"interpolated": [y.detach(), *derivatives(y, narrow)]}
        if x.element_size() == 2:
            every = patterns(dtype, "cpu").double()
            every = torch.where(every.abs() <= 65504, every, 0.0).requires_grad_()  # beyond it a float64 cell is finite too
            values = function(every)
            (slopes,) = torch.autograd.grad(values.sum(), every, retain_graph=True)
            exact = Exact(values.detach().to(dtype), slopes.float())
            got["exact"] = [exact.forward(x), exact.slope(g, x)]
            if wanted:
                parts = torch.autograd.grad(values, wanted, exact.histogram(g, x).double())
                got["exact"].append(torch.cat([p.flatten() for p in parts]))
        for table, outputs in got.items():
            errors = [
                f"{what} {relative(a, b):.1e}" for what, a, b in zip(["value", "x", "w"], outputs, expected, strict=False)
            ]
            lines.append(f"{name} {title:12s} {table:12s} " + "  ".join(errors))
    return lines


def construction(device: str, sites: int = 19) -> str:
    """What each table costs to make: the relaxed cell of 110 candidates on its points, forward and backward."""
    torch.manual_seed(0)
    cell = Cell().to(device)
    grid = Grid()
    points = {"interpolated": grid.points(device), "exact": patterns(torch.float16, device).float().clamp(-65504, 65504)}
    calls: dict[str, Call] = {
        name: lambda x=x: cell.evaluate(torch.nan_to_num(x), cell.draw(sites)).sum().backward() for name, x in points.items()
    }
    medians = {name: statistics.median(values) for name, values in timed(calls, 3, device, count=1).items()}
    return f"making the tables of {sites} sites: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in medians.items())


# ----------------------------------------------------------------------------------------------------------- program


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(list(DTYPES)), help="Several times for several; all.")
@click.option("--repeats", default=21, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="CSV file to add the rows to.")
@click.option("--quick", is_flag=True, help="One small shape, few repeats: does it run?")
def main(device: str, dtypes: tuple[str, ...], repeats: int, out: Path | None, quick: bool) -> None:
    """Time the table's loops against ReLU and a copy, and compare them with the exact table in time and accuracy."""
    shapes, repeats = ([(8, 16, 32, 32)], 3) if quick else (SHAPES, repeats)
    fixed, rows = bench_csv.environment(device), []
    click.echo(f"{fixed['hardware']}, torch {fixed['torch']}, triton {fixed['triton'] or 'none'}, {fixed['threads']} threads")
    for name in dtypes or DTYPES:
        for shape in shapes:
            for row in measure(shape, name, device, repeats):
                rows.append(fixed | row)
                click.echo(
                    f"{name} {row['shape']:13s} {row['subject']:13s} {row['what']:8s} {row['median_ms']:8.3f} ms = "
                    f"{row['ratio']:6.2f} × relu = {row['floor_ratio']:6.2f} × copy"
                )
    click.echo(construction(device, 1 if quick else 19))
    click.echo("mean absolute error over mean size, against float64; x: 2·N(0, 1)")
    for name in dtypes or DTYPES:
        click.echo("\n".join(accuracy(name, 20_000 if quick else 500_000)))
    if out:
        bench_csv.append(out, rows)


if __name__ == "__main__":
    screen.never_die()
    main()
