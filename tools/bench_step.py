"""What a whole training step costs with a found function, beside the same step with GELU, ReLU and SiLU.

    python tools/bench_step.py --out benchmarks/step_cpu.csv
    python tools/bench_step.py --model cifar_vit_tiny --batch 128 --amp --out benchmarks/step_cpu.csv

Forward, backward and the optimiser's step of one model that differs in its activation alone. All sides of a run are timed in
alternating rounds; a ratio is a median over GELU's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import timm
import torch
from bench_activation import FORMULAS
from bench_csv import alternate, append, environment

import grafs_timm  # noqa: F401  registers the zoo's names
from grafs_timm.activations.activation import activation_class
from grafs_timm.models import small_models  # noqa: F401  registers the small models of the paper
from grafs_timm.runs.weight_step import loss_of

USUAL: dict[str, Any] = {"gelu": "gelu", "relu": "relu", "silu": "silu"}


def step_of(model: str, act_layer: Any, batch: int, size: int, channels_last: bool, amp: bool) -> Callable[[], None]:
    """A training step of a new model on one batch of random images, [batch, 3, size, size]."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = timm.create_model(model, num_classes=10, act_layer=act_layer).to(memory_format=layout)
    x, y = torch.randn(batch, 3, size, size).to(memory_format=layout), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = loss_of(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


@click.command()
@click.option("--model", default="cifar_resnet20", show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--size", default=32, show_default=True, help="Pixels a side.")
@click.option("--channels-last", is_flag=True)
@click.option("--amp", is_flag=True, help="bfloat16 autocast.")
@click.option("--zoo", "names", multiple=True, default=["grafs_resnet"], show_default=True, help="Names of the zoo.")
@click.option("--rounds", default=11, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Append the rows to this CSV file.")
@click.option("--quick", is_flag=True, help="A smoke test: a small batch, one formula, one round.")
def main(
    model: str, batch: int, size: int, channels_last: bool, amp: bool, names: tuple[str, ...], rounds: int, out: str | None,
    quick: bool,
) -> None:  # fmt: skip
    """Print and record medians with quartiles, and ratios to the step with GELU."""
    batch, rounds = (2, 1) if quick else (batch, rounds)
    found = {name: activation_class(FORMULAS[name]) for name in list(FORMULAS)[: 1 if quick else None]}
    layers = USUAL | found | {name: name for name in names}
    sides = {name: step_of(model, layer, batch, size, channels_last, amp) for name, layer in layers.items()}
    shape = f"{model} {batch}x3x{size}x{size}" + " channels_last" * channels_last
    rows = []
    times = alternate(sides, rounds)
    for name, time in times.items():
        ratio = time["median_ms"] / times["gelu"]["median_ms"]
        click.echo(f"{name:26s} {time['median_ms']:9.2f} ms ({time['q25_ms']:.2f}–{time['q75_ms']:.2f})  {ratio:5.3f} × gelu")
        row = {"dtype": "bfloat16 autocast" if amp else "float32", "subject": name, "baseline": "gelu", "shape": shape}
        rows.append(row | {"what": "training step", "ratio": f"{ratio:.4f}"} | {k: round(v, 4) for k, v in time.items()})
    if out:
        append(out, [environment("cpu") | row for row in rows])


if __name__ == "__main__":
    main()
