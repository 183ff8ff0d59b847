"""Run a training, from scratch or fine-tuning, from a recipe and an activation in a run folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..activations.genotype import Genotype
from ..activations.named import Activation
from ..config.recipe import Recipe
from ..errors import GrafsWarning, RecipeError, RunError
from ..models import weights
from ..models.replace import replace_activations
from ..models.surgery import Report
from ..utils import hardware, parallel
from ..zoo import lookup as zoo
from . import checkpoint
from .folder import RunFolder
from .loop import Run, Work, open_run
from .tracking import DISABLED, Wandb
from .training import blank, has_idle_weights, make_model, measured_on, open_feeds
from .weight_step import WeightStep, loss_of, measure


class Training(Work):
    """The parts of one training that a checkpoint holds, and its epochs."""

    noun = "training"

    def __init__(self, recipe: Recipe, found: Activation, seed: int, device: str) -> None:
        settings = recipe.evaluate
        super().__init__(recipe, seed, device, settings.epochs)
        self.found, self.settings = found, settings
        self.feeds = feeds = open_feeds(recipe, seed, device)
        checkpoint.seed_all(seed)
        self.model = make_model(recipe, feeds.num_classes, feeds.shape, device, settings.start_from)
        self.report = self.put_activation()
        self.ema = ModelEmaV3(self.model, settings.ema_decay, use_warmup=True) if settings.ema_decay else None
        idle = parallel.world() > 1 and has_idle_weights(self.model, blank(feeds.shape, device))
        if recipe.compile == "model":
            self.compile_model()
        self.step = WeightStep(self.model, settings.weights, settings.epochs, len(feeds.train), recipe.amp, idle=idle)
        self.mixup = self._mixup()
        self.split, self.accumulate = measured_on(recipe), settings.accumulate
        self.total = torch.zeros((), device=device)  # the losses of the epoch under way, as are its seconds
        self.values: dict[str, float] = {}
        self.separate_draws()

    @property
    def title(self) -> str:
        return f"{self.found.name} seed {self.seed}"

    @property
    def steps(self) -> int:
        return len(self.feeds.train)

    def close(self) -> None:
        self.feeds.close()

    def put_activation(self) -> Report:
        """Put the activation into the new model."""
        return replace_activations(self.model, self.found)

    def compile_model(self) -> None:
        self.model.forward = torch.compile(self.model.forward)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what is left of the epoch under way."""
        return self.feeds.train.epoch(self.epoch, self.done)

    def end_epoch(self) -> dict[str, Any]:
        """End an epoch whose steps are done, before it is measured; returns what to log of it besides."""
        return {}

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

    def losses(self, network: nn.Module, images: Tensor, labels: Tensor) -> list[Callable[[], Tensor]]:
        """A function for each micro-batch that runs ``network`` on it and returns its mean loss in nats."""
        smoothing = 0.0 if self.mixup else self.settings.smoothing  # timm's Mixup has smoothed them

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            with self.step.autocast():
                return loss_of(network(images), labels, smoothing)

        parts = zip(images.chunk(self.accumulate), labels.chunk(self.accumulate), strict=True)
        return [partial(loss, *part) for part in parts]

    def prepared(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give a batch the recipe's memory format, mixup and cutmix."""
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.mixup(images, labels) if self.mixup else (images, labels)

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One weight step; where memory ran out and the recipe says so, again in micro-batches half as large."""
        images, labels = self.prepared(images, labels)
        while True:
            try:
                loss = self.step(self.losses(self.step.network, images, labels))
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
        notice = f"out of memory with {size} images at a time: continuing with {images // more}, {more} to a step"
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

    def begin(self, run: Run) -> None:
        """The first line of a training's log is that of its first epoch."""

    def run_epoch(self, run: Run) -> None:
        """What is left of the epoch under way, with a checkpoint every ``evaluate.checkpoint_steps`` and at its end."""
        every, begin = self.settings.checkpoint_steps, time.perf_counter() - self.seconds
        self.model.train()
        for images, labels in self.batches():
            self.train_step(images, labels)
            run.bar.update()
            self.seconds = time.perf_counter() - begin
            if every and self.done % every == 0 and self.done < self.steps:
                state, mean = self.state(), float(self.total) / self.done
                run.log("step", epoch=self.epoch, step=self.done, train_loss=mean, seconds=self.seconds)
                run.save(state)
        more = self.end_epoch()
        seconds, self.values = self.seconds, self.measure()
        self.epoch, self.done, self.seconds = self.epoch + 1, 0, 0.0
        self.total.zero_()
        state = self.state()
        skipped = {"skipped_shards": len(self.feeds.skipped)} if self.feeds.skipped else {}
        fitted = {"settings": self.fitted} if self.fitted and self.epoch == 1 else {}
        run.log(
            "epoch", epoch=self.epoch, **self.values, skipped=self.step.skipped, **skipped, seconds=seconds, **more, **fitted
        )  # fmt: skip
        run.save(state)
        shown = {"loss": f"{self.values['train_loss']:.3f}"}
        run.bar.set_postfix(shown | {self.split: f"{self.values[f'{self.split}_accuracy']:.2f} %"})

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch, "done": self.done, "total": self.total, "seconds": self.seconds, "values": self.values,
            "model": self.model.state_dict(), "ema": self.ema.module.state_dict() if self.ema else {},
            "step": self.step.state_dict(), "accumulate": self.accumulate, "rng": parallel.gather(checkpoint.rng_state()),
        }  # fmt: skip

    def load_parts(self, state: dict[str, Any]) -> None:
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.total.copy_(state["total"])
        self.done, self.values, self.accumulate = state["done"], state["values"], state["accumulate"]

    def result(self, folder: RunFolder) -> tuple[dict[str, Any], Genotype | nn.Module]:
        recipe, feeds, settings, found = self.recipe, self.feeds, self.settings, self.found
        origin = weights.origin(settings.start_from) if settings.start_from else {}
        unit = recipe.data.unit
        halved = {"accumulate": self.accumulate} if self.accumulate != settings.accumulate else {}
        trained_on = {"input_size": list(feeds.shape), "mean": list(feeds.mean), "std": list(feeds.std)} if feeds.mean else {}
        weights.save_pretrained(self.ema.module if self.ema else self.model, folder.weights, pretrained_cfg=trained_on)
        return {
            "model": recipe.model, "data": recipe.data.name, f"train_{unit}": feeds.train_images,
            f"{self.split}_{unit}": feeds.measured_images, "measured_on": self.split, "epochs": settings.epochs,
            "report": str(self.report), **origin, "formula": found.formula, **self.values,
            "skipped": self.step.skipped, **({"skipped_shards": feeds.skipped} if feeds.skipped else {}), **halved,
            "hardware": hardware.describe(self.device),
            **({"genotype": found.genotype.to_dict()} if found.genotype else {}),
        }, found.genotype or found.layer()  # fmt: skip


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def run_training(
    recipe: Recipe, activation: Any, out: str | Path, *, seed: int = 0, device: str = "cpu",
    resume: bool = False, wandb: Wandb = DISABLED, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train the recipe's model with an activation, from scratch or from ``evaluate.start_from``.

    The run folder gets log.jsonl, checkpoint.pt after each epoch (and every ``evaluate.checkpoint_steps``), weights/ and
    summary.json at the end. A finished folder is only read. Processes that torchrun started train together, data-parallel.

    Args:
        activation: Whatever `zoo.resolve` takes: a name, file, dict, class or genotype.
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
    found = zoo.resolve(activation)
    facts = {"kind": "evaluate", "activation": found.name, "activation_sha256": found.sha256, "seed": seed}
    with open_run(recipe, out, facts, device=device, resume=resume, wandb=wandb, quiet=quiet) as run:
        return run.summary or run.complete(Training(run.fit(recipe), found, seed, run.device))
