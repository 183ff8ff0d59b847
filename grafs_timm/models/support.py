"""Measure how each timm architecture takes an activation, by its ``act_layer`` argument and by ``create_model``.

Models are built on the meta device, without weights. ``tools/make_support.py`` writes the committed table, support.csv beside
this file, which names its timm version.
"""

from __future__ import annotations

import csv
import fnmatch
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..activations.activation import FormulaActivation
from ..errors import GrafsError, UnknownNameError
from ..utils.files import write_whole
from ..utils.suggest import nearest
from ..zoo import lookup as zoo
from . import families, functional, surgery
from .replace import replace_activations

TABLE = Path(__file__).with_name("support.csv")

# Which activations timm's own argument reaches, given a class
WAYS = {
    "all": "every activation that is meant, and no other",
    "more": "those and others, such as squeeze-and-excitation's",
    "part": "only some of those that are meant",
    "ignored": "none, without an error",
    "refused": "an error",
}


@dataclass(frozen=True)
class Row:
    """Describe one architecture.

    Args:
        architecture: timm's name.
        family: As in `families`.
        act_layer: One of ``WAYS``, for a class given as timm's ``act_layer``.
        by_name: The same for a zoo name.
        replaced: Number of activations that `create.create_model` replaces.
        main_left: The blocks' own activations that are not replaced, with reasons.
        others_left: Gates and small side networks, which `surgery` does not replace.
    """

    architecture: str
    family: str
    act_layer: str
    by_name: str
    replaced: int
    main_left: str
    others_left: str


def examine(architecture: str) -> Row:
    """Measure one architecture of the installed timm by three builds on the meta device, in 0.1 to 1 s."""
    model = _built(architecture)
    functional.expose(model)
    meant = {name for name, _, _, reason in surgery.find_sites(model) if reason is None}
    try:
        report = replace_activations(model, _probe())
        replaced, left = report.replaced, report.left
    except GrafsError:
        replaced, left = 0, list(surgery.without_module(model))
    main = [(name, reason) for name, reason in left if not surgery.is_aside(reason)]
    others = [(name, reason) for name, reason in left if surgery.is_aside(reason)]
    by_class, by_name = (_way(meant, _reached(architecture, given)) for given in (zoo.act_layer(_probe()), _probe()))
    family = families.family_of(architecture)
    return Row(architecture, family, by_class, by_name, replaced, _counted(main), _counted(others))


def _built(architecture: str, **settings: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model(architecture, **settings)
    return model


def _probe() -> str:
    return next(iter(zoo.entries()))


def _reached(architecture: str, act_layer: Any) -> set[str] | None:
    """Return the names of the modules that are act_layer's when it is given to timm; None where that is an error."""
    try:
        model = _built(architecture, act_layer=act_layer)
        functional.expose(model)
    except Exception:  # any error of a constructor that does not take the argument
        return None
    return {name for name, module in model.named_modules() if isinstance(module, FormulaActivation)}


def _way(meant: set[str], reached: set[str] | None) -> str:
    if reached is None:
        return "refused"
    if not reached:
        return "ignored"
    if meant and meant <= reached:
        return "all" if meant == reached else "more"
    return "part"


def _counted(left: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in Counter(reason for _, reason in left).items())


def table(pattern: str = "*") -> list[Row]:
    """Return the committed rows whose architecture matches a shell pattern. Raises UnknownNameError if there is none."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        _, *lines = csv.reader(line for line in file if not line.startswith("#"))
    rows = [Row(a, b, c, d, int(n), main, others) for a, b, c, d, n, main, others in lines]
    found = [row for row in rows if fnmatch.fnmatch(row.architecture, pattern)]
    if not found:
        raise UnknownNameError(f"no architecture {pattern!r} in the table{nearest(pattern, [r.architecture for r in rows])}")
    return found


def timm_version() -> str:
    """Return the timm version of the committed table."""
    return TABLE.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# timm ").strip()


def write(rows: Iterable[Row], path: Path = TABLE) -> None:
    """Write the table."""
    lines = [f"# timm {timm.__version__}", ",".join(field.name for field in fields(Row))]
    lines += [",".join(str(value) for value in astuple(row)) for row in rows]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def summary(rows: list[Row]) -> str:
    """Make the page docs/support.md: counts per way and per family, and the list of what is not replaced."""
    count = len(rows)
    clean = sum(row.replaced > 0 and not row.main_left for row in rows)
    ways, by_name = Counter(row.act_layer for row in rows), Counter(row.by_name for row in rows)
    lines = [
        "# Which timm architecture takes an activation how", "",
        f"timm {timm.__version__}, {count} architectures, measured on the meta device by `python tools/make_support.py`, which",
        "writes this page and [the table](../grafs_timm/models/support.csv). `grafs-timm models 'PATTERN'` prints its rows.",
        "",
        f"**`grafs_timm.create_model(name, activation=...)` replaces every block's own activation in {clean} of {count}**"
        f" ({100 * clean / count:.2f} %).", "",
        "| timm's own `act_layer=` reaches | given a class | given a zoo name |", "|---|---|---|",
        *(
            f"| {meaning} (`{way}`) | {ways[way]} ({100 * ways[way] / count:.0f} %) | {by_name[way]}"
            f" ({100 * by_name[way] / count:.0f} %) |"
            for way, meaning in WAYS.items()
        ), "",
        "The class of a name is `grafs_timm.act_layer(name)`.", "",
        "## What is left", "", "| architecture | replaced | left |", "|---|---|---|",
        *(f"| {r.architecture} | {r.replaced} | {r.main_left} |" for r in rows if r.main_left or not r.replaced), "",
        "Gates, soft-max and the small networks of squeeze-and-excitation and of position biases are not replaced"
        " (`also=` adds them, but for soft-max).", "",
        "## By family", "",
        "| family | architectures | " + " | ".join(WAYS) + " | nothing left |", "|---|" + "---|" * (len(WAYS) + 2),
    ]  # fmt: skip
    for family in sorted({row.family for row in rows}):
        own = [row for row in rows if row.family == family]
        cells = [sum(row.act_layer == way for row in own) for way in WAYS]
        cells.append(sum(row.replaced > 0 and not row.main_left for row in own))
        lines.append(f"| {family} | {len(own)} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def as_text(rows: list[Row]) -> str:
    """Align rows in columns for a terminal."""
    cells = [[field.name for field in fields(Row)], *([str(value) or "-" for value in asdict(row).values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
