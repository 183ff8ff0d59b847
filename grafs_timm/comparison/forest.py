"""The panels of forest plots: an activation a line, its paired difference with its interval. Reports and cards draw them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..activations.named import Kind
from .verdict import Verdict

COLOURS: dict[Kind, str] = {"found": "#c0392b", "random": "#2c6fbb", "baseline": "#5d6770"}
PALE = 0.4
_INSET = 0.012  # of a panel's width: the distance of an arrow head from its edge


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
