"""Estimate how long a training takes, from finished ones or by timing a few steps of the model on this machine."""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ..config.schema import ImageData, Recipe, TextData
from ..data import text_source
from ..data.images import load_split, open_dataset
from ..data.tokens import Bytes
from ..errors import GrafsError
from ..runs import fitting
from ..runs.weight_step import loss_of
from .results import Result, read_epochs

_STEPS = 3
_ENOUGH = 20.0  # seconds; a step that takes longer is timed once
_FORWARD = 1 / 3  # of a training step
_PIXELS = 128 * 32 * 32  # of a timed batch on the CPU, whose time is in proportion to its images
_TOKENS = 16 * 256  # the same of text
_BYTES_A_PAIR = 3  # of text for each token of byte pairs, about; what it is, a tokenizer tells only after reading it


def parameters(recipe: Recipe) -> int:
    """Count the parameters of the recipe's model, built without memory; 1 where it can't be built so."""
    try:
        with torch.device("meta"):
            model = timm.create_model(recipe.model, **recipe.model_kwargs)
    except Exception:  # whatever an architecture raises; the training itself says what does not fit
        return 1
    return sum(weight.numel() for weight in model.parameters())


def epochs_done(folder: Path) -> int:
    """Return how many epochs the run in ``folder`` has logged."""
    return max((line["epoch"] for line in read_epochs(folder)), default=0)


def epoch_seconds(folders: Iterable[Path]) -> float | None:
    """Return the median seconds of an epoch in the logs of ``folders``; None without two epochs in any."""
    gaps = []
    for folder in folders:
        lines = [(line["time"], line["epoch"]) for line in read_epochs(folder)]
        steps = ((after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(lines))
        gaps += [seconds / epochs for seconds, epochs in steps if seconds > 0]
    return statistics.median(gaps) if gaps else None


def timed_epoch(recipe: Recipe, device: str, processes: int = 1) -> float | None:
    """Time an epoch with its test: three training steps on noise at the recipe's batch size.

    Loading data, exchanging gradients, and an activation other than the model's own are left out.

    Args:
        recipe: of the training.
        device: to time on.
        processes: how many share a training; one of them is timed.

    Returns:
        Seconds; None where the model can't be run.
    """
    try:
        recipe, _ = fitting.fit(recipe, device)
        if isinstance(recipe.data, TextData):
            (train, test), made = _text_batches(recipe, recipe.data), partial(_of_text, recipe, recipe.data)
        else:
            (train, test), made = _image_batches(recipe, recipe.data), partial(_of_images, recipe, recipe.data)
        seconds = _step_seconds(recipe, made, device, processes)
    except (GrafsError, KeyError, TypeError, ValueError, RuntimeError, AssertionError, OSError):
        return None  # the training itself will say what is wrong
    return seconds * ((recipe.evaluate.steps_per_epoch or int(train)) + _FORWARD * test)


def _image_batches(recipe: Recipe, data: ImageData) -> tuple[float, float]:
    """(of the training images, of those that are measured), at the recipe's batch size."""
    info = open_dataset(data.name)
    train = min(filter(None, (info.splits[data.train_split].num_samples, data.train_images)))
    test = min(filter(None, (info.splits[data.test_split].num_samples, data.validation_images or data.test_images)))
    return train / recipe.evaluate.batch_size, test / recipe.evaluate.batch_size


def _text_batches(recipe: Recipe, data: TextData) -> tuple[float, float]:
    """The same of windows of text, by its length in bytes."""
    how = data.text
    parts = text_source.read_parts(data.name, how.held_out, data.train_split, data.test_split)
    size = (1 if how.tokenizer == "bytes" else _BYTES_A_PAIR) * how.context * recipe.evaluate.batch_size
    return len(parts.train) / size, len(parts.test) / size


def _step_seconds(
    recipe: Recipe, made: Callable[[int, str], tuple[nn.Module, Tensor, Tensor]], device: str, processes: int
) -> float:
    share = max(recipe.evaluate.batch_size // processes, 1)
    rows = max(share // recipe.evaluate.accumulate, 1)
    model, inputs, labels = made(rows, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.amp)
    clock = _processor_time if device == "cpu" else time.perf_counter
    seconds: list[float] = []
    while len(seconds) < _STEPS + 1 and sum(seconds) < _ENOUGH:
        begin = clock()
        with torch.autocast(torch.device(device).type, autocast) if autocast else contextlib.nullcontext():
            loss = loss_of(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(clock() - begin)
    return statistics.median(seconds[1:] or seconds) * share / len(inputs)  # the first one also sets up


def _processor_time() -> float:
    """Seconds of this process's threads, divided by their number: what a quiet machine would take, however busy this one is."""
    return time.process_time() / torch.get_num_threads()


def _of_images(recipe: Recipe, data: ImageData, rows: int, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """(model, images, labels), of fewer ``rows`` where a CPU would take long."""
    channels, size = _shape(data)
    classes = len(open_dataset(data.name).classes or range(1000))
    if device == "cpu":
        rows = min(rows, max(_PIXELS // size**2, 2))
    model = timm.create_model(recipe.model, **{"num_classes": classes, "in_chans": channels, **recipe.model_kwargs}).to(device)
    images, labels = torch.randn(rows, channels, size, size, device=device), torch.zeros(rows, dtype=torch.int64, device=device)
    if recipe.channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    return model, images, labels


def _of_text(recipe: Recipe, data: TextData, rows: int, device: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The same of windows of tokens, with the tokens themselves as labels."""
    how = data.text
    vocab_size = Bytes.vocab_size if how.tokenizer == "bytes" else how.vocab_size
    if device == "cpu":
        rows = min(rows, max(_TOKENS // how.context, 2))
    settings = {"vocab_size": vocab_size, "context": how.context, **recipe.model_kwargs}
    tokens = torch.randint(vocab_size, (rows, how.context), device=device)
    return timm.create_model(recipe.model, **settings).to(device), tokens, tokens


def _shape(data: ImageData) -> tuple[int, int]:
    """Channels and pixels of the images as they come to the model."""
    if data.image_size and data.channels:
        return data.channels, data.image_size
    if data.loading == "stream":
        size = data.transform.get("input_size", data.image_size or 224)
        return data.channels or 3, int(size[-1] if isinstance(size, list) else size)
    channels, size = load_split(open_dataset(data.name), data.train_split, limit=1).images.shape[1:3]
    return data.channels or channels, data.image_size or size


def costs(searching: float, trained: Sequence[Result], usual: Sequence[Result], epochs: int) -> dict[str, Any]:
    """Sum up what searches and trainings cost.

    Args:
        searching: seconds of the searches.
        trained: all trainings.
        usual: trainings with the default activation, which give the seconds of an epoch.
        epochs: of a full training.

    Returns:
        Seconds of both, and the total in full trainings with the default activation.
    """
    training = math.fsum(row.seconds or 0.0 for row in trained)
    each = [row.seconds / row.epochs for row in usual if row.seconds]
    full = epochs * sum(each) / len(each) if each else math.nan
    units = (searching + training) / full if full else math.nan
    return {
        "search_seconds": round(searching, 1), "training_seconds": round(training, 1),
        "full_training_seconds": round(full, 1) if math.isfinite(full) else None,
        "full_trainings": round(units, 2) if math.isfinite(units) else None,
    }  # fmt: skip
