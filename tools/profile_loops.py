"""How many cycles an element takes in the loops of a found function and of a search, with data in the cache and beyond it.

    python tools/profile_loops.py [--out benchmarks/loops_cpu.csv]
    ATEN_CPU_CAPABILITY=avx2 python tools/profile_loops.py

One thread calls the C++ loops without autograd. Cycles are those of the processor's time stamp counter at the rate that
/proc/cpuinfo gives, not of its clock at the moment; a copy of the same tensor stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from bench_activation import FORMULAS
from bench_csv import alternate, append, environment, repeated
from torch import Tensor

from grafs_timm.activations.curve import curve_of
from grafs_timm.kernels import cpu
from grafs_timm.search.table import Grid

SIZES = {"in the cache": 2**16, "in memory": 2**24}


def rate() -> float:
    """Cycles a nanosecond of the time stamp counter."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")) / 1e3


def loops(dtype: torch.dtype, count: int) -> dict[str, Callable[[], Any]]:
    """The loops over ``count`` elements of N(0, 1)."""
    torch.manual_seed(0)
    x, g = torch.randn(count).to(dtype), torch.randn(count).to(dtype)
    target = torch.empty_like(x)
    sides: dict[str, Callable[[], Any]] = {"copy": lambda: target.copy_(x)}
    for name, formula in FORMULAS.items():
        curve = curve_of(formula, dtype)
        sides |= {f"{name}, f": lambda c=curve: cpu.curve(x, None, c), f"{name}, g·f′": lambda c=curve: cpu.curve(x, g, c)}
    return sides | _of_a_search(x, g)


def _of_a_search(x: Tensor, g: Tensor) -> dict[str, Callable[[], Any]]:
    grid = Grid()
    rows = grid.rows(torch.nn.functional.gelu(grid.points())[None])[0].contiguous()
    _, place, _ = cpu.forward(x, rows, grid.low, grid.high, True)
    return {
        "search, f": lambda: cpu.forward(x, rows, grid.low, grid.high, True),
        "search, g·f′": lambda: cpu.slope(g, place, rows),
        "search, g·f′ and the table's gradient": lambda: cpu.slope_and_rows(g, place, rows, grid.low, grid.high, True),
    }


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Append the rows to this CSV file.")
@click.option("--quick", is_flag=True, help="A smoke test: one round, no tensor beyond the cache.")
def main(rounds: int, out: str | None, quick: bool) -> None:
    """Print and record cycles an element, with quartiles, and ratios to a copy."""
    torch.set_num_threads(1)
    rows = []
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            for where, count in SIZES.items() if not quick else [("in the cache", 2**10)]:
                rows += _measure(loops(dtype, count), dtype, where, count, 1 if quick else rounds)
    if out:
        append(out, [environment("cpu") | row for row in rows])


def _measure(
    sides: dict[str, Callable[[], Any]], dtype: torch.dtype, where: str, count: int, rounds: int
) -> list[dict[str, Any]]:
    repeats = max(1, 2**21 // count)
    rows = []
    times = alternate({name: repeated(side, repeats) for name, side in sides.items()}, rounds)
    for name, time in times.items():
        cycles = {key: value * 1e6 / (repeats * count) * rate() for key, value in time.items() if key != "repeats"}
        click.echo(
            f"{dtype!s:14s} {where:13s} {name:40s} {cycles['median_ms']:6.2f} cycles an element "
            f"({cycles['q25_ms']:.2f}–{cycles['q75_ms']:.2f})"
        )
        row = {"dtype": str(dtype).removeprefix("torch."), "subject": name, "baseline": "copy", "shape": count}
        each = {key: value if key == "repeats" else round(value / repeats, 6) for key, value in time.items()}
        rows.append(row | {"what": where, "ratio": f"{time['median_ms'] / times['copy']['median_ms']:.3f}"} | each)
    return rows


if __name__ == "__main__":
    main()
