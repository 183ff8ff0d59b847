"""How long a training will take: from those that are done, else from a few steps of the model on this machine."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F

from .data import load_split, open_dataset
from .errors import GrafsError
from .settings import Recipe
from .tracking import read_log

_STEPS = 3
_ENOUGH = 20.0  # seconds; a step that takes longer is timed once
_FORWARD = 1 / 3  # of a training step
_PIXELS = 128 * 32 * 32  # of a timed batch on the CPU, whose time is in proportion to its images


def parameters(recipe: Recipe) -> int:
    """How many numbers the recipe's model has, built without memory; 1 where it can't be built so."""
    try:
        with torch.device("meta"):
            model = timm.create_model(recipe.model, **recipe.model_kwargs)
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError, OSError):
        return 1
    return sum(weight.numel() for weight in model.parameters())


def epochs_done(folder: Path) -> int:
    return max((line["epoch"] for line in read_log(folder) if line["kind"] == "epoch"), default=0)


def epoch_seconds(folders: Iterable[Path]) -> float | None:
    """Median seconds an epoch, from one line in the log to the next, over all ``folders``; None where there are no two."""
    gaps = []
    for folder in folders:
        lines = [(line["time"], line["epoch"]) for line in read_log(folder) if line["kind"] == "epoch"]
        steps = ((after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(lines))
        gaps += [seconds / epochs for seconds, epochs in steps if seconds > 0]
    return statistics.median(gaps) if gaps else None


def timed_epoch(recipe: Recipe, device: str, processes: int = 1) -> float | None:
    """Seconds of an epoch and its test, from three training steps on noise at the recipe's batch size; None where it fails.

    Timed is what one of ``processes`` has to do. What the data take to load, the processes to exchange gradients, and an
    activation other than the model's own, are left out.
    """
    data, settings = recipe.data, recipe.evaluate
    if data.text:
        return None  # how long a text is in tokens, its reader alone knows
    try:
        info = open_dataset(data.name)
        train = min(filter(None, (info.splits[data.train_split].num_samples, data.train_images)))
        test = min(filter(None, (info.splits[data.test_split].num_samples, data.validation_images or data.test_images)))
        seconds = _step_seconds(recipe, len(info.classes or range(1000)), device, processes)
    except (GrafsError, KeyError, TypeError, ValueError, RuntimeError, AssertionError, OSError):
        return None  # the training itself will say what is wrong
    return seconds * (train // settings.batch_size + _FORWARD * test / settings.batch_size)


def _step_seconds(recipe: Recipe, classes: int, device: str, processes: int) -> float:
    channels, size = _shape(recipe)
    share = max(recipe.evaluate.batch_size // processes, 1)
    rows = max(share // recipe.evaluate.accumulate, 1)
    if device == "cpu":
        rows = min(rows, max(_PIXELS // size**2, 2))
    model = timm.create_model(recipe.model, **{"num_classes": classes, "in_chans": channels, **recipe.model_kwargs}).to(device)
    images, labels = torch.randn(rows, channels, size, size, device=device), torch.zeros(rows, dtype=torch.int64, device=device)
    if recipe.channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.amp)
    seconds: list[float] = []
    while len(seconds) < _STEPS + 1 and sum(seconds) < _ENOUGH:
        begin = time.perf_counter()
        with torch.autocast(torch.device(device).type, autocast) if autocast else contextlib.nullcontext():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:] or seconds) * share / rows  # the first one also sets up


def _shape(recipe: Recipe) -> tuple[int, int]:
    """Channels and pixels of the images as they come to the model."""
    data = recipe.data
    if data.image_size and data.channels:
        return data.channels, data.image_size
    if data.loading == "stream":
        size = data.transform.get("input_size", data.image_size or 224)
        return data.channels or 3, int(size[-1] if isinstance(size, list) else size)
    channels, size = load_split(open_dataset(data.name), data.train_split, limit=1).images.shape[1:3]
    return data.channels or channels, data.image_size or size
