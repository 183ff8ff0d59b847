"""Pictures of a matrix: a forest plot of the differences to the usual activation, and a heat map of all accuracies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..utils.figures import new_figure, save_figure
from .measure import Measure
from .report_table import GroupRow, Row, Table
from .statistics import Difference, Kind, Place

COLOURS: dict[Kind, str] = {"found": "#c0392b", "random": "#2c6fbb", "baseline": "#5d6770"}
NAMES: dict[Kind, str] = {"found": "found", "random": "random cell", "baseline": "baseline"}
LONGEST = 34  # characters of a label; longer ones lose their middle
MOST_WIDE = 5  # columns of a heat map with mean and sd on one line


def forest(table: Table, path: str | Path) -> Path:
    """Paired differences to the usual activation with their 95 % intervals, a panel for each model and data set."""
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
    """Mean accuracy ± sd of every activation at every place, coloured by its difference to the usual activation there."""
    labels, where = list(table.activations), table.places
    narrow = len(where) > MOST_WIDE
    values = [[_shade(table, label, place) for place in where] for label in labels]
    sizes = [abs(value) for row in values for value in row if value is not None]
    reach = _reach(sizes, floor=10.0 ** (1 - table.measure.digits))
    width, height = (0.72, 0.44) if narrow else (1.75, 0.34)
    figure = new_figure(figsize=(max(3.6 + width * len(where), 6.5), (3.0 if narrow else 1.6) + height * len(labels)))
    axes = figure.subplots()
    picture = [[math.nan if value is None else value for value in row] for row in values]
    axes.set_facecolor("#dcdfe3")
    image = axes.imshow(picture, cmap="BrBG", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    for y, label in enumerate(labels):
        for x, place in enumerate(where):
            row, value = table.rows[label, place], values[y][x]
            dark = value is not None and abs(value) > 0.55 * reach
            axes.text(
                x, y, _cell(row, narrow, table.measure), ha="center", va="center", fontsize=8, color="white" if dark else "#222"
            )
            if label == row.usual:
                axes.add_patch(_box(x, y))
    _heads(axes, table, narrow)
    more = sizes and max(sizes) > reach
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=24, extend="both" if more else "neither", extendfrac=0.03)
    bar.set_label(f"{table.measure.unit} beside the usual", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    split = table.results[0].split
    text = (
        f"{split}, {table.measure.noun}: mean ± sd over training seeds\nboxed: the usual activation; grey: not compared with it"
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
    """Groups, and activations that are not everywhere the usual one, from top to bottom."""
    groups = [group for group in table.groups if group.several]
    usual = {table.usual_at(place) for place in table.places}
    single = [label for label in table.activations if usual != {label}]
    return [*groups, *single]


def _forest_panel(axes: Any, table: Table, place: Place, rows: Sequence[Any], labelled: bool) -> None:
    found = [table.rows[row, place] if isinstance(row, str) else table.group_rows[row, place] for row in rows]
    low, high = _limits([row.to_usual.difference for row in found if row.to_usual], table.measure)
    axes.axvline(0, color="#222", lw=0.9, zorder=1)
    for i, row in enumerate(found):
        y = len(found) - 1 - i
        if i % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#f3f5f7", zorder=0, lw=0)
        _interval(axes, row, y, low, high, table.measure)
        own = row.to_usual.difference if row.to_usual else None
        usual = isinstance(row, Row) and row.activation == row.usual
        count = "usual" if usual else "" if own is None else f"n={own.n}" if own.members is None else f"{own.members}×{own.n}"
        axes.text(1.015, y, count, transform=axes.get_yaxis_transform(), fontsize=7.5, va="center", color="#555")
    heights = range(len(found) - 1, -1, -1)
    axes.set_yticks(heights, [_short(row if isinstance(row, str) else row.label) for row in rows], fontsize=8.5)
    for tick, row in zip(axes.get_yticklabels(), found, strict=True):
        tick.set_color(COLOURS[_kind(row)])
        tick.set_fontweight("bold" if isinstance(row, GroupRow) else "normal")
    axes.tick_params(axis="y", length=0, labelleft=labelled)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.5, len(found) - 0.5)
    axes.set_title(f"{_short(place.model)}\n{_short(place.data)}", fontsize=9)
    axes.set_xlabel(f"{table.measure.unit} beside {_short(table.usual_at(place) or '?')}", fontsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _interval(axes: Any, row: Row | GroupRow, y: int, low: float, high: float, measure: Measure) -> None:
    """One mean with its interval; what lies outside the panel ends in an arrow head at its edge."""
    own = row.to_usual.difference if row.to_usual else None
    colour, group = COLOURS[_kind(row)], isinstance(row, GroupRow)
    if own is None or own.mean is None:
        return
    inset = 0.012 * (high - low)
    if own.low is not None and own.high is not None:
        ends = max(own.low, low + inset), min(own.high, high - inset)
        axes.plot(ends, [y, y], color=colour, lw=2.2 if group else 1.4, zorder=2, solid_capstyle="butt")
        for end, outside, mark in ((ends[0], own.low < low, "<"), (ends[1], own.high > high, ">")):
            axes.plot(end, y, mark if outside else "|", color=colour, ms=4.5, zorder=2)
    if low < own.mean < high:
        face = colour if own.low is not None else "white"
        axes.plot(own.mean, y, "D" if group else "o", color=colour, mfc=face, ms=6 if group else 5, zorder=3)
    else:
        left = own.mean <= low
        axes.plot(low + inset if left else high - inset, y, "<" if left else ">", color=colour, ms=6, zorder=3)
        at = low + 4 * inset if left else high - 4 * inset
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9}
        text = f"mean {measure.apart(own.mean)}"
        axes.text(at, y, text, ha="left" if left else "right", va="center", fontsize=7.5, color=colour, bbox=box, zorder=4)


def _limits(differences: Iterable[Difference], measure: Measure) -> tuple[float, float]:
    """A panel's ends: 0 and all means but outliers, with what of the intervals doesn't push the means together."""
    known = [own for own in differences if own.mean is not None]
    means = [own.mean for own in known if own.mean is not None]
    halves = sorted(own.mean - own.low for own in known if own.mean is not None and own.low is not None)
    middle = halves[len(halves) // 2] if halves else 0.0
    least = 10.0**-measure.digits  # of what is shown
    reach = _reach([abs(value) for value in means], floor=5 * least, fine=500 * least)
    inside = [value for value in means if abs(value) <= reach] + [0.0]
    span = max(max(inside) - min(inside), 1.5 * middle, 10 * least)
    low = max(min([own.low for own in known if own.low is not None] + inside), min(inside) - span)
    high = min(max([own.high for own in known if own.high is not None] + inside), max(inside) + span)
    edge = 0.06 * (high - low) or 10 * least
    return low - edge, high + edge


def _reach(sizes: Sequence[float], floor: float, fine: float = 0.0) -> float:
    """The largest size, unless it's an outlier: then four times the third quartile. Up to ``fine`` none is one."""
    ordered = sorted(sizes)
    if not ordered:
        return floor
    return max(floor, min(ordered[-1], max(fine, 4 * ordered[(3 * (len(ordered) - 1)) // 4])))


def _forest_legend(figure: Any, table: Table) -> None:
    from matplotlib.lines import Line2D

    kinds = [kind for kind in COLOURS if any(row.kind == kind for row in table.activations.values())]
    marks = [Line2D([], [], color=COLOURS[kind], marker="o", ms=5, lw=1.4, label=NAMES[kind]) for kind in kinds]
    if any(group.several for group in table.groups):
        marks.append(Line2D([], [], color="#222", marker="D", ms=6, lw=2.2, label="mean of a group: members × paired seeds"))
    shown = [row.to_usual for row in table.rows.values()]
    shown += [row.to_usual for row in table.group_rows.values() if row.group.several]
    if any(own and own.difference.mean is not None and not own.has_interval for own in shown):
        marks.append(Line2D([], [], color="#222", marker="o", mfc="white", ms=5, lw=0, label="too little for an interval"))
    figure.legend(
        handles=marks,
        loc="outside upper center",
        ncols=len(marks) if figure.get_figwidth() > 2.0 * len(marks) else 3,
        frameon=False,
        fontsize=8.5,
        title=f"paired difference in {table.measure.name}, right is better; 95 % interval; n: paired seeds",
        title_fontsize=9,
    )


def _kind(row: Row | GroupRow) -> Kind:
    return row.kind if isinstance(row, Row) else row.group.kind


def _shade(table: Table, label: str, place: Place) -> float | None:
    row = table.rows[label, place]
    if label == row.usual:
        return 0.0 if row.mean.n else None
    return row.to_usual.difference.mean if row.to_usual else None


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
