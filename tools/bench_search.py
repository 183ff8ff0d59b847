"""What a search step costs, in time and memory, over a plain training step of the same model: the table and the exact cell.

    python tools/bench_search.py [--model cifar_resnet20] [--batch 128] [--device cuda] [--out benchmarks/search_cpu.csv]

Times: all sides in one process, a step of each in turn, medians, so that a machine's mood meets all of them. Peak memory: each
side in a process of its own. The exact cell keeps every candidate's output and runs at a smaller batch, beside a plain step of
that size. The floor is what any first-order method with these levels pays: a plain step and an architecture step whose
activation costs what the default one does.

    python tools/bench_search.py --whole resnet_cifar10 --data path/to/cifar10

measures epochs of a search and of a training from scratch through the package's own runs, data and augmentation included, and
extrapolates both to the recipe's lengths.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_csv
import click
import timm
import torch
from torch import Tensor, nn

import grafs_timm
from grafs_timm.cli import screen
from grafs_timm.models import gpt_models
from grafs_timm.models.surgery import find_sites
from grafs_timm.runs.weight_step import loss_of
from grafs_timm.search.sites import Mode

FEW = 12  # candidates of the small side
VOCABULARY = 512  # of the GPTs
_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Side:
    """One model in training, with or without a search around it."""

    def __init__(self, settings: dict[str, Any], kind: str, batch: int) -> None:
        torch.manual_seed(0)
        device, self.dtype = settings["device"], _DTYPES[settings["amp"]]
        self.device = torch.device(device)
        size, of_text = settings["size"], settings["model"] in gpt_models.SIZES
        of_data = {"vocab_size": VOCABULARY, "context": size} if of_text else {"num_classes": 10}
        model: nn.Module = timm.create_model(settings["model"], **of_data | settings["model_kwargs"]).to(device)
        layout = torch.channels_last if settings["channels_last"] else torch.contiguous_format
        self.model = model.to(memory_format=layout)  # type: ignore[call-overload]
        if of_text:
            self.x, self.y = torch.randint(VOCABULARY, (2, batch, size), device=device)
        else:
            self.x = torch.randn(batch, 3, size, size, device=device).to(memory_format=layout)
            self.y = torch.randint(10, (batch,), device=device)
        self.search = None
        if kind != "plain":
            exact = kind == "exact"
            self.search = grafs_timm.ActivationSearch(self.model, 50, warm_start=0, exact=exact, compiled=not exact)
            while kind == "few" and self.search.cell.drops_left > FEW - 6:
                self.search.cell.drop()
        if settings["compile_model"]:
            self.model.forward = torch.compile(self.model.forward)  # type: ignore[method-assign]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def loss(self) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            return loss_of(self.model(self.x), self.y)

    def inner(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def outer(self) -> None:
        assert self.search is not None
        self.search.architecture_step(self.loss)

    def step(self) -> None:
        if self.search is not None:
            self.outer()
        self.inner()

    def floor(self) -> None:
        """The plain model's forward and the half of backward that an architecture step needs, down to the first site."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        _, parent, attribute, _ = next(iter(find_sites(self.model)))
        first = getattr(parent, attribute)
        hook = first.register_forward_hook(lambda module, args, out: out.detach().requires_grad_())
        for p in weights:
            p.requires_grad_(False)
        self.loss().backward()
        for p in weights:
            p.requires_grad_(True)
        hook.remove()

    def table(self, gradients: bool) -> Callable[[], None]:
        """Draws and tables of all sites, as the outer level makes them (with backward) or the inner one."""
        assert self.search is not None
        board = self.search._board

        def build() -> None:
            board.mode, board.freeze = Mode.INNER, (lambda module: None) if gradients else None
            drawn = board.draw(training=True)
            board.freeze = None
            if gradients:
                torch.stack(drawn.rows)[:, 1:-4].sum().backward()

        return build


# ------------------------------------------------------------------------------------------------------------ time


def times(settings: dict[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Rows of one model: every side's step, and the parts of the default one."""
    batch = settings["batch"]
    plain, search, few = (Side(settings, kind, batch) for kind in ("plain", "search", "few"))
    sides = {
        "plain step": plain.step, "search step, 110 candidates": search.step, f"search step, {FEW} candidates": few.step,
        "architecture step": search.outer, "weight step": search.inner,
        "tables of an architecture step": search.table(True), "tables of a weight step": search.table(False),
    }  # fmt: skip
    if not settings["compile_model"]:
        sides["floor of an architecture step"] = plain.floor
    rows = _measured(settings, sides, "plain step", rounds, batch)
    if settings["exact_batch"]:
        size = settings["exact_batch"]
        pair = {"plain step": Side(settings, "plain", size).step, "search step, exact cell": Side(settings, "exact", size).step}
        rows += _measured(settings, pair, "plain step", 3, size)
    return rows


def _measured(
    settings: dict[str, Any], sides: dict[str, Callable[[], None]], baseline: str, rounds: int, batch: int
) -> list[dict[str, Any]]:
    results = bench_csv.alternate(sides, rounds, settings["device"])
    base = results[baseline]["median_ms"]
    common = {**_common(settings, batch), "baseline": baseline, "what": "full"}
    return [
        {
            **common,
            "subject": name,
            "ratio": round(result["median_ms"] / base, 4),
            **{k: round(v, 4) for k, v in result.items()},
        }
        for name, result in results.items()
    ]


def _common(settings: dict[str, Any], batch: int) -> dict[str, Any]:
    size, dtype = settings["size"], {"off": "float32"}.get(settings["amp"], settings["amp"])
    layout = " channels_last" * settings["channels_last"] + " compiled" * settings["compile_model"]
    sides = f"{batch}x{size}" if settings["model"] in gpt_models.SIZES else f"{batch}x3x{size}x{size}"
    shape = f"{settings['model']} {sides}{layout}"
    return {**bench_csv.environment(settings["device"]), "dtype": dtype, "shape": shape}


# ---------------------------------------------------------------------------------------------------------- memory


def status(field: str) -> int:
    """A line of this process's memory account, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    line = next(line for line in lines if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def peak(settings: dict[str, Any], kind: str, batch: int, steps: int = 3) -> int:
    """Bytes that a few steps add to this process's peak, what compiling took left out."""
    side, cuda = Side(settings, kind, batch), settings["device"] == "cuda"
    _warm(side)
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = status("VmRSS")
    for _ in range(steps):
        side.step()
    return (torch.cuda.max_memory_allocated() if cuda else status("VmHWM")) - before


def _warm(side: Side) -> None:
    """Compile what will be compiled, start threads and allocators: a step at a batch of two."""
    whole = side.x, side.y
    side.x, side.y = side.x[:2], side.y[:2]
    side.step()
    side.optimizer.zero_grad()
    side.x, side.y = whole


def memory(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Peak memory of each side over the plain step's, each in a process of its own."""
    rows = []
    pairs = [("search", "search step, 110 candidates", settings["batch"])]
    if settings["exact_batch"]:
        pairs.append(("exact", "search step, exact cell", settings["exact_batch"]))
    for kind, subject, batch in pairs:
        plain, searching = (_in_a_process(settings, side, batch) for side in ("plain", kind))
        common = {**_common(settings, batch), "what": "peak memory", "baseline": "plain step", "repeats": 1}
        rows.append({**common, "subject": "plain step", "bytes_saved": plain, "ratio": 1.0})
        rows.append({**common, "subject": subject, "bytes_saved": searching, "ratio": round(searching / plain, 4)})
    return rows


def _in_a_process(settings: dict[str, Any], kind: str, batch: int) -> int:
    command = [sys.executable, __file__, "--peak-of", json.dumps([settings, kind, batch])]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env={**os.environ})
    if done.returncode:
        raise click.ClickException(f"{kind} at batch {batch}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    return int(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------------- a whole search


def whole(recipe_name: str, data: str, images: int, device: str) -> list[dict[str, Any]]:
    """A search over a training from scratch, at the recipe's lengths, from measured epochs of both."""
    from grafs_timm.config.recipe import load_recipe
    from grafs_timm.runs.run_search import run_search
    from grafs_timm.runs.run_training import run_training
    from grafs_timm.runs.tracking import read_log

    recipe = load_recipe(recipe_name)
    epochs, trained = recipe.search.epochs, recipe.evaluate.epochs
    short = load_recipe(
        recipe_name,
        [f"data.name={data}", f"data.train_images={images}", "data.test_images=1000", "search.epochs=6", "search.warm_start=1",
         "search.shrink_start=2", "evaluate.epochs=4", "search.weights.sched=none", "evaluate.weights.sched=none"],
    )  # fmt: skip
    searching: list[float] = []
    training: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(2):
            run_search(short, Path(folder) / f"s{turn}", seed=turn, device=device, quiet=True)
            run_training(short, "relu", Path(folder) / f"t{turn}", seed=turn, device=device, quiet=True)
            ends = [line["seconds"] for line in read_log(Path(folder) / f"s{turn}") if line["kind"] == "epoch"]
            searching += [b - a for a, b in itertools.pairwise(ends[1:])]  # relaxed epochs that compile nothing
            training += [line["seconds"] for line in read_log(Path(folder) / f"t{turn}") if line["kind"] == "epoch"][1:]
    common = {
        **bench_csv.environment(device), "dtype": "float32", "shape": f"{recipe.model} {images} images an epoch",
        "baseline": "training epoch",
    }  # fmt: skip
    sides = {"search epoch": bench_csv.summary([t * 1e3 for t in searching])}
    sides["training epoch"] = bench_csv.summary([t * 1e3 for t in training])
    ratio = sides["search epoch"]["median_ms"] / sides["training epoch"]["median_ms"]
    rows = [
        {**common, "subject": "training epoch", "what": "epoch", **sides["training epoch"], "ratio": 1.0},
        {**common, "subject": "search epoch", "what": "epoch", **sides["search epoch"], "ratio": round(ratio, 4)},
    ]
    subject = f"search of {epochs} epochs over training of {trained}, extrapolated"
    return [*rows, {**common, "subject": subject, "what": "whole", "ratio": round(ratio * epochs / trained, 4)}]


@click.command()
@click.option("--model", default="cifar_resnet20", show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--size", default=32, show_default=True, help="Pixels of an image's side, or tokens of a window.")
@click.option("--model-kwargs", default="{}", help="JSON for timm.create_model.")
@click.option("--exact-batch", default=0, show_default=True, help="Batch of the exact cell; 0 leaves it out.")
@click.option("--rounds", default=9, show_default=True, help="Timed steps of each side.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--amp", type=click.Choice(list(_DTYPES)), default="off", show_default=True)
@click.option("--channels-last", is_flag=True)
@click.option("--compile-model", is_flag=True, help="torch.compile the model on both sides.")
@click.option("--whole", "recipe", help="Measure epochs of this recipe instead, and extrapolate to its lengths.")
@click.option("--data", default="cifar10", show_default=True, help="Data of --whole.")
@click.option("--images", default=5000, show_default=True, help="Images an epoch of --whole.")
@click.option("--out", type=click.Path(path_type=Path), help="Append the rows to this CSV file.")
@click.option("--peak-of", hidden=True)
def main(
    recipe: str | None, data: str, images: int, out: Path | None, peak_of: str | None, rounds: int, **settings: Any
) -> None:  # fmt: skip
    """Print, and keep, what a search step costs in plain steps."""
    if peak_of:
        click.echo(peak(*json.loads(peak_of)))
        return
    settings["model_kwargs"] = json.loads(settings["model_kwargs"])
    rows = whole(recipe, data, images, settings["device"]) if recipe else times(settings, rounds) + memory(settings)
    for row in rows:
        size = f"{row['bytes_saved'] / 2**20:8.0f} MiB" if row.get("bytes_saved") else f"{row.get('median_ms', 0):9.1f} ms "
        click.echo(f"{row['shape']:32s} {row['what']:12s} {row['subject']:52s} {size}  {row['ratio']:6.3f} × {row['baseline']}")
    if out:
        bench_csv.append(out, rows)


if __name__ == "__main__":
    screen.never_die()
    main()
