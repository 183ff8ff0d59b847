"""Draw the pictures of a matrix: a forest plot of the differences to the default activation, and a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..activations.named import Kind
from ..utils.figures import new_figure, save_figure
from .forest import COLOURS, Line, draw_panel, legend, limits, reach
from .report_table import GroupRow, Row, Table
from .results import Place
from .verdict import Measure

NAMES: dict[Kind, str] = {"found": "found", "random": "random cell", "baseline": "baseline"}
LONGEST = 34  # characters of a label; longer ones lose their middle
MOST_WIDE = 5  # columns of a heat map with mean and sd on one line


def forest(table: Table, path: str | Path) -> Path:
    """Draw paired differences to the default activation with 95 % intervals, a panel for each model and data set.

    Args:
        table: of the matrix.
        path: of the picture.
    """
    models, data = _axes(table)
    rows = _forest_rows(table)
    height = 0.27 * len(rows) + 0.95
    width = 2.0 + 3.4 * len(data)
    figure = new_figure(figsize=(max(width, 7.0), height * len(models) + 0.9))
    panels = figure.subplots(len(models), len(data), squeeze=False)
    for i, model in enumerate(models):
        for j, name in enumerate(data):
            place = Place(model, name)
            if place in table.places:
                _forest_panel(panels[i, j], table, place, rows, labelled=j == 0)
            else:
                panels[i, j].set_axis_off()
    _forest_legend(figure, table)
    return save_figure(figure, path)


def heatmap(table: Table, path: str | Path) -> Path:
    """Draw the mean ± sd of every activation by model and data set, coloured by its difference to the default activation.

    Args:
        table: of the matrix.
        path: of the picture.
    """
    labels, where = list(table.activations), table.places
    narrow = len(where) > MOST_WIDE
    values = [[_shade(table, label, place) for place in where] for label in labels]
    sizes = [abs(value) for row in values for value in row if value is not None]
    most = reach(sizes, floor=10.0 ** (1 - table.measure.digits))
    width, height = (0.72, 0.44) if narrow else (1.75, 0.34)
    figure = new_figure(figsize=(max(3.6 + width * len(where), 6.5), (3.0 if narrow else 1.6) + height * len(labels)))
    axes = figure.subplots()
    picture = [[math.nan if value is None else value for value in row] for row in values]
    axes.set_facecolor("#dcdfe3")
    image = axes.imshow(picture, cmap="BrBG", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    for y, label in enumerate(labels):
        for x, place in enumerate(where):
            row, value = table.rows[label, place], values[y][x]
            dark = value is not None and abs(value) > 0.55 * most
            axes.text(
                x, y, _cell(row, narrow, table.measure), ha="center", va="center", fontsize=8, color="white" if dark else "#222"
            )
            if label == row.usual:
                axes.add_patch(_box(x, y))
    _heads(axes, table, narrow)
    more = sizes and max(sizes) > most
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=24, extend="both" if more else "neither", extendfrac=0.03)
    bar.set_label(f"difference to the default activation, {table.measure.unit}", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    split = table.results[0].split
    text = (
        f"{split}, {table.measure.noun}: mean ± sd over training seeds\nboxed: default activation; grey: not compared with it"
    )
    axes.set_xlabel(text, fontsize=9)
    return save_figure(figure, path)


def _heads(axes: Any, table: Table, narrow: bool) -> None:
    where, labels = table.places, list(table.activations)
    if narrow:
        heads = [f"{_short(place.model, 24)} · {_short(place.data, 18)}" for place in where]
        axes.set_xticks(range(len(where)), heads, fontsize=8.5, rotation=40, ha="left", rotation_mode="anchor")
    else:
        axes.set_xticks(
            range(len(where)), [f"{_short(place.model, 24)}\n{_short(place.data, 24)}" for place in where], fontsize=9
        )
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels], fontsize=9)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_color(COLOURS[table.activations[label].kind])
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)


def _axes(table: Table) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(place.model for place in table.places)), list(dict.fromkeys(place.data for place in table.places))


def _forest_rows(table: Table) -> list[Any]:
    """Groups, and activations that are not the default one everywhere, from top to bottom."""
    groups = [group for group in table.groups if group.several]
    usual = {table.default_at(place) for place in table.places}
    single = [label for label in table.activations if usual != {label}]
    return [*groups, *single]


def _forest_panel(axes: Any, table: Table, place: Place, rows: Sequence[Any], labelled: bool) -> None:
    found = [table.rows[row, place] if isinstance(row, str) else table.group_rows[row, place] for row in rows]
    lines = [
        Line(_short(name), row.kind, row.to_default, bold=isinstance(row, GroupRow), group=isinstance(row, GroupRow))
        for name, row in zip((row if isinstance(row, str) else row.label for row in rows), found, strict=True)
    ]
    for i, row in enumerate(found):
        y = len(found) - 1 - i
        if i % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#f3f5f7", zorder=0, lw=0)
        axes.text(1.015, y, _count(row), transform=axes.get_yaxis_transform(), fontsize=7.5, va="center", color="#555")
    title = f"{_short(place.model)}\n{_short(place.data)}"
    unit = f"difference to {_short(table.default_at(place) or '?')}, {table.measure.unit}"
    draw_panel(axes, lines, limits(row.to_default for row in found if row.to_default), title, unit, 8.5)
    axes.tick_params(axis="y", labelleft=labelled)


def _count(row: Row | GroupRow) -> str:
    """How many seeds are paired, of a group for how many members."""
    if isinstance(row, Row) and row.activation == row.usual:
        return "default"
    if row.to_default is None:
        return ""
    own = row.to_default.difference
    return f"n={own.n}" if own.members is None else f"{own.members}×{own.n}"


def _forest_legend(figure: Any, table: Table) -> None:
    kinds = [kind for kind in COLOURS if any(row.kind == kind for row in table.activations.values())]
    marks: list[dict[str, Any]] = [{"color": COLOURS[kind], "label": NAMES[kind]} for kind in kinds]
    if any(group.several for group in table.groups):
        marks.append({"color": "#222", "marker": "D", "ms": 6, "lw": 2.2, "label": "mean of a group: members × paired seeds"})
    shown = [row.to_default for row in table.rows.values()]
    shown += [row.to_default for row in table.group_rows.values() if row.group.several]
    if any(own and own.difference.mean is not None and not own.has_interval for own in shown):
        marks.append({"color": "#222", "mfc": "white", "lw": 0, "label": "too little for an interval"})
    title = f"paired difference in {table.measure.name}, right is better; 95 % interval; n: paired seeds"
    legend(figure, marks, title, len(marks) if figure.get_figwidth() > 2.0 * len(marks) else 3)


def _shade(table: Table, label: str, place: Place) -> float | None:
    row = table.rows[label, place]
    if label == row.usual:
        return 0.0 if row.mean.n else None
    return row.to_default.difference.mean if row.to_default else None


def _cell(row: Row, narrow: bool, measure: Measure) -> str:
    if row.mean.mean is None:
        return "no\nfigure" if narrow else "no figure"
    return measure.text(row.mean.mean, row.mean.sd).replace(" ", "\n" if narrow else " ", 1)


def _box(x: int, y: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, fill=False, edgecolor="#222", lw=1.2)


def _short(text: str, longest: int = LONGEST) -> str:
    text = " ".join(text.split())
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-(longest // 2 - 1) :]}"
    return text.replace("$", r"\$")  # which would start mathematics
