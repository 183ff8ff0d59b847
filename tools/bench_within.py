"""What a training with the search inside costs over the plain training of the same length, in time and memory.

    python tools/bench_within.py --data path/to/cifar10 --out benchmarks/within_cpu.csv

Both trainings run in one process, an epoch of each in turn, through the package's own runs, data and augmentation included;
measuring the model is left out, since both do the same. Peak memory: each in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bench_csv
import click
from bench_search import status

from grafs_timm.config.recipe import load_recipe
from grafs_timm.config.schema import Recipe
from grafs_timm.runs import fitting
from grafs_timm.runs.run_training import Training
from grafs_timm.runs.run_within import TrainingWithSearch
from grafs_timm.zoo.lookup import resolve


def made(recipe: Recipe, side: str) -> Training:
    """One of the two trainings, ready for its first epoch."""
    recipe, _ = fitting.fit(recipe, "cpu")
    return TrainingWithSearch(recipe, 0, "cpu") if side == "within" else Training(recipe, resolve("relu"), 0, "cpu")


def epoch(work: Training) -> float:
    """Seconds of an epoch's steps, and of what ends it."""
    begin = time.perf_counter()
    work.model.train()
    for images, labels in work.batches():
        work.train_step(images, labels)
    work.end_epoch()
    work.epoch, work.done = work.epoch + 1, 0
    return time.perf_counter() - begin


def times(recipe: Recipe) -> list[dict[str, Any]]:
    """Rows of both whole trainings, and of a search epoch and a later one over a plain epoch."""
    within, plain = made(recipe, "within"), made(recipe, "plain")
    assert isinstance(within, TrainingWithSearch)
    spent: dict[str, list[float]] = {"within": [], "plain": []}
    for number in range(recipe.evaluate.epochs):
        for name, work in (("within", within), ("plain", plain))[:: 1 if number % 2 else -1]:
            spent[name].append(epoch(work) * 1e3)
            click.echo(f"epoch {number + 1} {name:8s} {spent[name][-1]:9.0f} ms")
    cut = within.search_epochs
    parts = {
        "plain epoch": spent["plain"], "epoch with search": spent["within"][:cut],
        "epoch after the search": spent["within"][cut:],
    }  # fmt: skip
    results = {name: bench_csv.summary(values) for name, values in parts.items()}
    base = results["plain epoch"]["median_ms"]
    rows = [
        {"subject": name, "what": "epoch", "ratio": round(result["median_ms"] / base, 4)}
        | {k: round(v, 2) for k, v in result.items()}
        for name, result in results.items()
    ]
    whole = sum(spent["within"]) / sum(spent["plain"])
    return [*rows, {"subject": "training with search", "what": "whole", "ratio": round(whole, 4), "repeats": 1}]


def memory(options: list[str]) -> list[dict[str, Any]]:
    """Rows of the peak memory of each side, with libraries and data."""
    peaks = {}
    for side in ("plain", "within"):
        command = [sys.executable, __file__, *options, "--peak-of", side]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True)
        peaks[side] = int(done.stdout.splitlines()[-1])
    return [
        {"subject": side, "what": "peak memory", "bytes_saved": size, "ratio": round(size / peaks["plain"], 4), "repeats": 1}
        for side, size in peaks.items()
    ]


@click.command()
@click.option("--recipe", "name", default="resnet_cifar10", show_default=True)
@click.option("--data", default="cifar10", show_default=True)
@click.option("--images", default=2560, show_default=True, help="Training images of an epoch.")
@click.option("--epochs", default=16, show_default=True)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the recipe.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the rows to this CSV file.")
@click.option("--peak-of", type=click.Choice(["plain", "within"]), hidden=True)
def main(
    name: str, data: str, images: int, epochs: int, changes: tuple[str, ...], out: Path | None, peak_of: str | None
) -> None:  # fmt: skip
    """Print and record the ratios to the plain training."""
    own = [
        f"data.name={data}", f"data.train_images={images}", "data.test_images=256", f"evaluate.epochs={epochs}",
        "evaluate.weights.sched=cosine", *changes,
    ]  # fmt: skip
    recipe = load_recipe(name, own)
    if peak_of:
        work = made(recipe, peak_of)
        epoch(work)
        click.echo(status("VmHWM"))
        return
    options = ["--recipe", name, "--data", data, "--images", str(images), "--epochs", str(epochs)]
    rows = times(recipe) + memory(options + [each for change in changes for each in ("--set", change)])
    common = bench_csv.environment("cpu") | {
        "dtype": "float32",
        "baseline": "plain",
        "shape": f"{recipe.model} {images} images",
    }
    for row in rows:
        click.echo(f"{row['what']:12s} {row['subject']:24s} {row['ratio']:6.3f} × plain")
    if out:
        bench_csv.append(out, [common | row for row in rows])


if __name__ == "__main__":
    main()
