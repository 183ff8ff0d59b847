"""What an activation costs in 16-bit inference on a CPU, by its table of 65,536 entries and without, beside GELU.

    python tools/bench_deploy.py --out benchmarks/deploy_cpu.csv

All sides of one shape are timed in alternating rounds of one run; a ratio is a median over the baseline's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import torch
import torch.nn.functional as F
from bench_activation import FORMULAS
from bench_csv import alternate, append, environment, repeated

from grafs_timm.activations.activation import activation_class


def sixteen_bits(dtype: torch.dtype, elements: int) -> dict[str, Callable[[], Any]]:
    """The sides of 16-bit inference: torch's own, and each formula by polynomials and by the table."""
    x = torch.randn(elements).to(dtype)
    sides: dict[str, Callable[[], Any]] = {"gelu": lambda: F.gelu(x), "relu": lambda: F.relu(x)}
    for name in ("asinh_gated_gelu", "silu_gated"):
        with_table, without = activation_class(FORMULAS[name])(table=True), activation_class(FORMULAS[name])()
        sides |= {f"{name} table": lambda f=with_table: f(x), f"{name} without": lambda f=without: f(x)}
    return sides


def measure(
    sides: dict[str, Callable[[], Any]], baseline: str, rounds: int, shape: int, dtype: str, what: str
) -> list[dict[str, Any]]:
    """Time the sides, print them, and return the rows of the CSV."""
    repeats = max(1, 2**18 // shape)
    times = alternate({name: repeated(side, repeats) for name, side in sides.items()}, rounds)
    rows = []
    for name, time in times.items():
        each = {key: value if key == "repeats" else round(value / repeats, 5) for key, value in time.items()}
        ratio = time["median_ms"] / times[baseline]["median_ms"]
        click.echo(
            f"{what:18s} {dtype:9s} {shape:8d} {name:26s} {each['median_ms']:9.4f} ms "
            f"({each['q25_ms']:.4f}–{each['q75_ms']:.4f})  {ratio:5.2f} × {baseline}"
        )
        row = {"dtype": dtype, "subject": name, "baseline": baseline, "shape": shape, "what": what, "ratio": f"{ratio:.3f}"}
        rows.append(row | each)
    return rows


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Append the rows to this CSV file.")
@click.option("--quick", is_flag=True, help="A smoke test: few elements, one round.")
def main(rounds: int, out: str | None, quick: bool) -> None:
    """Print and record medians with quartiles, and ratios to the baseline of the same run."""
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float16):
            for elements in (2**10,) if quick else (2**12, 2**16, 2**20, 2**22):
                sides, name = sixteen_bits(dtype, elements), str(dtype).removeprefix("torch.")
                rows += measure(sides, "gelu", 1 if quick else rounds, elements, name, "forward, inference")
    if out:
        append(out, [environment("cpu") | row for row in rows])


if __name__ == "__main__":
    main()
