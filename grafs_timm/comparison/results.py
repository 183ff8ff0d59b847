"""What the folder of an evaluation says of it, as a row that statistics take."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from ..errors import RunError
from ..runs.tracking import read_log
from .contenders import Contender
from .statistics import Result


def read_result(folder: Path, candidate: Contender, model: str, data: str, seed: int) -> Result:
    """Of the finished evaluation in ``folder``. RunError where its summary or its log can't be read."""
    path = folder / "summary.json"
    try:
        summary: Any = json.loads(path.read_bytes())
        split = summary["measured_on"]
        seconds = sum(float(line["seconds"]) for line in read_log(folder) if line["kind"] == "epoch")
        return Result(
            candidate.label, candidate.kind, candidate.batch, candidate.search_seed, candidate.sha256, model, data, seed,
            float(summary[f"{split}_accuracy"]), float(summary[f"{split}_loss"]), split, int(summary["epochs"]), seconds,
            compared_by(f"{split}_tokens" in summary),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no summary of an evaluation: {error!r}; remove it and that cell is trained again") from error


def compared_by(text: bool) -> Literal["accuracy", "loss"]:
    """Language models by their loss, all others by accuracy."""
    return "loss" if text else "accuracy"


def no_result(
    candidate: Contender, model: str, data: str, seed: int, split: Any, epochs: int, text: bool = False
) -> Result:  # fmt: skip
    """Of an evaluation that failed."""
    origin = (candidate.label, candidate.kind, candidate.batch, candidate.search_seed, candidate.sha256)
    return Result(*origin, model, data, seed, math.nan, math.nan, split, epochs, None, compared_by(text))
