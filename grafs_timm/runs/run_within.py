"""Train a model and search its activation in the first part of the same training, in a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.activation import activation_class
from ..activations.genotype import Genotype
from ..config.schema import Recipe, SearchWithin
from ..errors import RecipeError
from ..models.surgery import Report
from ..search.bilevel import ActivationSearch
from ..search.wiring import release
from ..utils import parallel
from ..zoo.lookup import resolve
from . import fitting
from .folder import RunFolder
from .levels import open_levels
from .loop import Run, open_run
from .plots import plot_alpha, plot_forming
from .run_search import make_search, outer_scaler, write_found
from .run_training import Training
from .tracking import DISABLED, Wandb
from .training import forever, paced


class TrainingWithSearch(Training):
    """A training whose first epochs are those of a search.

    Each step of these epochs is an architecture step on a batch of one share of the data and a weight step on one of the rest.
    An epoch has as many steps as later, so that the learning rate's schedule is that of the plain training.

    Attributes:
        search: None once it has ended.
        genotype: What it found.
    """

    has_page = True

    def __init__(self, recipe: Recipe, seed: int, device: str) -> None:
        self.within = (recipe.search_within or SearchWithin()).resolved(recipe.evaluate.epochs)
        assert self.within.epochs is not None
        self.search_epochs: int = self.within.epochs
        self.search: ActivationSearch | None = None
        self.genotype: Genotype | None = None
        super().__init__(recipe, resolve(recipe.search.usual or "relu"), seed, device)
        if self.feeds.train_set is None:
            raise RecipeError("data.loading: a search keeps its images on the device; give data.train_images, or loading: auto")
        size, steps = recipe.evaluate.batch_size, len(self.feeds.train)
        levels = open_levels(recipe, self.feeds.train_set, self.within.architecture_fraction, size, seed)
        self.inner, self.outer = paced(levels.inner, steps), levels.outer
        self.outer_scaler = outer_scaler(recipe, device)
        self.outer_total = torch.zeros((), device=device)  # the losses of the epoch under way

    @property
    def title(self) -> str:
        return f"search and training, seed {self.seed}"

    def put_activation(self) -> Report:
        compiled, why = fitting.compiles(self.recipe, self.search_epochs * len(self.feeds.train), self.device)
        self.fitted = {"compile": f"{'on' if compiled else 'off'} ({why})"}
        plan = {key: getattr(self.within, key) for key in ("epochs", "warm_start", "shrink_start", "fade")}
        self.search = make_search(self.model, self.recipe.search.model_copy(update=plan), compiled)
        return self.search.report

    def compile_model(self) -> None:
        assert self.search is not None
        self.search.compile_model()

    def begin(self, run: Run) -> None:
        assert self.search is not None
        run.log(
            "start", sites=self.search.report.replaced, survivors=self.search.cell.survivors, search_epochs=self.search_epochs,
            steps_per_epoch=self.steps, processes=parallel.world(), settings=self.fitted,
        )  # fmt: skip

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.search is None:
            return super().batches()
        self._outer_batches = forever(self.outer, self.epoch * self.steps + self.done)
        return self.inner.epoch(self.epoch, self.done)

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        if self.search is not None:
            outer = self.prepared(*next(self._outer_batches))
            self.outer_total += self.search.architecture_step(self.losses(self.model, *outer), self.outer_scaler)
        super().train_step(images, labels)

    def end_epoch(self) -> dict[str, Any]:
        """Drop candidates; after the last epoch of the search, put in what it found."""
        if self.search is None:
            return {"phase": "train"}
        search, dropped = self.search, self.search.end_epoch()
        best, survivors = search.genotype(), search.cell.survivors
        values = {
            "phase": "search", "outer_loss": float(self.outer_total) / self.steps, "survivors": survivors,
            "alpha": search.cell.survivors_alpha, "alive": sum(map(len, survivors.values())), "dropped": dropped,
            "formula": best.text, "genotype": best.to_dict(), "outside": search.outside, "skipped_outer": search.skipped,
        }  # fmt: skip
        self.outer_total.zero_()
        if self.epoch + 1 == self.search_epochs:
            self.genotype, self.search = search.finish(*self._copies), None
        return values

    @property
    def _copies(self) -> list[nn.Module]:
        return [self.ema.module] if self.ema else []

    def state(self) -> dict[str, Any]:
        return super().state() | {
            "search": self.search.state_dict() if self.search else None,
            "genotype": self.genotype.to_dict() if self.genotype else None,
            "outer_total": self.outer_total, "outer_scaler": self.outer_scaler.state_dict() if self.outer_scaler else {},
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        if state["genotype"] is not None:
            self.genotype, self.search = Genotype.from_dict(state["genotype"]), None
            for model in (self.model, *self._copies):
                release(model, activation_class(self.genotype))
        super().load_state(state)

    def load_parts(self, state: dict[str, Any]) -> None:
        super().load_parts(state)
        if self.search:
            self.search.load_state_dict(state["search"])
        self.outer_total.copy_(state["outer_total"])
        if self.outer_scaler:
            self.outer_scaler.load_state_dict(state["outer_scaler"])

    def result(self, folder: RunFolder) -> tuple[dict[str, Any], Genotype | nn.Module]:
        found = self.genotype
        assert found is not None
        self.found = resolve(found)
        values, _ = super().result(folder)
        more = write_found(found, folder)
        plot_forming(folder.path, folder.plots / "forming.png")
        plot_alpha(folder.path, folder.plots / "alpha.png")
        return values | more | {"search_epochs": self.search_epochs}, found


def run_within(
    recipe: Recipe, out: str | Path, *, seed: int = 0, device: str = "cpu", resume: bool = False,
    wandb: Wandb = DISABLED, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train the recipe's model and search its activation in the first epochs, as ``search_within`` says.

    The run folder gets what a training and a search write: log.jsonl, checkpoint.pt, weights/ with the found activation,
    genotype.json, plots/, report.html and summary.json. A finished folder is only read. Processes that torchrun started train
    together.

    Args:
        out: The run's folder: empty, new or this run's own.
        device: "cpu", "cuda" or "cuda:N".
        resume: Resume a half-done run, to the same weights bit for bit on CPU.
        wandb: Whether and how the log is mirrored in W&B.
        quiet: Show no progress bar.

    Returns:
        The summary, as in summary.json.

    Raises:
        RunError: The folder belongs to another run, is half done and ``resume`` is false, or is in use; or memory ran out.
        RecipeError: The recipe does not fit the model, the data or the number of processes.
    """
    facts = {"kind": "search_within", "seed": seed}
    with open_run(recipe, out, facts, device=device, resume=resume, wandb=wandb, quiet=quiet) as run:
        return run.summary or run.complete(TrainingWithSearch(run.fit(recipe), seed, run.device))
