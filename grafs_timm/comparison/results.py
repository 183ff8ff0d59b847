"""Hold what came of a training as a `Result`, and read it from the log in a run folder or in a ledger's line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..activations.named import Kind
from ..config.schema import Figure
from ..errors import RunError
from ..runs.folder import SUMMARY
from ..runs.tracking import read_log
from .contenders import Contender
from .verdict import MEASURES, Measure

Log = Sequence[Mapping[str, Any]]  # a line for each epoch


class Place(NamedTuple):
    """One model and one data set, on which activations are compared with one another."""

    model: str
    data: str

    def __str__(self) -> str:
        return f"{self.model} on {self.data}"


@dataclass(frozen=True)
class Result:
    """One training from scratch.

    Args:
        activation: its label, one function each.
        kind: "found", "random" or "baseline".
        batch: the batch of searches that found it, if any.
        search_seed: the search in that batch.
        sha256: of its genotype; None without one.
        model: label of the model.
        data: label of the data set.
        seed: of the training.
        accuracy: in per cent on ``split`` after ``epochs``.
        loss: in nats a sample or token.
        split: "test" or "validation".
        epochs: of the training.
        seconds: it took; None where unknown.
        compared_by: which of the two counts.

    >>> row = Result("relu", "baseline", None, None, None, "resnet18", "cifar10", 0, 91.5, 0.3, "test", 50)
    >>> row.value, str(row.place)
    (91.5, 'resnet18 on cifar10')
    """

    activation: str
    kind: Kind
    batch: str | None
    search_seed: int | None
    sha256: str | None
    model: str
    data: str
    seed: int
    accuracy: float
    loss: float
    split: Literal["test", "validation"]
    epochs: int
    seconds: float | None = None
    compared_by: Literal["accuracy", "loss"] = "accuracy"

    @property
    def measure(self) -> Measure:
        return MEASURES[self.compared_by]

    @property
    def value(self) -> float:
        """Return what counts, as measured."""
        return self.accuracy if self.compared_by == "accuracy" else self.loss

    @property
    def place(self) -> Place:
        return Place(self.model, self.data)

    @property
    def cell(self) -> tuple[str, Place, int]:
        return self.activation, self.place, self.seed

    @property
    def has_figure(self) -> bool:
        return math.isfinite(self.value)


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
        if not (log := read_epochs(folder)):
            raise ValueError("the log beside it has no epoch")
        return parse(log, contender, place, seed, split, figure)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not the summary of a training: {error!r}; remove it to train that cell again") from error
