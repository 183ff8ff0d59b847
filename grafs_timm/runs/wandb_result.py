"""Show a finished run in W&B: the summary, the formula and its plot, the epochs as a table, the files as artifacts."""

from __future__ import annotations

import re
import warnings
from typing import Any

from torch import nn

from ..activations import genotype as genotypes
from ..activations import plots
from ..activations.genotype import Genotype
from ..errors import MirrorWarning
from .folder import RunFolder
from .tracking import RunLog, read_log

_LONG = ("genotype", "survivors")  # dictionaries, which have files of their own


def show_result(log: RunLog, folder: RunFolder, found: Genotype | nn.Module) -> None:
    """Show the finished run in ``folder`` where it is mirrored. Never raises: the run is complete without W&B.

    Writes plots/function.png and genotype.json where the run did not.

    Args:
        found: The function that was found, or trained with.
    """
    if not log.mirrored:
        return
    try:
        summary = folder.summary()
        log.summary(**{key: value for key, value in summary.items() if key not in _LONG})
        log.formula("result/formula", summary["formula"], found.latex if isinstance(found, Genotype) else "")
        if not (folder.plots / "function.png").exists():
            plots.plot_functions({"f": found}, folder.plots / "function.png")
        for picture in sorted(folder.plots.glob("*.png")):
            log.image(f"result/{picture.stem}", picture)
        if isinstance(found, Genotype) and not folder.genotype_file.exists():
            genotypes.save(found, folder.genotype_file)
        columns, rows = _epochs(read_log(folder.path))
        log.table("result/epochs", columns, rows)
        for kind, file in (("genotype", folder.genotype_file), ("summary", folder.summary_file)):
            if file.exists():
                log.artifact(re.sub(r"[^A-Za-z0-9._-]+", "-", f"{folder.title} {kind}"), kind, file)
    except Exception as error:
        warnings.warn(f"W&B is not shown the result of {folder.path} ({error}); the folder has it", MirrorWarning, stacklevel=2)


def _epochs(lines: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of the numbers and texts that the lines of all epochs share."""
    epochs = [line for line in lines if line.get("kind") == "epoch"]
    columns = [
        key for key, value in (epochs[0] if epochs else {}).items()
        if key not in ("kind", "time") and not isinstance(value, dict | list)
    ]  # fmt: skip
    return columns, [[epoch.get(key) for key in columns] for epoch in epochs]
