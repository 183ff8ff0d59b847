"""Run a search from a recipe in a run folder; the loop is the one that users write around `ActivationSearch`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..activations import genotype as genotypes
from ..activations.genotype import Genotype
from ..activations.plots import plot_functions
from ..config.schema import Recipe, Search
from ..errors import RecipeError
from ..search.bilevel import ActivationSearch, Site
from ..search.table import Grid
from ..utils import hardware, parallel
from ..zoo.lookup import known_as, resolve
from ..zoo.nearest import nearest_known
from . import checkpoint, fitting
from .folder import RunFolder
from .levels import load_train, open_levels
from .loop import Run, Work, open_run
from .plots import plot_shrinking
from .tracking import DISABLED, Wandb
from .training import forever, has_idle_weights, make_model, paced
from .weight_step import WeightStep, accuracy, loss_of


def _check_batch(settings: Search) -> None:
    parts = parallel.world() * settings.accumulate
    if settings.batch_size % parts:
        nearest = max(round(settings.batch_size / parts), 1) * parts
        into = f"{parallel.world()} processes" + (f" of {settings.accumulate} micro-batches" if settings.accumulate > 1 else "")
        raise RecipeError(
            f"search.batch_size: {settings.batch_size} images, the batch of all processes together, do not divide into {into}; "
            f"the nearest number that does is {nearest}"
        )


def _own_weights(model: nn.Module) -> bool:
    """Return whether a site has weights of its own, such as PReLU's, which only the warm start uses."""
    return any(True for site in model.modules() if isinstance(site, Site) for _ in site.usual.parameters())


def make_search(model: nn.Module, settings: Search, compiled: bool) -> ActivationSearch:
    """Put a search around a model, as the section says; its tabulation is ``compiled`` where asked for."""
    return ActivationSearch(
        model, settings.epochs, warm_start=settings.warm_start, shrink_start=settings.shrink_start, fade=settings.fade,
        lr=settings.architecture.lr, betas=settings.architecture.betas, weight_decay=settings.architecture.weight_decay,
        wide=settings.wide, usual=resolve(settings.usual).layer if settings.usual else None,
        grid=Grid(settings.grid.low, settings.grid.high, settings.grid.intervals), compiled=compiled, guard=settings.guard,
    )  # fmt: skip


def outer_scaler(recipe: Recipe, device: str) -> torch.amp.GradScaler | None:
    """Return the loss scaler of the outer level in float16, else None."""
    return torch.amp.GradScaler(torch.device(device).type) if recipe.amp == "fp16" else None


def write_found(found: Genotype, folder: RunFolder) -> dict[str, Any]:
    """Write the genotype and the plots of a search; returns what the summary says of the function."""
    genotypes.save(found, folder.genotype_file)
    plot_functions({"found": found}, folder.plots / "function.png")
    plot_shrinking(folder.path, folder.plots / "shrinking.png")
    return {
        "formula": found.text, "genotype": found.to_dict(), "sha256": found.sha256, "known_as": known_as(found),
        "nearest": asdict(nearest_known(found)), "keeps_bound": found.bound is not None,
    }  # fmt: skip


class _Search(Work):
    """The parts of one search that a checkpoint holds, and its epochs."""

    noun = title = "search"
    has_page = True

    def __init__(self, recipe: Recipe, seed: int, device: str) -> None:
        settings = recipe.search
        super().__init__(recipe, seed, device, settings.epochs)
        _check_batch(settings)
        levels = open_levels(recipe, load_train(recipe, device), settings.architecture_fraction, settings.batch_size, seed)
        self.inner, self.outer, self.held_out = paced(levels.inner, settings.steps_per_epoch), levels.outer, levels.held_out
        compiled, why = fitting.compiles(recipe, settings.epochs * len(self.inner), device)
        self.fitted = {"compile": f"{'on' if compiled else 'off'} ({why})"}
        checkpoint.seed_all(seed)
        self.model = make_model(recipe, levels.num_classes, levels.shape, device)
        self.search = make_search(self.model, settings, compiled)
        if recipe.compile == "model":
            self.search.compile_model()
        idle = parallel.world() > 1 and (
            _own_weights(self.model) or has_idle_weights(self.model, next(self.held_out.epoch(0))[0][:2])
        )
        self.step = WeightStep(self.model, settings.weights, settings.epochs, len(self.inner), recipe.amp, idle=idle)
        self.outer_scaler = outer_scaler(recipe, device)
        self.totals, self.dropped = dict[str, float](), list[Any]()  # since the last line of the log
        self.separate_draws()

    @property
    def steps(self) -> int:
        return len(self.inner)

    def _losses(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Callable[[], Tensor]]:
        """A function for each micro-batch that runs ``network`` on it and returns its mean loss in nats."""

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            with self.step.autocast():
                return loss_of(network(images), labels)

        parts = self.recipe.search.accumulate
        return [partial(loss, *part) for part in zip(images.chunk(parts), labels.chunk(parts), strict=True)]

    def close(self) -> None:
        """Nothing to end: a search's data lie on the device."""

    def begin(self, run: Run) -> None:
        run.log(
            "start", sites=self.search.report.replaced, survivors=self.search.cell.survivors,
            steps_per_epoch=len(self.inner), processes=parallel.world(), settings=self.fitted,
        )  # fmt: skip

    def _train(self, bar: tqdm[Any]) -> dict[str, float]:
        """One epoch of outer and inner steps; mean losses in nats."""
        self.model.train()
        losses = torch.zeros(2, device=self.device)
        outer = forever(self.outer, self.epoch * len(self.inner))
        for number, inner_batch in enumerate(self.inner.epoch(self.epoch)):
            losses[1] += self.search.architecture_step(self._losses(self.model, *next(outer)), self.outer_scaler)
            losses[0] += self.step(self._losses(self.step.network, *inner_batch))
            bar.update()
            if number % 8 == 7:
                means = (losses / (number + 1)).tolist()
                bar.set_postfix(inner=f"{means[0]:.3f}", outer=f"{means[1]:.3f}", refresh=False)
        inner, outer_mean = (losses / len(self.inner)).tolist()
        return {"inner_loss": inner, "outer_loss": outer_mean}

    def run_epoch(self, run: Run) -> None:
        """One epoch; a line of the log and a checkpoint as often as the recipe says."""
        begin = time.perf_counter()
        losses = self._train(run.bar)
        self.dropped += self.search.end_epoch()
        best, survivors = self.search.genotype(), self.search.cell.survivors
        self.seconds += time.perf_counter() - begin
        self.epoch += 1
        self.totals = {key: self.totals.get(key, 0.0) + value for key, value in losses.items()}
        every = self.recipe.search.log_epochs
        if self.epoch % every and self.epoch < self.epochs:
            return
        means = {key: value / ((self.epoch - 1) % every + 1) for key, value in self.totals.items()}
        alive = sum(map(len, survivors.values()))
        state = self.state()
        run.log(
            "epoch", epoch=self.epoch, **means, alive=alive, survivors=survivors, alpha=self.search.cell.survivors_alpha,
            dropped=self.dropped, formula=best.text, genotype=best.to_dict(), outside=self.search.outside,
            skipped_outer=self.search.skipped, skipped_inner=self.step.skipped, seconds=self.seconds,
        )  # fmt: skip
        run.save(state)
        self.totals, self.dropped = {}, []
        run.bar.set_description(f"epoch {self.epoch}/{self.epochs}, {alive} alive, f(x) = {best.text}"[:110])

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch, "seconds": self.seconds,
            "model": self.model.state_dict(), "search": self.search.state_dict(), "step": self.step.state_dict(),
            "outer_scaler": self.outer_scaler.state_dict() if self.outer_scaler else {},
            "rng": parallel.gather(checkpoint.rng_state()),
        }  # fmt: skip

    def load_parts(self, state: dict[str, Any]) -> None:
        self.search.load_state_dict(state["search"])
        if self.outer_scaler:
            self.outer_scaler.load_state_dict(state["outer_scaler"])

    def result(self, folder: RunFolder) -> tuple[dict[str, Any], Genotype]:
        search, recipe, found = self.search, self.recipe, self.search.genotype()
        held_out_accuracy, held_out_loss = accuracy(self.model, self.held_out.epoch(0), self.step)
        split = "architecture split" if recipe.search.architecture_fraction else "training data, which both levels use"
        return {
            "model": recipe.model, "data": recipe.data.name, "epochs": recipe.search.epochs, **write_found(found, folder),
            "held_out_accuracy": held_out_accuracy, "held_out_loss": held_out_loss,
            "measured_on": split, "outside": search.outside,
            "skipped_outer": search.skipped, "skipped_inner": self.step.skipped, "seconds": self.seconds,
            "hardware": hardware.describe(self.device),
        }, found  # fmt: skip


def run_search(
    recipe: Recipe, out: str | Path, *, seed: int = 0, device: str = "cpu", resume: bool = False,
    wandb: Wandb = DISABLED, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Search an activation as the recipe says.

    The run folder gets log.jsonl, checkpoint.pt after each epoch and, at the end, genotype.json, plots/, report.html and
    summary.json. A finished folder is only read. Processes that torchrun started search together, data-parallel.

    Args:
        out: The run's folder: empty, new or this run's own.
        device: "cpu", "cuda" or "cuda:N".
        resume: Resume a half-done run, to the same genotype bit for bit on CPU.
        wandb: Whether and how the log is mirrored in W&B.
        quiet: Show no progress bar.

    Returns:
        The summary, as in summary.json.

    Raises:
        RunError: The folder belongs to another run, is half done and ``resume`` is false, or is in use.
        RecipeError: The recipe does not fit the model, the data or the number of processes.
    """
    facts = {"kind": "search", "seed": seed}
    with open_run(recipe, out, facts, device=device, resume=resume, wandb=wandb, quiet=quiet) as run:
        return run.summary or run.complete(_Search(run.fit(recipe.for_search), seed, run.device))
