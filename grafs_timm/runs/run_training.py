"""A training from scratch, or fine-tuning, as a run: recipe and activation in, run folder out."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from ..activations.named import Activation
from ..config.recipe import Recipe
from ..errors import GrafsWarning, RecipeError, RunError
from ..models import weights
from ..models.replace import replace_activations
from ..utils import hardware, parallel
from ..zoo import lookup as zoo
from . import checkpoint
from .folder import RunFolder
from .tracking import Mode, RunLog
from .training import blank, has_idle_weights, make_model, measured_on, open_feeds
from .wandb_result import show_result
from .weight_step import WeightStep, loss_of, measure


class _Training:
    """The parts of one training that a checkpoint holds, and the loop over them."""

    def __init__(self, recipe: Recipe, found: Activation, seed: int, device: str) -> None:
        settings = recipe.evaluate
        self.recipe, self.settings, self.device = recipe, settings, device
        self.feeds = feeds = open_feeds(recipe, seed, device)
        checkpoint.seed_all(seed)
        self.model = make_model(recipe, feeds.num_classes, feeds.shape, device, settings.start_from)
        self.report = replace_activations(self.model, found)
        self.ema = ModelEmaV3(self.model, settings.ema_decay, use_warmup=True) if settings.ema_decay else None
        idle = parallel.world() > 1 and has_idle_weights(self.model, blank(feeds.shape, device))
        if recipe.compile == "model":
            self.model.forward = torch.compile(self.model.forward)
        self.step = WeightStep(self.model, settings.weights, settings.epochs, len(feeds.train), recipe.amp, idle=idle)
        self.mixup = self._mixup()
        self.split, self.accumulate = measured_on(recipe), settings.accumulate
        self.epoch = self.done = self.log_end = 0  # whole epochs, steps of the one under way, bytes of the log
        self.processes = parallel.world()
        self.total, self.seconds = torch.zeros((), device=device), 0.0  # of the epoch under way
        self.values: dict[str, float] = {}
        if not parallel.is_main():  # all begin with one model, each goes on with draws of its own
            checkpoint.seed_all(parallel.own_seed(seed))

    def _mixup(self) -> Mixup | None:
        settings = self.settings
        if not (settings.mixup or settings.cutmix):
            return None
        own = settings.batch_size // parallel.world()
        if own % 2:
            raise RecipeError(f"evaluate.batch_size: mixup and cutmix pair images, and {own} a process is an odd number")
        return Mixup(
            mixup_alpha=settings.mixup, cutmix_alpha=settings.cutmix, label_smoothing=settings.smoothing,
            num_classes=self.feeds.num_classes,
        )  # fmt: skip

    def _losses(self, images: Tensor, labels: Tensor) -> list[Callable[[], Tensor]]:
        """A function for each micro-batch that runs the model on it and returns its mean loss in nats."""
        smoothing = 0.0 if self.mixup else self.settings.smoothing  # timm's Mixup has smoothed them

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            with self.step.autocast():
                return loss_of(self.step.network(images), labels, smoothing)

        parts = zip(images.chunk(self.accumulate), labels.chunk(self.accumulate), strict=True)
        return [partial(loss, *part) for part in parts]

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One weight step; where memory ran out and the recipe says so, again in micro-batches half as large."""
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if self.mixup:
            images, labels = self.mixup(images, labels)
        while True:
            try:
                loss = self.step(self._losses(images, labels))
                break
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(len(images), error)
        self.total += loss
        if self.ema:
            self.ema.update(self.model, step=self.step.updates)
        self.done += 1

    def _halve(self, images: int, error: RuntimeError) -> None:
        size, more = images // self.accumulate, self.accumulate * 2
        advice = f"evaluate.accumulate={more} makes the same step of smaller parts; so do amp and a smaller evaluate.batch_size"
        if self.settings.out_of_memory == "fail" or parallel.world() > 1 or images % more:
            asked = "" if self.settings.out_of_memory == "halve" else "; evaluate.out_of_memory=halve does it by itself"
            raise RunError(f"out of memory with {size} images at a time on {self.device}: {advice}{asked}") from error
        self.accumulate = more
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        notice = f"out of memory with {size} images at a time: goes on with {images // more}, {more} to a step"
        warnings.warn(notice, GrafsWarning)

    def measure(self) -> dict[str, float]:
        """Accuracy in per cent and mean loss in nats of the epoch that is complete."""
        model: nn.Module = self.ema.module if self.ema else self.model
        parallel.broadcast(model)  # BatchNorm's statistics are each process's own, and rank 0's are kept
        values = {"train_loss": float(self.total) / len(self.feeds.train)}
        for split, feed in ((self.split, self.feeds.measured), ("validation", self.feeds.also)):
            if feed is not None:
                sums = measure(model, feed.epoch(0), self.step)
                parallel.mean_([sums])
                right, loss, count = sums.tolist()
                values |= {f"{split}_accuracy": 100 * right / count, f"{split}_loss": loss / count}
        return values

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, ``rng`` of every rank; all ranks call it together."""
        return {
            "epoch": self.epoch, "done": self.done, "total": self.total, "seconds": self.seconds, "values": self.values,
            "model": self.model.state_dict(), "ema": self.ema.module.state_dict() if self.ema else {},
            "step": self.step.state_dict(), "accumulate": self.accumulate, "rng": parallel.gather(checkpoint.rng_state()),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.step.load_state_dict(state["step"])
        self.processes = len(state["rng"])
        if parallel.rank() < self.processes:
            checkpoint.set_rng_state(state["rng"][parallel.rank()])
        self.total.copy_(state["total"])
        self.epoch, self.done, self.seconds = state["epoch"], state["done"], state["seconds"]
        self.values, self.accumulate, self.log_end = state["values"], state["accumulate"], state["log"]


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def run_evaluate(
    recipe: Recipe, activation: Any, out: str | Path, *, seed: int = 0, device: str = "cpu",
    resume: bool = False, wandb: Mode = "disabled", group: str | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train the recipe's model with ``activation`` (name, file, dict or genotype), from scratch or ``evaluate.start_from``.

    The run folder gets log.jsonl, checkpoint.pt after each epoch (and every ``evaluate.checkpoint_steps``), weights/ and
    summary.json at the end; the summary is returned. A finished folder is only read; a half-done one goes on with ``resume``,
    to the same weights bit for bit on CPU. Processes that torchrun started train together, data-parallel; rank 0 alone
    touches the folder, and one that torchrun started anew goes on as if with ``resume``. ``group`` is W&B's.
    """
    found = zoo.resolve(activation)
    facts = {"kind": "evaluate", "activation": found.name, "activation_sha256": found.sha256, "seed": seed}
    with parallel.joined(device) as own_device, contextlib.ExitStack() as held:
        folder = RunFolder(Path(out), recipe, facts)

        def opened() -> dict[str, Any]:
            there = RunFolder.claim(held, out, recipe, facts, resume=resume or parallel.restarted())
            return {"summary": there.summary() if there.finished else None, "half_done": there.half_done, "notes": there.notes}

        state = parallel.from_main(opened)
        if state["summary"] is not None:
            return state["summary"]
        training = _Training(recipe, found, seed, own_device)
        if state["half_done"]:
            checkpoint.restore(
                folder.checkpoint_file, training.load_state, read=lambda path: parallel.from_main(lambda: checkpoint.load(path))
            )
        held.callback(training.feeds.close)
        parallel.from_main(folder.begin)
        return _go(training, found, replace(folder, notes=state["notes"]), wandb, group, quiet)


def _go(
    training: _Training, found: Activation, folder: RunFolder, wandb: Mode, group: str | None, quiet: bool
) -> dict[str, Any]:
    """The steps that are left, each epoch with its line in the log and its checkpoint; then the result."""
    feed, settings, main = training.feeds.train, training.settings, parallel.is_main()
    with (
        folder.open_log(wandb, group) if main else contextlib.nullcontext() as log,
        tqdm(
            total=settings.epochs * len(feed), initial=training.epoch * len(feed) + training.done,
            disable=quiet or not main or None, unit="step", desc=f"{found.name} seed {folder.facts['seed']}",
        ) as bar,
    ):  # fmt: skip
        if log:
            _start(training, folder, log)
        while training.epoch < settings.epochs:
            _epoch(training, folder, log, bar)
        return parallel.from_main(lambda: _finish(training, found, folder, log))


def _start(training: _Training, folder: RunFolder, log: RunLog) -> None:
    log.truncate_to(training.log_end)  # what came after the checkpoint comes again
    notices = [*folder.notes]
    if training.processes != parallel.world():
        notices.append(
            f"this training had {training.processes} processes until epoch {training.epoch} and goes on with "
            f"{parallel.world()}: its draws differ from here on, and with them perhaps its result"
        )
    for notice in notices:
        warnings.warn(notice, GrafsWarning)
        log.log("notice", text=notice)


def _epoch(training: _Training, folder: RunFolder, log: RunLog | None, bar: tqdm[Any]) -> None:
    """What is left of the epoch under way."""
    feed, settings = training.feeds.train, training.settings
    begin = time.perf_counter() - training.seconds
    training.model.train()
    for images, labels in feed.epoch(training.epoch, training.done):
        training.train_step(images, labels)
        bar.update()
        training.seconds = time.perf_counter() - begin
        if settings.checkpoint_steps and training.done % settings.checkpoint_steps == 0 and training.done < len(feed):
            state = training.state()
            if log:
                mean = float(training.total) / training.done
                log.log("step", epoch=training.epoch, step=training.done, train_loss=mean, seconds=training.seconds)
                checkpoint.save(folder.checkpoint_file, {**state, "log": log.sync()})
    seconds, training.values = training.seconds, training.measure()
    training.epoch, training.done, training.seconds = training.epoch + 1, 0, 0.0
    training.total.zero_()
    state = training.state()
    if log:
        skipped = {"skipped_shards": len(training.feeds.skipped)} if training.feeds.skipped else {}
        log.log("epoch", epoch=training.epoch, **training.values, skipped=training.step.skipped, **skipped, seconds=seconds)
        checkpoint.save(folder.checkpoint_file, {**state, "log": log.sync()})
    shown = {"loss": f"{training.values['train_loss']:.3f}"}
    bar.set_postfix(shown | {training.split: f"{training.values[f'{training.split}_accuracy']:.2f} %"})


def _finish(training: _Training, found: Activation, folder: RunFolder, log: RunLog | None) -> dict[str, Any]:
    """Write the result into the folder; returns the summary."""
    assert log is not None
    recipe, feeds, settings = training.recipe, training.feeds, training.settings
    origin = weights.origin(settings.start_from) if settings.start_from else {}
    unit = "tokens" if recipe.data.text else "images"
    halved = {"accumulate": training.accumulate} if training.accumulate != settings.accumulate else {}
    summary = {
        **folder.facts, "model": recipe.model, "data": recipe.data.name, f"train_{unit}": feeds.train_images,
        f"{training.split}_{unit}": feeds.measured_images, "measured_on": training.split, "epochs": settings.epochs,
        "report": str(training.report), **origin, "formula": found.formula, **training.values,
        "skipped": training.step.skipped, **({"skipped_shards": feeds.skipped} if feeds.skipped else {}), **halved,
        "hardware": hardware.describe(training.device),
        **({"genotype": found.genotype.to_dict()} if found.genotype else {}),
    }  # fmt: skip
    trained_on = {"input_size": list(feeds.shape), "mean": list(feeds.mean), "std": list(feeds.std)} if feeds.mean else {}
    model = training.ema.module if training.ema else training.model
    weights.save_pretrained(model, folder.weights, pretrained_cfg=trained_on)
    folder.finish(summary)
    show_result(log, folder, found.genotype or found.layer())
    return summary
