"""Draw the pictures of an entry: the function with its derivative beside baselines, and its differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..activations import timm_maps
from ..activations.genotype import Genotype
from ..activations.plots import RIVALS, plot_functions
from ..comparison.report_plots import COLOURS, PALE, Line, draw_panel, legend, limits
from ..errors import RunError
from ..utils.figures import new_figure, save_figure
from ..zoo.entry import Batch, Contents, Metric
from . import claims
from .claims import found_at

_MOST_RANDOM = 12  # random cells drawn one by one at a place


def paths(contents: Contents, folder: Path) -> tuple[Path, Path]:
    """Return where the pictures are: (functions, effect).

    Args:
        contents: of the entry.
        folder: of the family.
    """
    return folder / f"{contents.name}.png", folder / f"{contents.name}_effect.png"


def draw(contents: Contents, folder: Path) -> list[Path]:
    """Draw both pictures, each whole or not at all.

    Args:
        contents: of the entry.
        folder: of the family.

    Raises:
        RunError: where the disk refuses.
    """
    functions, effect = paths(contents, folder)
    genotype = Genotype.from_dict(contents.genotype, derived=False)
    usual = dict.fromkeys(batch.usual for batch in contents.batches)
    beside = {name: _layer(name) for name in usual if name not in {rival.lower() for rival in RIVALS}}
    plot_functions({contents.name: genotype, **beside}, functions)
    return [functions, _effect(contents, effect)]


def _layer(name: str) -> Callable[[Tensor], Tensor]:
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
    """From top to bottom: the found function, the other searches, the baselines, the random cells."""
    here = [row for row in batch.metrics if (row.model, row.data) == place]
    own = found_at(batch, place)
    others = [row for row in here if row.kind == "found" and row is not own]
    random = [row for row in here if row.kind == "random"][:_MOST_RANDOM]
    return [*([own] if own else []), *others, *(row for row in here if row.kind == "baseline"), *random]


def _panel(axes: Any, contents: Contents, batch: Batch, place: tuple[str, str]) -> None:
    rows, lines = _rows(batch, place), []
    for i, row in enumerate(rows):
        y, own = len(rows) - 1 - i, row.activation == batch.label
        if own:
            axes.axhspan(y - 0.5, y + 0.5, color="#fbeceb", zorder=0, lw=0)
        if row.difference is None:
            axes.plot(0, y, "|", color="#222", ms=7, zorder=3)
            axes.text(0.02, y, "default", transform=axes.get_yaxis_transform(), fontsize=7.5, va="center", color="#555")
        name, alpha = contents.name if own else row.activation, 1.0 if own or row.kind == "baseline" else PALE
        lines.append(Line(name[:30], row.kind, claims.verdict(batch, row), bold=own, alpha=alpha))
    home = place == (batch.provenance.model, batch.provenance.data)
    title = f"{place[0]} on {place[1]}" + ("\nwhere the searches ran" if home else "")
    apart = next((row.difference.to for row in rows if row.difference), batch.usual)
    # random cells far off become arrows
    ends = limits((line.verdict for line in lines if line.verdict and line.kind != "random"), outliers=False)
    draw_panel(axes, lines, ends, title, f"difference to {apart}, {claims.of(batch).unit}", 8)


def _legend(picture: Any, contents: Contents) -> None:
    marks: list[dict[str, Any]] = [
        {"color": COLOURS["found"], "label": "this function"},
        {"color": COLOURS["found"], "alpha": PALE, "label": "the other searches"},
        {"color": COLOURS["baseline"], "label": "baselines"},
        {"color": COLOURS["random"], "alpha": PALE, "label": "random cells"},
    ]
    title = f"paired difference in {contents.batches[0].measure}, right is better; 95 % interval; an arrow: beyond the panel"
    legend(picture, marks, title, 4 if picture.get_figwidth() > 6 else 2)
