"""Read what came of a training, from the log in its run folder or in a ledger's line, as a `Result`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.settings import Figure
from ..errors import RunError
from ..runs.folder import SUMMARY
from ..runs.tracking import read_log
from .contenders import Contender
from .statistics import Place, Result

Log = Sequence[Mapping[str, Any]]  # a line for each epoch


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Return the epochs in the log of the run in ``folder``. RunError naming a line that is damaged."""
    return [line for line in read_log(folder) if line.get("kind") == "epoch"]


def run_seconds(log: Log, search: bool = False) -> float:
    """Return how long a run took: a search's log counts from its begin, a training's each epoch apart."""
    seconds = [float(each.get("seconds", 0.0)) for each in log]
    return seconds[-1] if search and seconds else sum(seconds)


def parse(log: Log, contender: Contender, place: Place, seed: int, split: Any, figure: Figure, epochs: int = 0) -> Result:
    """Make the result of a training from its log.

    Args:
        log: its epochs; an empty one is of a training that failed, which has no figure.
        contender: what was trained.
        place: the model and data set.
        seed: of the training.
        split: whose figures count, of those that were measured.
        figure: what activations are compared by.
        epochs: how many there were to be, where the log is empty.

    Raises:
        KeyError, ValueError: where the last epoch lacks a figure of the split.
    """
    accuracy, loss = (float(log[-1][f"{split}_{name}"]) if log else math.nan for name in ("accuracy", "loss"))
    return Result(
        contender.label, contender.kind, contender.batch, contender.search_seed, contender.sha256, place.model, place.data,
        seed, accuracy, loss, split, len(log) or epochs, run_seconds(log) if log else None, figure,
    )  # fmt: skip


def read_result(folder: Path, contender: Contender, place: Place, seed: int) -> Result:
    """Read the finished training in ``folder``. RunError where its summary or its log can't be read."""
    path = folder / SUMMARY
    try:
        summary: Any = json.loads(path.read_bytes())
        split = summary["measured_on"]
        figure: Figure = "loss" if f"{split}_tokens" in summary else "accuracy"
        return parse(read_epochs(folder), contender, place, seed, split, figure, int(summary["epochs"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not the summary of a training: {error!r}; remove it to train that cell again") from error
