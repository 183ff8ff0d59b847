"""A search as a run: recipe in, run folder out. The loop is the one any user writes around ActivationSearch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from . import checkpoint, formula, plots
from .data import Batches
from .recipe import Recipe
from .runs import RunFolder
from .search import ActivationSearch
from .table import Grid
from .tracking import Mode, RunLog
from .training import WeightStep, accuracy, load_data, make_batches, make_model
from .zoo import known_as, resolve


def _forever(batches: Batches, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, from batch number ``start`` on: pass p of them has the order of epoch p."""
    while True:
        turn, skip = divmod(start, len(batches))
        for index, batch in enumerate(batches.epoch(turn)):
            if index >= skip:
                yield batch
                start += 1


class _Run:
    """The parts of one search that a checkpoint holds, and the loop over them."""

    def __init__(self, recipe: Recipe, seed: int, device: str) -> None:
        settings = recipe.search
        self.recipe, self.device = recipe, device
        train_set = load_data(recipe, "train", device)
        weights_set, architecture_set = train_set.split(1 - settings.architecture_fraction, seed=seed)
        checkpoint.seed_all(seed)
        self.model = make_model(recipe, train_set, device)
        self.search = ActivationSearch(
            self.model, settings.epochs, warm_start=settings.warm_start, shrink_start=settings.shrink_start,
            lr=settings.architecture.lr, betas=settings.architecture.betas,
            weight_decay=settings.architecture.weight_decay, wide=settings.wide,
            usual=resolve(settings.usual).layer if settings.usual else None,
            grid=Grid(settings.grid.low, settings.grid.high, settings.grid.intervals),
        )  # fmt: skip
        self.inner = make_batches(recipe, weights_set, train_set, settings.batch_size, seed, train=True)
        self.outer = make_batches(recipe, architecture_set, train_set, settings.batch_size, seed + 1_000_003, train=True)
        self.held_out = make_batches(recipe, architecture_set, train_set, 256, seed, train=False)
        self.step = WeightStep(self.model, settings.weights, settings.epochs, len(self.inner), recipe.amp)
        fp16 = recipe.amp == "fp16"
        self.outer_scaler = torch.amp.GradScaler(torch.device(device).type) if fp16 else None
        self.first, self.seconds, self.log_end = 0, 0.0, 0

    def epoch(self, epoch: int, bar: tqdm[Any]) -> dict[str, float]:
        """One epoch of outer and inner steps; mean losses in nats."""
        self.model.train()
        losses = torch.zeros(2, device=self.device)
        outer = _forever(self.outer, epoch * len(self.inner))
        for number, (images, labels) in enumerate(self.inner.epoch(epoch)):
            outer_images, outer_labels = next(outer)

            def outer_loss(images: Tensor = outer_images, labels: Tensor = outer_labels) -> Tensor:
                with self.step.autocast():
                    return F.cross_entropy(self.model(images), labels)

            losses[1] += self.search.architecture_step(outer_loss, self.outer_scaler)
            with self.step.autocast():
                loss = F.cross_entropy(self.model(images), labels)
            self.step(loss)
            losses[0] += loss.detach()
            bar.update()
            if number % 8 == 7:
                means = (losses / (number + 1)).tolist()
                bar.set_postfix(inner=f"{means[0]:.3f}", outer=f"{means[1]:.3f}", refresh=False)
        inner, outer_mean = (losses / len(self.inner)).tolist()
        return {"inner_loss": inner, "outer_loss": outer_mean}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(), "search": self.search.state_dict(), "step": self.step.state_dict(),
            "outer_scaler": self.outer_scaler.state_dict() if self.outer_scaler else {}, "rng": checkpoint.rng_state(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.search.load_state_dict(state["search"])
        self.step.load_state_dict(state["step"])
        if self.outer_scaler:
            self.outer_scaler.load_state_dict(state["outer_scaler"])
        checkpoint.set_rng_state(state["rng"])
        self.first, self.seconds, self.log_end = state["epoch"], state["seconds"], state["log"]


def run_search(
    recipe: Recipe, out: str | Path, *, seed: int = 0, device: str = "cpu", resume: bool = False,
    wandb: Mode = "disabled", quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Search an activation as the recipe says; returns the summary.

    The run folder gets log.jsonl, checkpoint.pt after each epoch and, at the end, genotype.json, plots/ and summary.json.
    A finished folder is only read; a half-done one goes on with ``resume``, to the same genotype bit for bit on CPU.
    """
    facts = {"kind": "search", "seed": seed}
    folder = RunFolder.open(out, recipe, facts, resume=resume, begin=False)
    if folder.finished:
        return folder.summary()
    run = _Run(recipe, seed, device)
    if folder.half_done:
        checkpoint.restore(folder.checkpoint_file, run.load_state)
    folder.begin()
    first, seconds = run.first, run.seconds
    search, per_epoch, epochs = run.search, len(run.inner), recipe.search.epochs
    with (
        RunLog(folder.path, wandb, config={**facts, **recipe.model_dump(mode="json")}, name=folder.path.name) as log,
        tqdm(total=epochs * per_epoch, initial=first * per_epoch, disable=quiet or None, desc="search", unit="step") as bar,
    ):
        log.truncate_to(run.log_end)  # what came after the checkpoint comes again
        if first == 0:
            log.log("start", sites=search.report.replaced, survivors=search.cell.survivors, steps_per_epoch=per_epoch)
        for epoch in range(first, epochs):
            begin = time.perf_counter()
            losses = run.epoch(epoch, bar)
            dropped = search.end_epoch()
            best = search.genotype()
            seconds += time.perf_counter() - begin
            alive = sum(len(names) for names in search.cell.survivors.values())
            log.log(
                "epoch", epoch=epoch + 1, **losses, alive=alive, survivors=search.cell.survivors, dropped=dropped,
                formula=best.text, outside=search.outside, skipped_outer=search.skipped, skipped_inner=run.step.skipped,
                seconds=seconds,
            )  # fmt: skip
            bar.set_description(f"epoch {epoch + 1}/{epochs}, {alive} alive, f(x) = {best.text}"[:110])
            checkpoint.save(folder.checkpoint_file, {"epoch": epoch + 1, "seconds": seconds, "log": log.sync(), **run.state()})
        found = search.genotype()
        chosen_accuracy, _ = accuracy(run.model, run.held_out.epoch(0), run.step)
        formula.save(found, folder.genotype_file)
        plots.plot_functions({"found": found}, folder.plots / "function.png")
        plots.plot_shrinking(folder.path, folder.plots / "shrinking.png")
        summary = {
            **facts, "model": recipe.model, "data": recipe.data.name, "epochs": epochs,
            "formula": found.text, "genotype": found.to_dict(), "sha256": found.sha256,
            "known_as": known_as(found), "keeps_bound": found.bound is not None,
            "held_out_accuracy": chosen_accuracy, "outside": search.outside,
            "skipped_outer": search.skipped, "skipped_inner": run.step.skipped, "seconds": seconds,
        }  # fmt: skip
        log.summary(**{key: value for key, value in summary.items() if key != "genotype"})
        log.image("function", folder.plots / "function.png")
        folder.finish(summary)
    return summary
