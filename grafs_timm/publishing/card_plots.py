"""The two pictures of an entry: the function with its derivative beside usual ones, and its differences at every place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..activations import timm_maps
from ..activations.formula import Genotype
from ..activations.plots import RIVALS, plot_functions
from ..comparison.report_plots import COLOURS
from ..errors import RunError
from ..utils.figures import new_figure, save_figure
from ..zoo.entry import Batch, Contents, Difference, Metric
from . import claims
from .claims import found_at

PALE = 0.4
_MOST_RANDOM = 12  # random cells drawn one by one at a place


def paths(contents: Contents, folder: Path) -> tuple[Path, Path]:
    """Where the pictures lie in the family's folder: (functions, effect)."""
    return folder / f"{contents.name}.png", folder / f"{contents.name}_effect.png"


def draw(contents: Contents, folder: Path) -> list[Path]:
    """Draw both into ``folder``, each whole or not at all. RunError where the disk refuses."""
    functions, effect = paths(contents, folder)
    genotype = Genotype.from_dict(contents.genotype, derived=False)
    usual = dict.fromkeys(batch.usual for batch in contents.batches)
    beside = {name: _usual(name) for name in usual if name not in {rival.lower() for rival in RIVALS}}
    plot_functions({contents.name: genotype, **beside}, functions)
    return [functions, _effect(contents, effect)]


def _usual(name: str) -> Callable[[Tensor], Tensor]:
    layer = timm_maps.layer(name)
    if layer is None:
        raise RunError(f"cannot draw {name}: timm has no such activation")
    module: Callable[[Tensor], Tensor] = layer()
    return module


def _effect(contents: Contents, path: Path) -> Path:
    """A panel a place, three in a row at most; further batches below the first."""
    panels = [(batch, place) for batch in contents.batches for place in batch.places]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    height = max(len(_rows(batch, place)) for batch, place in panels)
    picture = new_figure(figsize=(1.2 + 3.6 * columns, (0.23 * height + 1.0) * lines + 0.7))
    axes = picture.subplots(lines, columns, squeeze=False)
    for spare in axes.ravel()[len(panels) :]:
        spare.set_axis_off()
    for (batch, place), panel in zip(panels, axes.ravel(), strict=False):
        _panel(panel, contents, batch, place)
    _legend(picture, contents)
    return save_figure(picture, path)


def _rows(batch: Batch, place: tuple[str, str]) -> list[Metric]:
    """From top to bottom: the found function, the other searches there, the usual activations, the random cells."""
    here = [row for row in batch.metrics if (row.model, row.data) == place]
    own = found_at(batch, place)
    others = [row for row in here if row.kind == "found" and row is not own]
    random = [row for row in here if row.kind == "random"][:_MOST_RANDOM]
    return [*([own] if own else []), *others, *(row for row in here if row.kind == "baseline"), *random]


def _panel(axes: Any, contents: Contents, batch: Batch, place: tuple[str, str]) -> None:
    rows = _rows(batch, place)
    low, high = _limits(batch, place)
    axes.axvline(0, color="#222", lw=0.9, zorder=1)
    names = []
    for i, row in enumerate(rows):
        y, own = len(rows) - 1 - i, row.activation == batch.label
        if own:
            axes.axhspan(y - 0.5, y + 0.5, color="#fbeceb", zorder=0, lw=0)
        names.append(contents.name if own else row.activation)
        if row.difference is None:
            axes.text(low + 0.02 * (high - low), y, "usual", fontsize=7.5, va="center", color="#555")
            axes.plot(0, y, "|", color="#222", ms=7, zorder=3)
        else:
            strength = 1.0 if own or row.kind == "baseline" else PALE
            _interval(axes, row.difference, y, low, high, {"color": COLOURS[row.kind], "alpha": strength})
    axes.set_yticks(range(len(rows) - 1, -1, -1), [name[:30] for name in names], fontsize=7.5)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(COLOURS[row.kind])
        tick.set_fontweight("bold" if row.activation == batch.label else "normal")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    home = place == (batch.provenance.model, batch.provenance.data)
    axes.set_title(f"{place[0]} on {place[1]}" + ("\nwhere the searches ran" if home else ""), fontsize=8.5)
    apart = next((row.difference.to for row in rows if row.difference), batch.usual)
    axes.set_xlabel(f"{claims.of(batch).unit} beside {apart}", fontsize=8)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _interval(axes: Any, own: Difference, y: int, low: float, high: float, ink: dict[str, Any]) -> None:
    """One mean with its interval; what lies outside the panel ends in an arrow head at its edge."""
    inset = 0.015 * (high - low)
    if own.low is not None and own.high is not None and own.low < high and own.high > low:
        ends = max(own.low, low + inset), min(own.high, high - inset)
        axes.plot(ends, [y, y], lw=1.5, zorder=2, solid_capstyle="butt", **ink)
        for end, outside, mark in ((ends[0], own.low < low, "<"), (ends[1], own.high > high, ">")):
            axes.plot(end, y, mark if outside else "|", ms=4.5, zorder=2, **ink)
    if low < own.mean < high:
        axes.plot(own.mean, y, "o", ms=4.5, zorder=3, mfc=ink["color"] if own.low is not None else "white", **ink)
        return
    left = own.mean <= low
    axes.plot(low + inset if left else high - inset, y, "<" if left else ">", ms=6, zorder=3, **ink)
    at = low + 4 * inset if left else high - 4 * inset
    text = f"{own.mean:+.2g}".replace("-", "−")
    axes.text(at, y, text, ha="left" if left else "right", va="center", fontsize=7, color=ink["color"])


def _limits(batch: Batch, place: tuple[str, str]) -> tuple[float, float]:
    """A panel's ends: 0 and the means of found and usual activations; random cells far off become arrows."""
    near = [row.difference for row in _rows(batch, place) if row.difference and row.kind != "random"]
    means = [0.0, *(own.mean for own in near)]
    halves = sorted(own.mean - own.low for own in near if own.low is not None)
    room = max(1.5 * halves[len(halves) // 2] if halves else 0.0, 0.1 * (max(means) - min(means)), 0.1)
    ends: Sequence[float] = [value for own in near if own.low is not None for value in (own.low, own.high or 0.0)]
    low = max(min([*ends, *means]), min(means) - room)
    high = min(max([*ends, *means]), max(means) + room)
    edge = 0.06 * (high - low) or 0.1
    return low - edge, high + edge


def _legend(picture: Any, contents: Contents) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=COLOURS["found"], marker="o", ms=5, lw=1.5, label="this function"),
        Line2D([], [], color=COLOURS["found"], marker="o", ms=5, lw=1.5, alpha=PALE, label="the other searches"),
        Line2D([], [], color=COLOURS["baseline"], marker="o", ms=5, lw=1.5, label="usual activations"),
        Line2D([], [], color=COLOURS["random"], marker="o", ms=5, lw=1.5, alpha=PALE, label="random cells"),
    ]
    title = f"paired difference in {contents.batches[0].measure}, right is better; 95 % interval; an arrow: beyond the panel"
    picture.legend(
        handles=marks, loc="outside upper center", ncols=4 if picture.get_figwidth() > 6 else 2, frameon=False,
        fontsize=8, title=title, title_fontsize=8.5,
    )  # fmt: skip
