"""Draw the pictures of reports and cards: forest plots of differences to the default activation, and a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..activations.named import Kind
from ..utils.figures import new_figure, save_figure
from .report_table import GroupRow, Row, Table
from .results import Place
from .verdict import Measure, Verdict

COLOURS: dict[Kind, str] = {"found": "#c0392b", "random": "#2c6fbb", "baseline": "#5d6770"}
PALE = 0.4
_INSET = 0.012  # of a panel's width: the distance of an arrow head from its edge
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


@dataclass(frozen=True)
class Line:
    """One line of a panel.

    Args:
        name: at the left.
        kind: gives the colour.
        verdict: what is drawn; None where there is no difference, as for the activation compared with.
        bold: whether the name is bold.
        group: whether it is a mean over several activations.
        alpha: of the mark.
    """

    name: str
    kind: Kind
    verdict: Verdict | None
    bold: bool = False
    group: bool = False
    alpha: float = 1.0


def draw_panel(axes: Any, lines: Sequence[Line], limits: tuple[float, float], title: str, xlabel: str, size: float) -> None:
    """Draw ``lines`` from top to bottom into matplotlib's ``axes``, with letters of ``size`` points."""
    axes.axvline(0, color="#222", lw=0.9, zorder=1)
    heights = range(len(lines) - 1, -1, -1)
    for y, line in zip(heights, lines, strict=True):
        if line.verdict and line.verdict.difference.mean is not None:
            _draw(axes, line, y, *limits)
    axes.set_yticks(heights, [line.name for line in lines], fontsize=size)
    for tick, line in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_color(COLOURS[line.kind])
        tick.set_fontweight("bold" if line.bold else "normal")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=size - 0.5)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlim(*limits)
    axes.set_ylim(-0.5, len(lines) - 0.5)
    axes.set_title(title, fontsize=size + 0.5)
    axes.set_xlabel(xlabel, fontsize=size)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw(axes: Any, line: Line, y: int, low: float, high: float) -> None:
    """One mean with its interval; what lies outside the panel ends in an arrow head at its edge."""
    assert line.verdict
    own, inset = line.verdict.difference, _INSET * (high - low)
    assert own.mean is not None
    ink: dict[str, Any] = {"color": COLOURS[line.kind], "alpha": line.alpha}
    if own.low is not None and own.high is not None and own.low < high and own.high > low:
        ends = max(own.low, low + inset), min(own.high, high - inset)
        axes.plot(ends, [y, y], lw=2.2 if line.group else 1.4, zorder=2, solid_capstyle="butt", **ink)
        for end, outside, mark in ((ends[0], own.low < low, "<"), (ends[1], own.high > high, ">")):
            axes.plot(end, y, mark if outside else "|", ms=4.5, zorder=2, **ink)
    if low < own.mean < high:
        face = ink["color"] if own.low is not None else "white"
        axes.plot(own.mean, y, "D" if line.group else "o", mfc=face, ms=6 if line.group else 5, zorder=3, **ink)
        return
    left = own.mean <= low
    axes.plot(low + inset if left else high - inset, y, "<" if left else ">", ms=6, zorder=3, **ink)
    at = low + 4 * inset if left else high - 4 * inset
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9}
    text, side = f"mean {line.verdict.measure.apart(own.mean)}", "left" if left else "right"
    axes.text(at, y, text, ha=side, va="center", fontsize=7.5, color=ink["color"], bbox=box, zorder=4)


def limits(verdicts: Iterable[Verdict], outliers: bool = True) -> tuple[float, float]:
    """Return a panel's ends: 0 and all means but ``outliers``, with what of the intervals doesn't push the means together."""
    shown = [verdict for verdict in verdicts if verdict.difference.mean is not None]
    least = 10.0 ** -(shown[0].measure.digits if shown else 2)  # of what is shown
    known = [verdict.difference for verdict in shown]
    means = [own.mean for own in known if own.mean is not None]
    halves = sorted(own.mean - own.low for own in known if own.mean is not None and own.low is not None)
    middle = halves[len(halves) // 2] if halves else 0.0
    most = reach([abs(value) for value in means], floor=5 * least, fine=500 * least if outliers else math.inf)
    inside = [value for value in means if abs(value) <= most] + [0.0]
    span = max(max(inside) - min(inside), 1.5 * middle, 10 * least)
    low = max(min([own.low for own in known if own.low is not None] + inside), min(inside) - span)
    high = min(max([own.high for own in known if own.high is not None] + inside), max(inside) + span)
    edge = 0.06 * (high - low) or 10 * least
    return low - edge, high + edge


def reach(sizes: Sequence[float], floor: float, fine: float = 0.0) -> float:
    """Return the largest size, unless it is an outlier: then four times the third quartile. Up to ``fine`` none is one."""
    ordered = sorted(sizes)
    if not ordered:
        return floor
    return max(floor, min(ordered[-1], max(fine, 4 * ordered[(3 * (len(ordered) - 1)) // 4])))


def legend(figure: Any, marks: Sequence[dict[str, Any]], title: str, columns: int) -> None:
    """Put a legend above ``figure``: a mark for each set of settings of matplotlib's Line2D."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **{"marker": "o", "ms": 5, "lw": 1.4, **mark}) for mark in marks]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=8, title=title, title_fontsize=8.5
    )  # fmt: skip
