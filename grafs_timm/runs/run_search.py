"""A search as a run: recipe in, run folder out. The loop is the one any user writes around ActivationSearch."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..activations import formula
from ..activations.plots import plot_functions
from ..config.settings import ImageData, Recipe, Search, TextData
from ..data.text import TextBatches
from ..errors import GrafsWarning, RecipeError
from ..search.bilevel import ActivationSearch, Site
from ..search.table import Grid
from ..utils import hardware, parallel
from ..zoo.lookup import known_as, resolve
from . import checkpoint
from .folder import RunFolder
from .plots import plot_shrinking
from .tracking import Mode, RunLog
from .training import Feed, forever, has_idle_weights, load_data, load_tokens, make_batches, make_model, paced
from .wandb_result import show_result
from .weight_step import WeightStep, accuracy, loss_of

WORTH_COMPILING = 5_000  # steps of a search on a CPU


def _check_batch(settings: Search) -> None:
    parts = parallel.world() * settings.accumulate
    if settings.batch_size % parts:
        nearest = max(round(settings.batch_size / parts), 1) * parts
        into = f"{parallel.world()} processes" + (f" of {settings.accumulate} micro-batches" if settings.accumulate > 1 else "")
        raise RecipeError(
            f"search.batch_size: {settings.batch_size} images, the batch of all processes together, do not divide into {into}; "
            f"the nearest number that does is {nearest}"
        )


def _pays(recipe: Recipe, per_epoch: int, device: str) -> bool:
    """Whether to compile the making of the tables: half a minute at first, then a few milliseconds less in every step.

    A matter of the recipe alone, so that a resumed search computes as the stopped one did.
    """
    steps = recipe.search.epochs * per_epoch
    return recipe.compile == "model" or (recipe.compile == "auto" and (device != "cpu" or steps >= WORTH_COMPILING))


def _own_weights(model: nn.Module) -> bool:
    """Whether a site has weights of its own, such as PReLU's, which only the warm start uses."""
    return any(True for site in model.modules() if isinstance(site, Site) for _ in site.usual.parameters())


@dataclass(frozen=True)
class _Parts:
    """What a search is fed with: ``inner`` batches train the weights, ``outer`` ones α and γ; ``held_out`` is measured."""

    inner: Feed
    outer: Feed
    held_out: Feed
    num_classes: int
    shape: tuple[int, ...]


_OUTER_SEED = 1_000_003  # beside the inner one's


def _image_parts(recipe: Recipe, data: ImageData, seed: int, device: str) -> _Parts:
    if data.loading == "stream":
        raise RecipeError("data.loading: a search keeps its images on the device; give data.train_images, or loading: auto")
    settings, size, share = recipe.search, recipe.search.batch_size, (parallel.rank(), parallel.world())
    train_set = load_data(data, "train", device)
    weights_set, architecture_set = train_set.split(1 - settings.architecture_fraction, seed=seed)
    return _Parts(
        paced(make_batches(data, weights_set, train_set, size, seed, train=True, share=share), settings.steps_per_epoch),
        make_batches(data, architecture_set, train_set, size, seed + _OUTER_SEED, train=True, share=share),
        make_batches(data, architecture_set, train_set, 256, seed, train=False), train_set.num_classes, train_set.shape,
    )  # fmt: skip


def _text_parts(recipe: Recipe, data: TextData, seed: int, device: str) -> _Parts:
    """The two levels learn from text that does not overlap: the architecture's part is the training part's end."""
    settings, size, share = recipe.search, recipe.search.batch_size, (parallel.rank(), parallel.world())
    text, context = load_tokens(data, device), data.text.context
    weights_set, architecture_set = text.train.split(1 - settings.architecture_fraction)
    return _Parts(
        paced(TextBatches(weights_set, size, context=context, seed=seed, share=share), settings.steps_per_epoch),
        TextBatches(architecture_set, size, context=context, seed=seed + _OUTER_SEED, share=share),
        TextBatches(architecture_set, size, context=context, train=False), text.vocab_size, (context,),
    )  # fmt: skip


class _Run:
    """The parts of one search that a checkpoint holds, and the loop over them."""

    def __init__(self, recipe: Recipe, seed: int, device: str) -> None:
        settings = recipe.search
        _check_batch(settings)
        self.recipe, self.device = recipe, device
        data = recipe.data
        parts = (
            _text_parts(recipe, data, seed, device) if isinstance(data, TextData) else _image_parts(recipe, data, seed, device)
        )
        self.inner, self.outer, self.held_out = parts.inner, parts.outer, parts.held_out
        checkpoint.seed_all(seed)
        self.model = make_model(recipe, parts.num_classes, parts.shape, device)
        self.search = ActivationSearch(
            self.model, settings.epochs, warm_start=settings.warm_start, shrink_start=settings.shrink_start,
            lr=settings.architecture.lr, betas=settings.architecture.betas,
            weight_decay=settings.architecture.weight_decay, wide=settings.wide,
            usual=resolve(settings.usual).layer if settings.usual else None,
            grid=Grid(settings.grid.low, settings.grid.high, settings.grid.intervals),
            compiled=_pays(recipe, len(self.inner), device),
        )  # fmt: skip
        if recipe.compile == "model":
            self.search.compile_model()
        idle = parallel.world() > 1 and (
            _own_weights(self.model) or has_idle_weights(self.model, next(self.held_out.epoch(0))[0][:2])
        )
        self.step = WeightStep(self.model, settings.weights, settings.epochs, len(self.inner), recipe.amp, idle=idle)
        fp16 = recipe.amp == "fp16"
        self.outer_scaler = torch.amp.GradScaler(torch.device(device).type) if fp16 else None
        self.first, self.seconds, self.log_end, self.processes = 0, 0.0, 0, parallel.world()
        if not parallel.is_main():  # all begin with one model, each goes on with draws of its own
            checkpoint.seed_all(parallel.own_seed(seed))

    def _losses(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Callable[[], Tensor]]:
        """A function for each micro-batch that runs ``network`` on it and returns its mean loss in nats."""

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            with self.step.autocast():
                return loss_of(network(images), labels)

        parts = self.recipe.search.accumulate
        return [partial(loss, *part) for part in zip(images.chunk(parts), labels.chunk(parts), strict=True)]

    def epoch(self, epoch: int, bar: tqdm[Any]) -> dict[str, float]:
        """One epoch of outer and inner steps; mean losses in nats."""
        self.model.train()
        losses = torch.zeros(2, device=self.device)
        outer = forever(self.outer, epoch * len(self.inner))
        for number, inner_batch in enumerate(self.inner.epoch(epoch)):
            losses[1] += self.search.architecture_step(self._losses(self.model, *next(outer)), self.outer_scaler)
            losses[0] += self.step(self._losses(self.step.network, *inner_batch))
            bar.update()
            if number % 8 == 7:
                means = (losses / (number + 1)).tolist()
                bar.set_postfix(inner=f"{means[0]:.3f}", outer=f"{means[1]:.3f}", refresh=False)
        inner, outer_mean = (losses / len(self.inner)).tolist()
        return {"inner_loss": inner, "outer_loss": outer_mean}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, ``rng`` of every rank; all ranks call it together."""
        return {
            "model": self.model.state_dict(), "search": self.search.state_dict(), "step": self.step.state_dict(),
            "outer_scaler": self.outer_scaler.state_dict() if self.outer_scaler else {},
            "rng": parallel.gather(checkpoint.rng_state()),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.search.load_state_dict(state["search"])
        self.step.load_state_dict(state["step"])
        if self.outer_scaler:
            self.outer_scaler.load_state_dict(state["outer_scaler"])
        self.processes = len(state["rng"])
        if parallel.rank() < self.processes:
            checkpoint.set_rng_state(state["rng"][parallel.rank()])
        self.first, self.seconds, self.log_end = state["epoch"], state["seconds"], state["log"]


def run_search(
    recipe: Recipe, out: str | Path, *, seed: int = 0, device: str = "cpu", resume: bool = False,
    wandb: Mode = "disabled", group: str | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Search an activation as the recipe says; returns the summary.

    The run folder gets log.jsonl, checkpoint.pt after each epoch and, at the end, genotype.json, plots/ and summary.json.
    A finished folder is only read; a half-done one goes on with ``resume``, to the same genotype bit for bit on CPU.
    Processes that torchrun started search together, data-parallel; rank 0 alone touches the folder, and one that torchrun
    started anew goes on as if with ``resume``. ``group`` is W&B's.
    """
    with parallel.joined(device) as own_device, contextlib.ExitStack() as held:
        folder = RunFolder(Path(out), recipe, {"kind": "search", "seed": seed})

        def opened() -> dict[str, Any]:
            there = RunFolder.claim(held, out, recipe, folder.facts, resume=resume or parallel.restarted())
            return {"summary": there.summary() if there.finished else None, "half_done": there.half_done, "notes": there.notes}

        found = parallel.from_main(opened)
        if found["summary"] is not None:
            return found["summary"]
        run = _Run(recipe.for_search, seed, own_device)
        if found["half_done"]:
            checkpoint.restore(
                folder.checkpoint_file, run.load_state, read=lambda path: parallel.from_main(lambda: checkpoint.load(path))
            )
        parallel.from_main(folder.begin)
        return _go(run, replace(folder, notes=found["notes"]), wandb, group, quiet)


def _go(run: _Run, folder: RunFolder, wandb: Mode, group: str | None, quiet: bool) -> dict[str, Any]:
    """The epochs that are left, with lines in the log and checkpoints as often as the recipe says; then the result."""
    recipe, search, seconds, every = run.recipe, run.search, run.seconds, run.recipe.search.log_epochs
    per_epoch, epochs, main = len(run.inner), recipe.search.epochs, parallel.is_main()
    with (
        folder.open_log(wandb, group) if main else contextlib.nullcontext() as log,
        tqdm(
            total=epochs * per_epoch, initial=run.first * per_epoch, disable=quiet or not main or None,
            desc="search", unit="step",
        ) as bar,
    ):  # fmt: skip
        if log:
            _start(run, folder, log)
        totals, dropped = dict[str, float](), list[Any]()  # since the last line of the log
        for epoch in range(run.first, epochs):
            begin = time.perf_counter()
            losses = run.epoch(epoch, bar)
            dropped += search.end_epoch()
            best, survivors = search.genotype(), search.cell.survivors
            seconds += time.perf_counter() - begin
            alive = sum(map(len, survivors.values()))
            totals = {key: totals.get(key, 0.0) + value for key, value in losses.items()}
            if (epoch + 1) % every and epoch + 1 < epochs:
                continue
            means = {key: value / (epoch % every + 1) for key, value in totals.items()}
            state = {"epoch": epoch + 1, "seconds": seconds, **run.state()}
            if log:
                log.log(
                    "epoch", epoch=epoch + 1, **means, alive=alive, survivors=survivors, dropped=dropped,
                    formula=best.text, outside=search.outside, skipped_outer=search.skipped,
                    skipped_inner=run.step.skipped, seconds=seconds,
                )  # fmt: skip
                checkpoint.save(folder.checkpoint_file, {**state, "log": log.sync()})
            totals, dropped = {}, []
            bar.set_description(f"epoch {epoch + 1}/{epochs}, {alive} alive, f(x) = {best.text}"[:110])
        return parallel.from_main(lambda: _finish(run, folder, log, seconds))


def _start(run: _Run, folder: RunFolder, log: RunLog) -> None:
    log.truncate_to(run.log_end)  # what came after the checkpoint comes again
    notices = [*folder.notes]
    if run.first == 0:
        log.log(
            "start", sites=run.search.report.replaced, survivors=run.search.cell.survivors,
            steps_per_epoch=len(run.inner), processes=parallel.world(),
        )  # fmt: skip
    if run.processes != parallel.world():
        notices.append(
            f"this search had {run.processes} processes until epoch {run.first} and goes on with {parallel.world()}: "
            "its draws differ from here on, and with them perhaps its result"
        )
    for notice in notices:
        warnings.warn(notice, GrafsWarning)
        log.log("notice", text=notice)


def _finish(run: _Run, folder: RunFolder, log: RunLog | None, seconds: float) -> dict[str, Any]:
    """Write the result into the folder; returns the summary."""
    assert log is not None
    search, recipe = run.search, run.recipe
    found = search.genotype()
    chosen_accuracy, chosen_loss = accuracy(run.model, run.held_out.epoch(0), run.step)
    formula.save(found, folder.genotype_file)
    plot_functions({"found": found}, folder.plots / "function.png")
    plot_shrinking(folder.path, folder.plots / "shrinking.png")
    summary = {
        **folder.facts, "model": recipe.model, "data": recipe.data.name, "epochs": recipe.search.epochs,
        "formula": found.text, "genotype": found.to_dict(), "sha256": found.sha256,
        "known_as": known_as(found), "keeps_bound": found.bound is not None,
        "held_out_accuracy": chosen_accuracy, "held_out_loss": chosen_loss, "outside": search.outside,
        "skipped_outer": search.skipped, "skipped_inner": run.step.skipped, "seconds": seconds,
        "hardware": hardware.describe(run.device),
    }  # fmt: skip
    folder.finish(summary)
    show_result(log, folder, found)
    return summary
