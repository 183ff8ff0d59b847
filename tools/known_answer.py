"""A problem with a known answer, searched through the table and through the exact cell: do they find the same functions?

    python tools/known_answer.py --out benchmarks/exact_and_table.csv

A frozen teacher (8 → 16 → 8, no biases) computes with an activation of the search space; a student of the same shape with
weights of its own is searched on the teacher's outputs. For each seed the same data, initialisation and order, once with the
tabulated and once with the exact cell. The two searches part ways as any two with other rounding do, so what is compared is
the distribution over seeds: of the found functions' distance to the teacher's, and of the last loss.
"""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from grafs_timm.activations.genotype import Gene, Genotype
from grafs_timm.activations.similarity import distance
from grafs_timm.search.bilevel import ActivationSearch


def genotype(u1: str, u2: str, b1: str, u3: str, u4: str, b2: str) -> Genotype:
    return Genotype(*(Gene(op) for op in (u1, u2, b1, u3, u4, b2)))


TEACHERS = {
    "x·tanh(x)": genotype("identity", "tanh", "mul", "identity", "identity", "left"),
    "ReLU(x)²": genotype("relu", "identity", "left", "square", "identity", "left"),
}


def network(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16, bias=False), activation, nn.Linear(16, 8, bias=False))


class Wrapped(nn.Module):
    def __init__(self, function: Genotype) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def search(
    teacher_function: Genotype, seed: int, epochs: int = 90, steps: int = 60, size: int = 256, exact: bool = False
) -> tuple[Genotype, float]:
    """(the found genotype, the mean architecture loss of the last epoch) of one search."""
    torch.manual_seed(1000 + seed)
    teacher = network(Wrapped(teacher_function)).requires_grad_(False)
    for layer in (teacher[0], teacher[2]):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    x = torch.randn(20_000, 8)
    y = teacher(x)
    y = y / y.std(0)
    torch.manual_seed(seed)
    student = network(nn.ReLU())
    activation_search = ActivationSearch(student, epochs, warm_start=0, shrink_start=epochs // 3, lr=1e-2, exact=exact)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for _ in range(epochs):
        losses = []
        for _ in range(steps):
            outer, inner = torch.randint(15_000, 20_000, (size,)), torch.randint(15_000, (size,))
            losses.append(float(activation_search.architecture_step(lambda i=outer: F.mse_loss(student(x[i]), y[i]))))
            loss = F.mse_loss(student(x[inner]), y[inner])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        activation_search.end_epoch()
    return activation_search.genotype(), statistics.mean(losses)


@click.command()
@click.option("--teacher", type=click.Choice(list(TEACHERS)), default="x·tanh(x)", show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--epochs", default=90, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Append a row for each search to this CSV file.")
def main(teacher: str, seeds: int, epochs: int, out: Path | None) -> None:
    """Print what the tabulated and the exact cell find, seed by seed, and how their distributions compare."""
    rows, answer = [], TEACHERS[teacher]
    for seed in range(seeds):
        for cell in ("table", "exact"):
            found, loss = search(answer, seed, epochs, exact=cell == "exact")
            row = {"teacher": teacher, "epochs": epochs, "seed": seed, "cell": cell, "loss": round(loss, 6)}
            rows.append({**row, "distance": round(distance(found, answer), 4), "formula": found.text})
            click.echo("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    for what in ("distance", "loss"):
        table, exact = ([row[what] for row in rows if row["cell"] == cell] for cell in ("table", "exact"))
        p = stats.mannwhitneyu(table, exact).pvalue
        click.echo(
            f"{what}: table median {statistics.median(table)}, exact {statistics.median(exact)}; Mann-Whitney p = {p:.2f}"
        )
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = not out.exists()
        with out.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            if new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
