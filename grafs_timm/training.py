"""One model, one data set, one seed: the training step, timm's optimiser and schedule, accuracy, and a run from scratch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from tqdm import tqdm

from . import checkpoint, parallel, weights, zoo
from .data import Batches, ImageSet, load_split, open_dataset
from .errors import DataError, RecipeError, RunError, UnknownNameError
from .ops import nearest
from .runs import RunFolder
from .settings import Recipe, Weights
from .tracking import Mode
from .wandb_result import show_result

_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class WeightStep:
    """Weight steps of one training: autocast, loss scaling, clipping, schedule; a non-finite step is skipped and counted.

    ``max_skips`` skipped steps in a row raise RunError with the reason. One schedule update per step taken or skipped.
    ``network`` is the model as a weight step must call it: in a process group inside DistributedDataParallel, which has to
    know of ``idle`` weights, those that some steps leave out.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Weights,
        epochs: int,
        steps_per_epoch: int,
        amp: str,
        max_skips: int = 20,
        idle: bool = False,
    ) -> None:
        self.model, self.settings, self.max_skips = model, settings, max_skips
        self.network = parallel.replicate(model, idle)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.dtype = _DTYPES[amp]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self.optimizer = create_optimizer_v2(
            model, opt=settings.opt, lr=settings.lr, weight_decay=settings.weight_decay, momentum=settings.momentum
        )
        self.scheduler = None
        if settings.sched != "none":
            self.scheduler, _ = create_scheduler_v2(
                self.optimizer, sched=settings.sched, num_epochs=epochs, decay_milestones=tuple(settings.decay_epochs),
                decay_rate=settings.decay_rate, warmup_epochs=settings.warmup_epochs, warmup_lr=settings.lr / 100,
                step_on_epochs=False, updates_per_epoch=steps_per_epoch,
            )  # fmt: skip
        self.updates = self.skipped = self._in_a_row = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype else contextlib.nullcontext()

    def __call__(self, loss: Tensor | Sequence[Callable[[], Tensor]]) -> Tensor:
        """Backward and one optimiser step for ``loss`` (scalar); returns it detached, in a process group the ranks' mean.

        A sequence of functions, each of which runs ``network`` on a micro-batch of equal size and returns its loss, makes one
        step on the mean of their gradients.
        """
        losses: Sequence[Callable[[], Tensor]] = [lambda: loss] if isinstance(loss, Tensor) else loss
        self.optimizer.zero_grad(set_to_none=True)
        mean = torch.zeros((), device=self.device)
        for number, one in enumerate(losses, 1):
            with contextlib.nullcontext() if number == len(losses) else parallel.apart(self.network):
                value = one() / len(losses)
                self.scaler.scale(value).backward()
            mean += value.detach()
        parallel.mean_([mean])
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad or float("inf"))
        finite = bool(torch.isfinite(norm) & torch.isfinite(mean))  # both are the same on every rank
        if finite or self.scaler.is_enabled():
            self.scaler.step(self.optimizer)  # skips by itself where unscale_ met a non-finite gradient
        self.scaler.update()
        self.updates += 1
        if self.scheduler is not None:
            self.scheduler.step_update(self.updates)
        self.skipped += not finite
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row >= self.max_skips:
            raise RunError(
                f"{self._in_a_row} weight steps in a row had a non-finite loss or gradient (last loss {mean.item()}); "
                "lower the learning rate or train in float32"
            )
        return mean

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "updates": self.updates, "skipped": self.skipped, "in_a_row": self._in_a_row,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.updates, self.skipped, self._in_a_row = state["updates"], state["skipped"], state["in_a_row"]


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], step: WeightStep | None = None) -> tuple[float, float]:
    """Top-1 accuracy in per cent and mean cross-entropy in nats over ``batches``, in eval mode; the mode is put back."""
    was, correct, loss, count = model.training, 0, 0.0, 0
    model.eval()
    try:
        for images, labels in batches:
            with step.autocast() if step else contextlib.nullcontext():
                logits = model(images)
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
            count += len(labels)
    finally:
        model.train(was)
    return 100 * correct / count, loss / count


def measured_on(recipe: Recipe) -> str:
    """The split accuracy is measured on: ``test``, or ``validation`` where the recipe holds images out for choosing."""
    return "validation" if recipe.data.validation_images else "test"


def load_data(recipe: Recipe, split: str, device: str | torch.device) -> ImageSet:
    """The recipe's ``train``, ``validation`` or ``test`` images on ``device``.

    Those held out for validation are of the training split and the same for every seed. DataError where it has too few.
    """
    data, info = recipe.data, open_dataset(recipe.data.name)
    if split == "test":
        return load_split(info, data.test_split, limit=data.test_images, device=device)
    held_out = data.validation_images or 0
    if not held_out:
        return load_split(info, data.train_split, limit=data.train_images, device=device)
    both = load_split(info, data.train_split, limit=data.train_images and data.train_images + held_out, device=device)
    wanted = (data.train_images or both.num_classes) + held_out
    if len(both) < wanted:
        raise DataError(
            f"{info.name}: {len(both)} training images; data.validation_images ({held_out}) and the images to train on "
            f"need at least {wanted}"
        )
    train, validation = both.split(1 - held_out / len(both))
    return train if split == "train" else validation


def make_model(recipe: Recipe, data: ImageSet, device: str | torch.device, start_from: str | None = None) -> nn.Module:
    """The recipe's timm model for this data's classes and channels, with the weights of ``start_from`` or new ones.

    UnknownNameError with the nearest names; RecipeError where the model can't be built so, or doesn't take such images;
    WeightsError where ``start_from`` holds no weights of this architecture.
    """
    from . import models  # noqa: F401  registers the small models of the paper

    if not timm.is_model(recipe.model):
        raise UnknownNameError(f"unknown model {recipe.model!r}{nearest(recipe.model, timm.list_models())}")
    settings = {"num_classes": data.num_classes, "in_chans": data.images.shape[1], **recipe.model_kwargs}
    start = weights.starting_from(start_from, recipe.model) if start_from else {}
    try:
        model: nn.Module = timm.create_model(recipe.model, **settings, **start).to(device)
    except (TypeError, ValueError, RuntimeError, AssertionError, OSError) as error:  # OSError: weights not to be had
        begun = f" from {start_from}" if start_from else ""
        raise RecipeError(f"model {recipe.model} cannot be built{begun} with {settings}: {_first_line(error)}") from error
    size = "×".join(map(str, data.images.shape[1:]))
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(data.images[:2].float() / 255).shape)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise RecipeError(f"model {recipe.model} does not take images of {size}: {_first_line(error)}") from error
    finally:
        model.train()
    if len(shape) != 2 or shape[1] < data.num_classes:
        raise RecipeError(f"model {recipe.model} makes {shape} of two images; the data has {data.num_classes} classes")
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model  # type: ignore[call-overload]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def make_batches(
    recipe: Recipe, images: ImageSet, like: ImageSet, batch_size: int, seed: int, train: bool, share: tuple[int, int] = (0, 1)
) -> Batches:
    """Batches of ``images`` normalised with the statistics of ``like``, the training images; augmented where ``train``."""
    augment = recipe.data.augment if train else ()
    return Batches(
        images, batch_size, augment=augment, crop_padding=recipe.data.crop_padding, seed=seed,
        shuffle=train, drop_last=train, mean=like.mean, std=like.std, share=share,
    )  # fmt: skip


def run_evaluate(
    recipe: Recipe, activation: Any, out: str | Path, *, seed: int = 0, device: str = "cpu",
    resume: bool = False, wandb: Mode = "disabled", group: str | None = None, quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train the recipe's model with ``activation`` (name, file, dict or genotype), from scratch or ``evaluate.start_from``.

    The run folder gets log.jsonl, checkpoint.pt after each epoch, weights/ and summary.json at the end; the summary is
    returned. A finished folder is only read. ``group`` is W&B's.
    RunError where several processes were started: it takes one.
    """
    parallel.require_one("evaluate")
    found = zoo.resolve(activation)
    facts = {"kind": "evaluate", "activation": found.name, "activation_sha256": found.sha256, "seed": seed}
    folder = RunFolder.open(out, recipe, facts, resume=resume, begin=False)
    if folder.finished:
        return folder.summary()
    split = measured_on(recipe)
    train_set, test_set = load_data(recipe, "train", device), load_data(recipe, split, device)
    checkpoint.seed_all(seed)
    start_from = recipe.evaluate.start_from
    model = make_model(recipe, train_set, device, start_from)
    origin = weights.origin(start_from) if start_from else {}
    report = zoo.replace_activations(model, found)
    if recipe.compile == "model":
        model.forward = torch.compile(model.forward)
    settings = recipe.evaluate
    batches = make_batches(recipe, train_set, train_set, settings.batch_size, seed, train=True)
    tests = make_batches(recipe, test_set, train_set, 256, seed, train=False)
    step = WeightStep(model, settings.weights, settings.epochs, len(batches), recipe.amp)
    first, log_end, values = 0, 0, dict[str, float]()

    def load_state(state: dict[str, Any]) -> None:
        nonlocal first, log_end, values
        model.load_state_dict(state["model"])
        step.load_state_dict(state["step"])
        checkpoint.set_rng_state(state["rng"])
        first, log_end, values = state["epoch"], state["log"], state["values"]

    if folder.half_done:
        checkpoint.restore(folder.checkpoint_file, load_state)
    folder.begin()
    with (
        folder.open_log(wandb, group) as log,
        tqdm(
            total=settings.epochs, initial=first, disable=quiet or None, unit="epoch", desc=f"{found.name} seed {seed}"
        ) as bar,
    ):
        log.truncate_to(log_end)  # what came after the checkpoint comes again
        for epoch in range(first, settings.epochs):
            begin, total = time.perf_counter(), torch.zeros((), device=device)
            model.train()
            for images, labels in batches.epoch(epoch):
                with step.autocast():
                    loss = F.cross_entropy(model(images), labels)
                total += step(loss)
            seconds = time.perf_counter() - begin
            test_accuracy, test_loss = accuracy(model, tests.epoch(0), step)
            values = {"train_loss": float(total) / len(batches), f"{split}_accuracy": test_accuracy, f"{split}_loss": test_loss}
            log.log("epoch", epoch=epoch + 1, **values, skipped=step.skipped, seconds=seconds)
            bar.set_postfix({"loss": f"{values['train_loss']:.3f}", split: f"{test_accuracy:.2f} %"})
            bar.update()
            state = {"epoch": epoch + 1, "model": model.state_dict(), "step": step.state_dict(), "values": values}
            checkpoint.save(folder.checkpoint_file, {**state, "rng": checkpoint.rng_state(), "log": log.sync()})
        summary = {
            **facts, "model": recipe.model, "data": recipe.data.name, "train_images": len(train_set.labels),
            f"{split}_images": len(test_set.labels), "measured_on": split, "epochs": settings.epochs, "report": str(report),
            **origin, "formula": found.formula, **values, "skipped": step.skipped,
        }  # fmt: skip
        trained_on = {"input_size": list(train_set.images.shape[1:]), "mean": list(train_set.mean), "std": list(train_set.std)}
        weights.save_pretrained(model, folder.weights, pretrained_cfg=trained_on)
        folder.finish(summary)
        show_result(log, folder, found.genotype or found.layer())
    return summary
